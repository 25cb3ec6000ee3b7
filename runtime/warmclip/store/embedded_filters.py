"""Qdrant's filters as JSON, for the embedded engine."""

from typing import Any

import qdrant_edge as edge

from warmclip.store.filters import Condition

_CLAUSES = ("must", "must_not", "should")


def to_filter(only: Condition) -> edge.Filter:
    """The engine's filter for one in JSON."""
    unknown = only.keys() - set(_CLAUSES)
    if unknown:
        raise ValueError(f"no filter that the embedded engine is asked for: {only}")
    must, must_not, should = (
        [_condition(it) for it in only[name]] if name in only else None for name in _CLAUSES
    )
    return edge.Filter(must=must, must_not=must_not, should=should)


def _condition(wanted: Condition) -> Any:
    match wanted:
        case {"key": key, "match": {"any": values}}:
            return edge.FieldCondition(key=key, match=edge.MatchAny(any=values))
        case {"key": key, "match": {"value": value}}:
            return edge.FieldCondition(key=key, match=edge.MatchValue(value=value))
        case {"key": key, "range": span}:
            return edge.FieldCondition(key=key, range=edge.RangeFloat(**span))
        case {"has_id": ids}:
            return edge.HasIdCondition(point_ids=set(ids))
        case {"is_empty": {"key": key}}:
            return edge.IsEmptyCondition(key=key)
        case _:
            return to_filter(wanted)
