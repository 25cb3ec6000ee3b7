"""Which points are meant, in the words of Qdrant's filters."""

from collections.abc import Sequence

from qdrant_client import models

from warmclip.store.filter import Filter
from warmclip.store.folder_keys import FOLDERS_FIELD, key_of

INDEXED = {
    "sha256": models.PayloadSchemaType.KEYWORD,
    "canary": models.PayloadSchemaType.KEYWORD,
    FOLDERS_FIELD: models.PayloadSchemaType.KEYWORD,
    "mtime_ns": models.PayloadSchemaType.INTEGER,
}
"""The fields that filters look at, which a server indexes."""

# Points that have the field at all: it is taken away when their vectors are proven.
UNVERIFIED = models.Filter(
    must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="canary"))]
)

WITHOUT_FOLDERS = models.Filter(
    must=[models.IsEmptyCondition(is_empty=models.PayloadField(key=FOLDERS_FIELD))]
)


def with_sha256(digests: Sequence[str]) -> models.Filter:
    """Those with one of these contents."""
    match = models.MatchAny(any=list(digests))
    return models.Filter(must=[models.FieldCondition(key="sha256", match=match)])


def waiting_for(canary: str, ids: Sequence[str]) -> models.Filter:
    """Those of these that wait for this canary."""
    waiting = models.FieldCondition(key="canary", match=models.MatchValue(value=canary))
    return models.Filter(must=[models.HasIdCondition(has_id=list(ids)), waiting])


def passing(only: Filter) -> models.Filter:
    """Those that a search may find."""
    must: list[models.Condition] = []
    if only.folder is not None:
        match = models.MatchValue(value=key_of(only.folder))
        must.append(models.FieldCondition(key=FOLDERS_FIELD, match=match))
    if only.since is not None or only.until is not None:
        # Qdrant compares as float64: that has the first nanosecond of a day exactly.
        span = models.Range(gte=only.first_ns, lt=only.end_ns)
        must.append(models.FieldCondition(key="mtime_ns", range=span))
    return models.Filter(must=must)
