"""Which pictures a search may find, as people say it."""

import os
from datetime import date
from typing import Any

import pytest

from warmclip.errors import SearchRefused
from warmclip.store.filter import Filter, check_score, count_hits
from warmclip.store.folder_keys import keys_above

DAY_NS = 24 * 3600 * 10**9


def test_days() -> None:
    """A day begins at its midnight in UTC; the last one belongs to the span whole."""
    only = Filter.of(None, "1970-01-02", "1970-01-03")
    assert (only.first_ns, only.end_ns) == (DAY_NS, 3 * DAY_NS)
    assert Filter.of(None, "1969-12-31", None).first_ns == -DAY_NS
    assert Filter.of(None, None, "9999-12-31").end_ns is not None


def test_filter_in_a_job() -> None:
    """It comes out of a job as it went in."""
    only = Filter(folder=os.fsdecode(b"/caf\xe9"), since=date(2026, 1, 1), until=date(2026, 1, 1))
    assert Filter.of(**only.to_dict()) == only
    assert Filter.of(**Filter().to_dict()) == Filter()
    assert Filter.of(**Filter(by_file_date=True).to_dict()) == Filter(by_file_date=True) != Filter()
    assert (
        "by_file_date" not in Filter().to_dict()
    )  # workers of a former version know no such field


@pytest.mark.parametrize(
    "day", ["yesterday", "2026-02-30", "2026-1-1", "20260101", "2026-W01-1", 7]
)
def test_what_is_no_day(day: object) -> None:
    """The message names the value and how a day is written."""
    for since, until, name in ((day, None, "since"), (None, day, "until")):
        with pytest.raises(SearchRefused, match=rf"{name}={day!r}.*write"):
            Filter.of(None, since, until)  # type: ignore[arg-type]  # a job may hold anything


def test_days_in_the_wrong_order() -> None:
    """No picture can be of that time: somebody has mixed them up."""
    with pytest.raises(SearchRefused, match=r"since=2026-01-02 is after until=2026-01-01"):
        Filter.of(None, "2026-01-02", "2026-01-01")


def test_keys_of_the_folders_above_a_file() -> None:
    """All of them; those of names that are not UTF-8 are like no others."""
    assert keys_above("/a/b/c.jpg") == ["/a/b", "/a", "/"]
    assert keys_above("/c.jpg") == ["/"]
    strange, escaped = keys_above(os.fsdecode(b"/\xe9/c.jpg"))[0], keys_above("/\\xe9/c.jpg")[0]
    assert strange != escaped
    assert strange.isascii()


@pytest.mark.parametrize(
    "score",
    [float("nan"), 1.01, -2, float("inf"), True, "0.5", [0.5], 10**400, -(10**5000), "5" * 9999],
    ids=range(10),  # pytest cannot write all of them
)
def test_least_score_that_is_none(score: Any) -> None:
    """A cosine similarity is a number from -1 to 1."""
    with pytest.raises(SearchRefused, match=r"^min_score=.{1,70}: use a number from -1 to 1"):
        check_score(score)


@pytest.mark.parametrize("score", [None, -1, 0, 0.25, 1])
def test_least_score(score: float | None) -> None:
    """Whatever similarities there are may be asked for, or none."""
    assert check_score(score) == score


@pytest.mark.parametrize(
    ("limit", "offset", "hits"), [(1, 0, 1), (3, 5, 8), (5000, 0, 5000), (1, 4999, 5000)]
)
def test_hits_to_find(limit: int, offset: int, hits: int) -> None:
    """Those that are asked for, and those that are left out before them: five thousand at most."""
    assert count_hits(limit, offset) == hits


@pytest.mark.parametrize(
    ("limit", "offset", "told"),
    [
        *((limit, 0, "whole numbers") for limit in (0, -1, True, 1.0, "1", None)),
        *((5, offset, "whole numbers") for offset in (-1, True, 0.0, "0", None)),
        *((limit, offset, "together") for limit, offset in [(5001, 0), (1, 5000), (4999, 2)]),
        (10**6, 10**6, "at most 5000 hits"),
    ],
)
def test_numbers_of_hits_that_are_none(limit: Any, offset: Any, told: str) -> None:
    """Neither a page before the first nor more than five thousand hits can be asked for."""
    with pytest.raises(SearchRefused, match=told):
        count_hits(limit, offset)
