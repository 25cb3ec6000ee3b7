"""The store's verbs over Qdrant's own, whether a server or the embedded engine carries them out."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from warmclip.errors import SourceChanged, StoreError
from warmclip.inference.arrays import Vector
from warmclip.settings import without_password
from warmclip.store.aliases import Aliases
from warmclip.store.engine import Engine, Record
from warmclip.store.filter import EVERYTHING, Filter
from warmclip.store.filters import (
    UNVERIFIED,
    Condition,
    passing,
    unchanged,
    waiting_for,
    with_sha256,
)
from warmclip.store.payload import from_json, to_json
from warmclip.store.protocol import Generation, Hit, Point, Space, collection_of

WRITE_BATCH = 64
"""Points in one request that writes: what Qdrant's documentation advises as the least."""

READ_BATCH = 256
"""Points in one request that reads."""

T = TypeVar("T")


class QdrantStore:
    """A ``VectorStore`` in Qdrant. Make one with ``embedded``, ``server`` or ``open_store``.

    It may be used from several threads: the embedded store serves them one at a time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._aliases = Aliases(engine)

    @classmethod
    def embedded(cls, folder: Path, lock: int | None = None) -> Self:
        """Open or make a store in a folder, which this process then owns until ``close``.

        Args:
            folder: of mode 0700.
            lock: its lock, from ``lock_store``, if it is taken already.

        Raises:
            StoreHeld: another process owns it.
            StoreError: the folder is not ours alone, or cannot be used.
        """
        from warmclip.store.embedded import EmbeddedEngine

        return cls(EmbeddedEngine(folder, lock))

    @classmethod
    def server(
        cls,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: int = 30,
        patience_s: float = 60.0,
        first_patience_s: float = 5.0,
    ) -> Self:
        """Use a Qdrant server. Nothing is sent yet.

        Args:
            url: its address; user and password in it are sent as basic authentication.
            api_key: Qdrant's own key.
            timeout_s: for one answer.
            patience_s: how long a call is repeated while the server is away, overloaded or slow.
            first_patience_s: the same until it has answered once: a server that is not there at
                all should be said soon.
        """
        from warmclip.store.calls import ServerCalls
        from warmclip.store.server import ServerEngine

        calls = ServerCalls(
            without_password(url), patience_s=patience_s, first_patience_s=first_patience_s
        )
        return cls(ServerEngine(url, api_key, calls, timeout_s=timeout_s))

    def list_names(self) -> tuple[str, ...]:
        """See ``VectorStore.list_names``."""
        return self._aliases.names()

    def list_generations(self, name: str) -> tuple[Generation, ...]:
        """See ``VectorStore.list_generations``."""
        in_use = self._aliases.require(name)
        return tuple(
            Generation(
                collection=collection,
                fingerprint=collection.removeprefix(f"{name}__"),
                points=self._engine.count(collection),
                in_use=collection == in_use,
            )
            for collection in (in_use, *self._aliases.others(name))
        )

    def ensure_collection(self, name: str, space: Space) -> None:
        """See ``VectorStore.ensure_collection``."""
        self._aliases.ensure(name, space)

    def create_collection(self, name: str, space: Space) -> str:
        """See ``VectorStore.create_collection``."""
        return self._aliases.create(name, space)

    def clear_collection(self, collection: str) -> None:
        """See ``VectorStore.clear_collection``."""
        self._aliases.check_unused(collection)
        ids = (record.id for record in self._engine.scroll(collection))
        for batch in batches(ids, READ_BATCH):
            self._engine.delete(collection, {"must": [{"has_id": batch}]})

    def delete_collection(self, collection: str) -> None:
        """See ``VectorStore.delete_collection``."""
        self._aliases.check_unused(collection)
        self._engine.delete_collection(collection)

    def revision(self, name: str) -> str:
        """See ``VectorStore.revision``."""
        collection = self._aliases.require(name)
        total = 0
        for record in self._engine.scroll(collection):
            total ^= int.from_bytes(_digest_of(record), "big")
        return f"{collection}:{total:032x}"

    def switch_alias(
        self, name: str, space: Space, *, if_revision: str | None = None
    ) -> str | None:
        """See ``VectorStore.switch_alias``."""
        if if_revision is not None and self.revision(name) != if_revision:
            raise SourceChanged(
                f"collection {name!r} was written to meanwhile, so it does not lead to the new "
                "vectors yet; run the same command again to carry over what has changed"
            )
        return self._aliases.switch(name, space)

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.upsert``."""
        for fingerprint, group in itertools.groupby(points, lambda it: it.payload.fingerprint):
            collection = collection_of(name, fingerprint)
            for batch in batches(group, WRITE_BATCH):
                self._engine.upsert(collection, [_record(point) for point in batch])

    def delete_unchanged(self, name: str, points: Sequence[Point]) -> frozenset[str]:
        """See ``VectorStore.delete_unchanged``."""
        left: set[str] = set()
        for fingerprint, group in itertools.groupby(points, lambda it: it.payload.fingerprint):
            collection = collection_of(name, fingerprint)
            for batch in batches(group, WRITE_BATCH):
                self._engine.delete(collection, unchanged(batch))
                found = self._engine.retrieve(collection, [point.id for point in batch])
                left |= {record.id for record in found}
        return frozenset(left)

    def mark_verified(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.mark_verified``."""
        by_canary = sorted(points, key=lambda it: (it.payload.fingerprint, it.payload.canary))
        for (fingerprint, canary), group in itertools.groupby(
            by_canary, lambda it: (it.payload.fingerprint, it.payload.canary)
        ):
            collection = collection_of(name, fingerprint)
            for batch in batches((point.id for point in group), READ_BATCH):
                self._engine.delete_payload(collection, "canary", waiting_for(canary, batch))

    def search(
        self, name: str, space: Space, vector: Vector, limit: int, only: Filter = EVERYTHING
    ) -> list[Hit]:
        """See ``VectorStore.search``."""
        collection = self._aliases.require_space(name, space)
        return [
            Hit(score=it.score, id=it.id, payload=from_json(it.payload))
            for it in self._engine.query(collection, vector, limit, passing(only))
        ]

    def scroll(
        self,
        name: str,
        *,
        ids: Iterable[str] | None = None,
        sha256: Iterable[str] | None = None,
        unverified: bool = False,
        only: Filter = EVERYTHING,
        with_vectors: bool = False,
    ) -> Iterator[Point]:
        """See ``VectorStore.scroll``."""
        collection = self._aliases.require(name)
        yield from map(
            _point,
            self._read(
                collection, ids, sha256, UNVERIFIED if unverified else passing(only), with_vectors
            ),
        )

    def close(self) -> None:
        """See ``VectorStore.close``."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(
        self,
        collection: str,
        ids: Iterable[str] | None,
        sha256: Iterable[str] | None,
        chosen: Condition | None,
        with_vectors: bool,
    ) -> Iterator[Record]:
        engine = self._engine
        if ids is not None:
            for batch in batches(ids, READ_BATCH):
                yield from engine.retrieve(collection, batch, with_vectors=with_vectors)
        elif sha256 is not None:
            for batch in batches(sha256, READ_BATCH):
                yield from engine.scroll(collection, with_sha256(batch), with_vectors=with_vectors)
        else:
            yield from engine.scroll(collection, chosen, with_vectors=with_vectors)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut items into lists of at most ``size``, as itertools.batched does from Python 3.12 on."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _record(point: Point) -> Record:
    if point.vector is None:
        raise StoreError(f"the point of {point.payload.path!r} has no vector to be stored")
    return Record(id=point.id, payload=to_json(point.payload), vector=point.vector)


def _point(record: Record) -> Point:
    return Point(id=record.id, vector=record.vector, payload=from_json(record.payload))


def _digest_of(record: Record) -> bytes:
    """16 bytes for what a picture is: not whether its vector is proven."""
    told: Mapping[str, Any] = record.payload
    fields = (told.get("path"), told.get("sha256"), told.get("mtime_ns"), told.get("indexed_at"))
    return hashlib.blake2b(repr((record.id, *fields)).encode(), digest_size=16).digest()
