"""Qdrant, embedded or as a server, behind the store's contract.

Only this module and ``transport`` know qdrant_client. A name as users say it is an alias; the
vectors of one space lie in ``<name>__<fingerprint>`` behind it. Everything written
goes to the collection of its own fingerprint, never through the alias, so that a switch in
between mixes nothing.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from qdrant_client import QdrantClient, models

from warmclip.errors import NotStored, SpaceMismatch, StoreError
from warmclip.indexing.payload import from_json, to_json
from warmclip.indexing.store import Hit, Point, Space
from warmclip.indexing.transport import EmbeddedTransport, ServerTransport, Transport
from warmclip.inference.arrays import Vector
from warmclip.settings import Settings, without_password

_WRITE_BATCH = 64  # points in one request: what Qdrant's documentation advises as the least
_READ_BATCH = 256
_REQUEST_TIMEOUT_S = 30

# Points that have the field at all: it is taken away when their vectors are proven.
_SUSPECT = models.Filter(
    must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="canary"))]
)

T = TypeVar("T")


def collection_of(name: str, fingerprint: str) -> str:
    """The collection that holds one space of a name; a collection's own name is kept."""
    return name if "__" in name else f"{name}__{fingerprint}"


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

    def __init__(
        self, client: QdrantClient, transport: Transport, *, indexes_payload: bool
    ) -> None:
        self._client = client
        self._transport = transport
        self._indexes_payload = indexes_payload

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
        transport = EmbeddedTransport(folder, owner)
        try:
            # sqlite's own thread check would refuse on macOS what our lock makes safe.
            client = transport(
                lambda: QdrantClient(path=str(folder), force_disable_check_same_thread=True)
            )
        except StoreError:
            transport.close()
            raise
        return cls(client, transport, indexes_payload=False)

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
        transport = ServerTransport(
            without_password(url), patience_s=patience_s, first_patience_s=first_patience_s
        )
        return cls(client, transport, indexes_payload=True)

    def ensure(self, name: str, space: Space) -> None:
        """See ``VectorStore.ensure``."""
        if self._target(name) is None:
            self.stage(name, space)
            self.switch(name, space)
        # Asked again also after making it: another process may have been first.
        self._require(name, space)

    def stage(self, name: str, space: Space) -> str:
        """See ``VectorStore.stage``."""
        collection = collection_of(name, space.fingerprint)
        if not self._exists(collection):
            if self._exists(name):
                raise StoreError(
                    f"the store has a collection {name!r} that warmclip did not make; "
                    "choose another name with WARMCLIP_COLLECTION"
                )
            self._create(collection, space.dim)
        return collection

    def switch(self, name: str, space: Space) -> str | None:
        """See ``VectorStore.switch``."""
        collection = collection_of(name, space.fingerprint)
        former = self._target(name)
        if former == collection:
            return None
        steps: list[models.AliasOperations] = []
        if former is not None:
            steps.append(
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
            )
        steps.append(
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=collection, alias_name=name)
            )
        )
        self._transport(lambda: self._client.update_collection_aliases(steps))
        return former

    def drop(self, collection: str) -> None:
        """See ``VectorStore.drop``."""
        if "__" not in collection or self._target(collection.partition("__")[0]) == collection:
            raise StoreError(f"{collection!r} is in use; only a former collection is dropped")
        self._transport(lambda: self._client.delete_collection(collection))

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.upsert``."""
        for fingerprint, group in itertools.groupby(points, lambda it: it.payload.fingerprint):
            collection = collection_of(name, fingerprint)
            for batch in _batches(group, _WRITE_BATCH):
                self._write(collection, batch)

    def search(self, name: str, space: Space, vector: Vector, limit: int) -> list[Hit]:
        """See ``VectorStore.search``."""
        collection = self._require(name, space)
        query = vector.tolist()
        answer = self._transport(
            lambda: self._client.query_points(
                collection, query=query, limit=limit, with_payload=True
            )
        )
        return [
            Hit(score=point.score, id=str(point.id), payload=from_json(point.payload))
            for point in answer.points
        ]

    def scroll(
        self,
        name: str,
        *,
        ids: Iterable[str] | None = None,
        sha256: Iterable[str] | None = None,
        suspect: bool = False,
        with_vectors: bool = False,
    ) -> Iterator[Point]:
        """See ``VectorStore.scroll``."""
        collection = self._target(name)
        if collection is None:
            raise _no_collection(name)
        if ids is not None:
            for batch in _batches(ids, _READ_BATCH):
                yield from map(_point, self._retrieve(collection, batch, with_vectors))
        elif sha256 is not None:
            for batch in _batches(sha256, _READ_BATCH):
                found = self._scroll(collection, _any_sha256(batch), with_vectors)
                yield from map(_point, found)
        else:
            chosen = _SUSPECT if suspect else None
            yield from map(_point, self._scroll(collection, chosen, with_vectors))

    def prove(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.prove``."""
        by_canary = sorted(points, key=lambda it: (it.payload.fingerprint, it.payload.canary))
        for (fingerprint, canary), group in itertools.groupby(
            by_canary, lambda it: (it.payload.fingerprint, it.payload.canary)
        ):
            collection = collection_of(name, fingerprint)
            for batch in _batches((point.id for point in group), _READ_BATCH):
                self._forget_canary(collection, batch, canary)

    def delete(self, name: str, ids: Sequence[str]) -> None:
        """See ``VectorStore.delete``."""
        collection = self._target(name)
        if collection is None:
            raise _no_collection(name)
        for batch in _batches(ids, _READ_BATCH):
            self._delete(collection, batch)

    def close(self) -> None:
        """See ``VectorStore.close``. Closing twice is no error."""
        self._client.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _target(self, name: str) -> str | None:
        """The collection that an alias leads to; a collection's own name is kept."""
        if "__" in name:
            return name
        aliases = self._transport(self._client.get_aliases).aliases
        return next((it.collection_name for it in aliases if it.alias_name == name), None)

    def _require(self, name: str, space: Space) -> str:
        target = self._target(name)
        if target is None:
            raise _no_collection(name)
        if target != collection_of(name, space.fingerprint):
            theirs = target.removeprefix(f"{name}__")
            raise SpaceMismatch(
                f"collection {name!r} holds vectors of the model {theirs[:12]}, this model is "
                f"{space.fingerprint[:12]}; run `warmclip migrate {name}` to embed its pictures "
                "with this one, or choose another name with WARMCLIP_COLLECTION"
            )
        return target

    def _exists(self, collection: str) -> bool:
        listed = self._transport(self._client.get_collections).collections
        return any(it.name == collection for it in listed)

    def _create(self, collection: str, dim: int) -> None:
        params = models.VectorParams(size=dim, distance=models.Distance.COSINE)
        try:
            self._transport(lambda: self._client.create_collection(collection, params))
        except StoreError:
            # Another process made it meanwhile, or an earlier attempt did whose answer was lost.
            if not self._exists(collection):
                raise
        if self._indexes_payload:
            for field in ("sha256", "canary"):
                self._index(collection, field)

    def _index(self, collection: str, field: str) -> None:
        self._transport(
            lambda: self._client.create_payload_index(
                collection, field, models.PayloadSchemaType.KEYWORD, wait=True
            )
        )

    def _write(self, collection: str, points: list[Point]) -> None:
        structs = [
            models.PointStruct(
                id=point.id,
                vector=_checked(point).tolist(),
                payload=to_json(point.payload),
            )
            for point in points
        ]
        self._transport(lambda: self._client.upsert(collection, structs, wait=True))

    def _delete(self, collection: str, ids: list[str]) -> None:
        selector = models.PointIdsList(points=list(ids))
        self._transport(lambda: self._client.delete(collection, selector, wait=True))

    def _forget_canary(self, collection: str, ids: list[str], canary: str) -> None:
        waiting = models.FieldCondition(key="canary", match=models.MatchValue(value=canary))
        chosen = models.Filter(must=[models.HasIdCondition(has_id=list(ids)), waiting])
        self._transport(
            lambda: self._client.delete_payload(collection, ["canary"], chosen, wait=True)
        )

    def _retrieve(self, collection: str, ids: list[str], with_vectors: bool) -> list[models.Record]:
        return self._transport(
            lambda: self._client.retrieve(collection, ids, with_vectors=with_vectors)
        )

    def _scroll(
        self, collection: str, chosen: models.Filter | None, with_vectors: bool
    ) -> Iterator[models.Record]:
        page, following = self._page(collection, chosen, with_vectors, None)
        yield from page
        while following is not None:
            page, following = self._page(collection, chosen, with_vectors, following)
            yield from page

    def _page(
        self, collection: str, chosen: models.Filter | None, with_vectors: bool, start: Any
    ) -> tuple[list[models.Record], Any]:
        return self._transport(
            lambda: self._client.scroll(
                collection,
                scroll_filter=chosen,
                limit=_READ_BATCH,
                offset=start,
                with_vectors=with_vectors,
            )
        )


def _checked(point: Point) -> Vector:
    if point.vector is None:
        raise StoreError(f"the point of {point.payload.path!r} has no vector to be stored")
    return point.vector


def _point(record: models.Record) -> Point:
    vector = None if record.vector is None else np.asarray(record.vector, np.float32)
    return Point(id=str(record.id), vector=vector, payload=from_json(record.payload))


def _any_sha256(digests: list[str]) -> models.Filter:
    match = models.MatchAny(any=list(digests))
    return models.Filter(must=[models.FieldCondition(key="sha256", match=match)])


def _no_collection(name: str) -> StoreError:
    return NotStored(f"there is no collection {name!r} yet; run `warmclip index` first")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut items into lists of at most ``size``, as itertools.batched does from Python 3.12 on."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
