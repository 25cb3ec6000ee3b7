"""The questions to an embedded store: verbs of ``Engine`` that change nothing, and their answers.

A question names its verb and the arguments, as JSON can carry them.
"""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from warmclip.errors import StoreDamaged, StoreError, WarmclipError, revive
from warmclip.inference.arrays import Vector
from warmclip.store.engine import Record

if TYPE_CHECKING:
    from warmclip.store.embedded import EmbeddedEngine

PROTOCOL = 1
"""The version of questions and answers."""


def answer(engine: "EmbeddedEngine", question: Any) -> Any:
    """What an engine has to say to a question, as JSON can carry it.

    Raises:
        ValueError: it is no question of this version.
        StoreError: as the verb raises it.
    """
    try:
        if question["protocol"] == PROTOCOL:
            return _answer(engine, question)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"this is no question of version {PROTOCOL}: {exc!r}") from exc
    raise ValueError(f"it is asked in version {question['protocol']!r}, and knows {PROTOCOL}")


def _answer(engine: "EmbeddedEngine", asked: Mapping[str, Any]) -> Any:
    match asked["verb"]:
        case "list_collections":
            return engine.list_collections()
        case "read_aliases":
            return engine.read_aliases()
        case "describe":
            return engine.describe(asked["collection"])
        case "count":
            return engine.count(asked["collection"], asked["only"])
        case "retrieve":
            found = engine.retrieve(
                asked["collection"], asked["ids"], with_vectors=asked["with_vectors"]
            )
            return [from_record(it) for it in found]
        case "read_page":
            page, following = engine.read_page(
                asked["collection"],
                asked["only"],
                asked["offset"],
                with_vectors=asked["with_vectors"],
            )
            return {"records": [from_record(it) for it in page], "following": following}
        case "query":
            vector = to_vector(asked["vector"])
            hits = engine.query(asked["collection"], vector, asked["limit"], asked["only"])
            return [from_record(it) for it in hits]
        case verb:
            raise ValueError(f"there is no question {verb!r}")


def from_record(record: Record) -> dict[str, Any]:
    """A record as JSON can carry it; its vector is base64 of float32, little-endian."""
    raw: dict[str, Any] = {"id": record.id, "payload": dict(record.payload), "score": record.score}
    if record.vector is not None:
        raw["vector"] = from_vector(record.vector)
    return raw


def to_record(raw: Mapping[str, Any]) -> Record:
    """The inverse of ``from_record``."""
    vector = to_vector(raw["vector"]) if "vector" in raw else None
    return Record(id=raw["id"], payload=raw["payload"], vector=vector, score=raw["score"])


def from_vector(vector: Vector) -> str:
    """A vector as JSON can carry it."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def to_vector(raw: str) -> Vector:
    """The inverse of ``from_vector``: shape (dim,)."""
    return np.frombuffer(base64.b64decode(raw, validate=True), "<f4").astype(np.float32)


def from_error(exc: StoreError) -> dict[str, str]:
    """An error as JSON can carry it."""
    collection = exc.collection if isinstance(exc, StoreDamaged) else ""
    return {"kind": type(exc).__name__, "message": str(exc), "collection": collection}


def to_error(raw: Mapping[str, str]) -> WarmclipError:
    """The inverse of ``from_error``."""
    error = revive(raw["kind"], raw["message"])
    if isinstance(error, StoreDamaged):
        error.collection = raw["collection"]
    return error
