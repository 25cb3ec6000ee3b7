"""What the owner of an embedded store is asked: verbs of ``Engine``, and their answers.

A question names its verb and the arguments, as JSON can carry them. Every verb may be repeated, so
that whoever got no answer asks again. Those are left out that stop the owner for long.
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
            verb, collection = question["verb"], question.get("collection", "-")
            # It becomes the name of a folder.
            if not isinstance(collection, str) or "/" in collection or collection[:1] in ("", "."):
                raise ValueError(f"no collection is named {collection!r}")
            return _answer(engine, verb, collection, question)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"this is no question of version {PROTOCOL}: {exc!r}") from exc
    raise ValueError(f"it is asked in version {question['protocol']!r}, and knows {PROTOCOL}")


def _answer(engine: "EmbeddedEngine", verb: str, collection: str, asked: Mapping[str, Any]) -> Any:
    match verb:
        case "list_collections":
            return engine.list_collections()
        case "read_aliases":
            return engine.read_aliases()
        case "set_alias":
            return engine.set_alias(asked["name"], collection, former=asked["former"])
        case "delete_alias":
            return engine.delete_alias(asked["name"])
        case "create_collection":
            return engine.create_collection(collection, asked["dim"])
        case "prepare_collection":
            return engine.prepare_collection(collection, asked["dim"])
        case "delete_collection":
            return engine.delete_collection(collection)
        case "upsert":
            return engine.upsert(collection, [to_record(it) for it in asked["records"]])
        case "set_payload":
            return engine.set_payload(collection, asked["fields"], asked["ids"])
        case "delete":
            return engine.delete(collection, asked["only"])
        case "delete_payload":
            return engine.delete_payload(collection, asked["field"], asked["only"])
        case "describe":
            return engine.describe(collection)
        case "count":
            return engine.count(collection, asked["only"])
        case "retrieve":
            found = engine.retrieve(collection, asked["ids"], with_vectors=asked["with_vectors"])
            return [from_record(it) for it in found]
        case "read_page":
            page, following = engine.read_page(
                collection, asked["only"], asked["offset"], with_vectors=asked["with_vectors"]
            )
            return {"records": [from_record(it) for it in page], "following": following}
        case "query":
            vector = to_vector(asked["vector"])
            hits = engine.query(collection, vector, asked["limit"], asked["only"])
            return [from_record(it) for it in hits]
        case _:
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
