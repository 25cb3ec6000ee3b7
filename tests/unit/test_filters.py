"""Filters in Qdrant's terms; that they mean there what is promised, the contract suite shows."""

from dataclasses import replace
from datetime import date

from warmclip.store.filter import EVERYTHING, Filter
from warmclip.store.filters import (
    FOREIGN,
    INDEXED,
    WITHOUT_FOLDERS,
    passing,
    passing_without_folders,
    without_foreign,
)

DAY_NS = 24 * 3600 * 10**9
SPAN = {"gte": DAY_NS, "lt": 2 * DAY_NS}
DAY = Filter(since=date(1970, 1, 2), until=date(1970, 1, 2))
BY_FILE = {"key": "mtime_ns", "range": SPAN}
BY_DATE = {
    "should": [
        {"key": "taken_ns", "range": SPAN},
        {"must": [{"is_empty": {"key": "taken_ns"}}, BY_FILE]},
    ]
}
BELOW = {"key": "folders", "match": {"value": "/a"}}


def test_conditions() -> None:
    """Each part of a filter is a condition of its own, on fields that have an index."""
    assert passing(EVERYTHING) is None
    assert passing(Filter(folder="/a")) == {"must": [BELOW]}
    assert passing(DAY) == {"must": [BY_DATE]}
    assert passing(replace(DAY, folder="/a")) == {"must": [BELOW, BY_DATE]}
    assert passing(replace(DAY, by_file_date=True)) == {"must": [BY_FILE]}
    assert passing(Filter(by_file_date=True)) is None
    open_ended = {"gte": DAY_NS, "lt": None}
    assert passing(Filter(since=date(1970, 1, 2), by_file_date=True)) == {
        "must": [{"key": "mtime_ns", "range": open_ended}]
    }
    assert {"folders", "taken_ns", "mtime_ns", "sha256", "canary"} <= set(INDEXED)


def test_without_folders() -> None:
    """The days still count, and the points of others never do."""
    nowhere, foreign = WITHOUT_FOLDERS["must"], FOREIGN["must"]
    assert passing_without_folders(Filter(folder="/a")) == WITHOUT_FOLDERS
    assert passing_without_folders(replace(DAY, folder="/a")) == {
        "must": [*nowhere, BY_DATE],
        "must_not": foreign,
    }
    assert without_foreign(None) == {"must_not": foreign}
    assert without_foreign({"must": [BELOW]}) == {"must": [BELOW], "must_not": foreign}
