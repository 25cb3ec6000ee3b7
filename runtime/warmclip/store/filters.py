"""Which points are meant, in the words of Qdrant's filters: JSON, as its API documents it.

https://qdrant.tech/documentation/concepts/filtering/
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from warmclip.store.filter import Filter
from warmclip.store.folder_keys import FOLDERS_FIELD, key_of
from warmclip.store.protocol import Point

Condition: TypeAlias = Mapping[str, Any]
"""A filter as JSON: lists of conditions under ``must``, ``must_not`` and ``should``."""

TAKEN_FIELD = "taken_ns"
"""Beside ``taken_at``, where a picture tells when it was taken; else its file's date counts."""

INDEXED = {
    "sha256": "keyword",
    "canary": "keyword",
    FOLDERS_FIELD: "keyword",
    "indexed_at": "keyword",
    "mtime_ns": "integer",
    TAKEN_FIELD: "integer",
}
"""The payload fields that filters look at, and the kind of index that each has."""

# Points that have the field at all: it is taken away when their vectors are proven.
UNVERIFIED: Condition = {"must_not": [{"is_empty": {"key": "canary"}}]}

# Of ours: a point that others wrote has no folders to be found by.
WITHOUT_FOLDERS: Condition = {
    "must": [{"is_empty": {"key": FOLDERS_FIELD}}],
    "must_not": [{"is_empty": {"key": "sha256"}}],
}

FOREIGN: Condition = {"must": [{"is_empty": {"key": "sha256"}}]}
"""Points that warmclip did not write."""


def with_sha256(digests: Sequence[str]) -> Condition:
    """Those with one of these contents."""
    return {"must": [{"key": "sha256", "match": {"any": list(digests)}}]}


def waiting_for(canary: str, ids: Sequence[str]) -> Condition:
    """Those of these that wait for this canary."""
    return {"must": [{"has_id": list(ids)}, {"key": "canary", "match": {"value": canary}}]}


def unchanged(points: Sequence[Point]) -> Condition:
    """Those of these that are as they were read."""
    return {
        "should": [
            {
                "must": [
                    {"has_id": [point.id]},
                    {"key": "sha256", "match": {"value": point.payload.sha256}},
                    {"key": "mtime_ns", "match": {"value": point.payload.mtime_ns}},
                    {"key": "indexed_at", "match": {"value": point.payload.indexed_at}},
                ]
            }
            for point in points
        ]
    }


def passing(only: Filter) -> Condition | None:
    """Those that pass a search's filter; None: all."""
    must: list[Condition] = []
    if only.folder is not None:
        must.append({"key": FOLDERS_FIELD, "match": {"value": key_of(only.folder)}})
    if only.since is not None or only.until is not None:
        # Qdrant compares as float64: that has the first nanosecond of a day exactly.
        span = {"gte": only.first_ns, "lt": only.end_ns}
        by_file = {"key": "mtime_ns", "range": span}
        if only.by_file_date:
            must.append(by_file)
        else:
            not_told: Condition = {"must": [{"is_empty": {"key": TAKEN_FIELD}}, by_file]}
            must.append({"should": [{"key": TAKEN_FIELD, "range": span}, not_told]})
    return {"must": must} if must else None


def passing_without_folders(only: Filter) -> Condition:
    """Those that may pass a filter's folder, and have no folders to be found by."""
    times = passing(replace(only, folder=None)) or {"must": []}
    return dict(WITHOUT_FOLDERS) | {"must": [*WITHOUT_FOLDERS["must"], *times["must"]]}


def without_foreign(only: Condition | None) -> Condition:
    """Those of a filter that warmclip wrote."""
    return dict(only or {}) | {"must_not": FOREIGN["must"]}
