"""Qdrant, embedded or as a server, behind the store's contract.

Only this module and what it stands on (``aliases``, ``completion``, ``conditions``, ``records``,
``sqlite``, ``transport``) know qdrant_client. Everything written goes to the collection of its own
fingerprint, never through the alias, so that a switch in between mixes nothing.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from qdrant_client import QdrantClient, models

from warmclip.errors import StoreError
from warmclip.inference.arrays import Vector
from warmclip.settings import Settings, without_password
from warmclip.store.aliases import Aliases, collection_of
from warmclip.store.backfill import Backfill
from warmclip.store.calls import Calls, EmbeddedCalls, ServerCalls
from warmclip.store.embedded_index import EmbeddedIndex, IndexEntry
from warmclip.store.filter import EVERYTHING, Filter
from warmclip.store.filters import INDEXED, UNVERIFIED, passing, waiting_for, with_sha256
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.payload import from_json, to_json
from warmclip.store.protocol import Generation, Hit, Payload, Point, Space
from warmclip.store.reads import READ_BATCH, CollectionReader
from warmclip.store.sqlite import write_ahead

_WRITE_BATCH = 64  # points in one request: what Qdrant's documentation advises as the least
_REQUEST_TIMEOUT_S = 30

T = TypeVar("T")


def open_store(settings: Settings, owner: int | None = None) -> "QdrantStore":
    """The store that the settings name: a server's, or the embedded one under ``home``.

    Args:
        settings: the address, or the home.
        owner: the embedded store's lock, from ``own_store``; without it, it is taken here.
    """
    if settings.qdrant_url is not None:
        return QdrantStore.server(settings.qdrant_url, settings.qdrant_api_key)
    return QdrantStore.embedded(settings.embedded_store, owner)


class QdrantStore:
    """A ``VectorStore`` in Qdrant. Make one with ``embedded``, ``server`` or ``open_store``.

    It may be used from several threads: the embedded store serves them one at a time.
    """

    def __init__(self, client: QdrantClient, transport: Calls, *, is_embedded: bool) -> None:
        self._client = client
        self._transport = transport
        self._is_embedded = is_embedded
        self._aliases = Aliases(client, transport, self._prepare)
        self._holdings = EmbeddedIndex(self._read_all)  # asked only where there is no index
        self._records = CollectionReader(client, transport, is_embedded=is_embedded)
        self._completion = Backfill(client, transport, self._records, self._prepare)

    @classmethod
    def embedded(cls, folder: Path, owner: int | None = None) -> Self:
        """Open or make a store in a folder, which this process then owns until ``close``.

        Args:
            folder: of mode 0700.
            owner: its lock, from ``own_store``, if it is taken already.

        Raises:
            StoreHeld: another process owns it.
            StoreError: the folder is not ours alone, or cannot be used.
        """
        transport = EmbeddedCalls(folder, owner)
        try:
            # sqlite's own thread check would refuse on macOS what our lock makes safe.
            client = transport(
                lambda: QdrantClient(path=str(folder), force_disable_check_same_thread=True)
            )
            store = cls(client, transport, is_embedded=True)
            for it in transport(client.get_collections).collections:
                store._prepare(it.name)
        except StoreError:
            transport.close()
            raise
        return store

    @classmethod
    def server(
        cls,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: int = _REQUEST_TIMEOUT_S,
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
        parts = urlsplit(url)
        basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        client = QdrantClient(
            url=url,
            api_key=api_key,
            timeout=timeout_s,
            prefer_grpc=False,
            # Both keep httpx and a version check from looking up the system's proxies, which
            # on macOS is what kills forked processes.
            trust_env=False,
            check_compatibility=False,
            auth=basic,
        )
        transport = ServerCalls(
            without_password(url), patience_s=patience_s, first_patience_s=first_patience_s
        )
        return cls(client, transport, is_embedded=False)

    def ensure(self, name: str, space: Space) -> None:
        """See ``VectorStore.ensure``."""
        self._aliases.ensure(name, space)

    def stage(self, name: str, space: Space) -> str:
        """See ``VectorStore.stage``."""
        return self._aliases.stage(name, space)

    def switch(self, name: str, space: Space) -> str | None:
        """See ``VectorStore.switch``."""
        return self._aliases.switch(name, space)

    def generations(self, name: str) -> tuple[Generation, ...]:
        """See ``VectorStore.generations``."""
        in_use = self._aliases.require(name)
        return tuple(
            Generation(
                collection=collection,
                fingerprint=collection.removeprefix(f"{name}__"),
                points=self._count(collection),
                in_use=collection == in_use,
            )
            for collection in (in_use, *self._aliases.beside(name))
        )

    def drop(self, collection: str) -> None:
        """See ``VectorStore.drop``."""
        self._aliases.drop(collection)
        self._holdings.drop(collection)

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.upsert``."""
        for fingerprint, group in itertools.groupby(points, lambda it: it.payload.fingerprint):
            collection = collection_of(name, fingerprint)
            for batch in _batches(group, _WRITE_BATCH):
                self._write(collection, batch)

    def search(
        self, name: str, space: Space, vector: Vector, limit: int, only: Filter = EVERYTHING
    ) -> list[Hit]:
        """See ``VectorStore.search``."""
        collection = self._aliases.require_space(name, space)
        if only == EVERYTHING:
            return _hits(self._records.nearest(collection, vector, limit))
        if self._is_embedded:
            return self._search_held(collection, vector, limit, only)
        if only.folder is not None:
            self._completion.ensure(collection)
        return _hits(self._records.nearest(collection, vector, limit, chosen=passing(only)))

    def scroll(
        self,
        name: str,
        *,
        ids: Iterable[str] | None = None,
        sha256: Iterable[str] | None = None,
        unverified: bool = False,
        with_vectors: bool = False,
    ) -> Iterator[Point]:
        """See ``VectorStore.scroll``."""
        collection = self._aliases.require(name)
        if ids is not None:
            for batch in _batches(ids, READ_BATCH):
                yield from map(
                    _point, self._records.retrieve(collection, batch, with_vectors=with_vectors)
                )
        elif sha256 is not None:
            for batch in _batches(sha256, READ_BATCH):
                yield from map(_point, self._with_digests(collection, batch, with_vectors))
        else:
            chosen = UNVERIFIED if unverified else None
            yield from map(
                _point, self._records.scroll(collection, chosen, with_vectors=with_vectors)
            )

    def mark_verified(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.mark_verified``."""
        by_canary = sorted(points, key=lambda it: (it.payload.fingerprint, it.payload.canary))
        for (fingerprint, canary), group in itertools.groupby(
            by_canary, lambda it: (it.payload.fingerprint, it.payload.canary)
        ):
            collection = collection_of(name, fingerprint)
            for batch in _batches((point.id for point in group), READ_BATCH):
                self._forget_canary(collection, batch, canary)

    def delete(self, name: str, ids: Sequence[str]) -> None:
        """See ``VectorStore.delete``."""
        collection = self._aliases.require(name)
        for batch in _batches(ids, READ_BATCH):
            self._delete(collection, batch)

    def close(self) -> None:
        """See ``VectorStore.close``. Closing twice is no error."""
        self._client.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, collection: str) -> None:
        """Make a collection fast at what is asked of it."""
        if self._is_embedded:
            self._transport(lambda: write_ahead(self._client, collection))
        else:
            for field, kind in INDEXED.items():
                self._index(collection, field, kind)

    def _index(self, collection: str, field: str, kind: models.PayloadSchemaType) -> None:
        self._transport(
            lambda: self._client.create_payload_index(collection, field, kind, wait=True)
        )

    def _search_held(self, collection: str, vector: Vector, limit: int, only: Filter) -> list[Hit]:
        """Search an embedded collection, where scoring all points is cheaper than filtering them.

        Looked through are as many of the nearest as probably have enough that pass, else all.
        """
        allowed, total = self._holdings.passing(collection, only)
        wanted = min(limit, len(allowed))
        if not wanted:
            return []
        probable = 2 * limit * total // len(allowed) + READ_BATCH
        for window in (min(probable, total), total):
            nearest = self._records.nearest(collection, vector, window, with_payload=False)
            scores = {str(it.id): it.score for it in nearest if str(it.id) in allowed}
            if len(scores) >= wanted:
                break
        best = list(scores)[:wanted]
        payloads = {str(it.id): it.payload for it in self._records.retrieve(collection, best)}
        return [
            Hit(score=scores[id_], id=id_, payload=from_json(payloads[id_]))
            for id_ in best
            if id_ in payloads
        ]

    def _with_digests(
        self, collection: str, digests: list[str], with_vectors: bool
    ) -> Iterable[models.Record]:
        if not self._is_embedded:
            chosen = with_sha256(digests)
            return self._records.scroll(collection, chosen, with_vectors=with_vectors)
        ids = self._holdings.with_sha256(collection, digests)
        return self._records.retrieve(collection, ids, with_vectors=with_vectors)

    def _read_all(self, collection: str) -> Iterator[IndexEntry]:
        return (_held(_point(it)) for it in self._records.scroll(collection, None))

    def _write(self, collection: str, points: list[Point]) -> None:
        structs = [
            models.PointStruct(
                id=point.id,
                vector=_checked(point).tolist(),
                payload=self._to_json(point.payload),
            )
            for point in points
        ]
        self._transport(lambda: self._client.upsert(collection, structs, wait=True))
        self._holdings.put(collection, map(_held, points))

    def _to_json(self, payload: Payload) -> dict[str, Any]:
        raw = to_json(payload)
        return raw if self._is_embedded else raw | {FOLDERS_FIELD: keys_above(payload.path)}

    def _delete(self, collection: str, ids: list[str]) -> None:
        selector = models.PointIdsList(points=list(ids))
        self._transport(lambda: self._client.delete(collection, selector, wait=True))
        self._holdings.remove(collection, ids)

    def _forget_canary(self, collection: str, ids: list[str], canary: str) -> None:
        chosen = waiting_for(canary, ids)
        self._transport(
            lambda: self._client.delete_payload(collection, ["canary"], chosen, wait=True)
        )

    def _count(self, collection: str) -> int:
        return self._transport(lambda: self._client.count(collection, exact=True)).count


def _checked(point: Point) -> Vector:
    if point.vector is None:
        raise StoreError(f"the point of {point.payload.path!r} has no vector to be stored")
    return point.vector


def _point(record: models.Record) -> Point:
    vector = None if record.vector is None else np.asarray(record.vector, np.float32)
    return Point(id=str(record.id), vector=vector, payload=from_json(record.payload))


def _hits(found: Iterable[models.ScoredPoint]) -> list[Hit]:
    return [Hit(score=it.score, id=str(it.id), payload=from_json(it.payload)) for it in found]


def _held(point: Point) -> IndexEntry:
    payload = point.payload
    return IndexEntry(
        id=point.id, sha256=payload.sha256, path=payload.path, mtime_ns=payload.mtime_ns
    )


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut items into lists of at most ``size``, as itertools.batched does from Python 3.12 on."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
