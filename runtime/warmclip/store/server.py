"""Qdrant as a server, over REST. Only this module and ``calls`` know its client."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from qdrant_client import QdrantClient, models

from warmclip.errors import StoreError
from warmclip.inference.arrays import Vector
from warmclip.store.backfill import complete_folders
from warmclip.store.calls import ServerCalls
from warmclip.store.engine import Record
from warmclip.store.filters import INDEXED, Condition

_PAGE = 256  # points in one answer


class ServerEngine:
    """The ``Engine`` of a Qdrant server."""

    def __init__(
        self, url: str, api_key: str | None, calls: ServerCalls, *, timeout_s: int
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: the server's address; user and password in it are sent as basic authentication.
            api_key: Qdrant's own key.
            calls: how the client is called.
            timeout_s: for one answer.
        """
        parts = urlsplit(url)
        basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._client = QdrantClient(
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
        self._calls = calls

    def list_collections(self) -> list[str]:
        """See ``Engine``."""
        return [it.name for it in self._calls(self._client.get_collections).collections]

    def read_aliases(self) -> dict[str, str]:
        """See ``Engine``."""
        aliases = self._calls(self._client.get_aliases).aliases
        return {it.alias_name: it.collection_name for it in aliases}

    def set_alias(self, name: str, collection: str, *, former: str | None) -> None:
        """See ``Engine``: the server carries out both steps at once."""
        steps: list[models.AliasOperations] = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=collection, alias_name=name)
            )
        ]
        if former is not None:
            former_alias = models.DeleteAlias(alias_name=name)
            steps.insert(0, models.DeleteAliasOperation(delete_alias=former_alias))
        self._calls(lambda: self._client.update_collection_aliases(steps))

    def create_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""
        params = models.VectorParams(size=dim, distance=models.Distance.COSINE)
        try:
            self._calls(lambda: self._client.create_collection(collection, params))
        except StoreError:
            # Another process made it meanwhile, or an earlier attempt did whose answer was lost.
            if collection not in self.list_collections():
                raise

    def prepare_collection(self, collection: str) -> None:
        """See ``Engine``."""
        indexed = self._calls(lambda: self._client.get_collection(collection)).payload_schema
        for field in INDEXED.keys() - indexed.keys():
            self._create_index(collection, field)
        complete_folders(
            self, collection, lambda fields, ids: self._set_payload(collection, fields, ids)
        )

    def delete_collection(self, collection: str) -> None:
        """See ``Engine``."""
        self._calls(lambda: self._client.delete_collection(collection))

    def upsert(self, collection: str, records: Sequence[Record]) -> None:
        """See ``Engine``."""
        points = [
            models.PointStruct(
                id=it.id,
                vector=[] if it.vector is None else it.vector.tolist(),
                payload=dict(it.payload),
            )
            for it in records
        ]
        self._calls(lambda: self._client.upsert(collection, points, wait=True))

    def delete(self, collection: str, only: Condition) -> None:
        """See ``Engine``."""
        chosen = models.FilterSelector(filter=models.Filter.model_validate(only))
        self._calls(lambda: self._client.delete(collection, chosen, wait=True))

    def delete_payload(self, collection: str, field: str, only: Condition) -> None:
        """See ``Engine``."""
        chosen = models.Filter.model_validate(only)
        self._calls(lambda: self._client.delete_payload(collection, [field], chosen, wait=True))

    def count(self, collection: str, only: Condition | None = None) -> int:
        """See ``Engine``."""
        chosen = _filter(only)
        return self._calls(lambda: self._client.count(collection, chosen, exact=True)).count

    def retrieve(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False
    ) -> list[Record]:
        """See ``Engine``."""
        found = self._calls(
            lambda: self._client.retrieve(collection, list(ids), with_vectors=with_vectors)
        )
        return [_record(it) for it in found]

    def scroll(
        self, collection: str, only: Condition | None = None, *, with_vectors: bool = False
    ) -> Iterator[Record]:
        """See ``Engine``."""
        chosen = _filter(only)
        page, following = self._page(collection, chosen, with_vectors, None)
        yield from map(_record, page)
        while following is not None:
            page, following = self._page(collection, chosen, with_vectors, following)
            yield from map(_record, page)

    def query(
        self, collection: str, vector: Vector, limit: int, only: Condition | None = None
    ) -> list[Record]:
        """See ``Engine``."""
        query = vector.tolist()
        chosen = _filter(only)
        found = self._calls(
            lambda: self._client.query_points(
                collection, query=query, query_filter=chosen, limit=limit, with_payload=True
            )
        )
        return [_record(it) for it in found.points]

    def close(self) -> None:
        """See ``Engine``."""
        self._client.close()

    def _create_index(self, collection: str, field: str) -> None:
        kind = models.PayloadSchemaType(INDEXED[field])
        self._calls(lambda: self._client.create_payload_index(collection, field, kind, wait=True))

    def _set_payload(self, collection: str, fields: dict[str, Any], ids: list[str]) -> None:
        chosen = models.PointIdsList(points=list(ids))
        self._calls(lambda: self._client.set_payload(collection, fields, chosen, wait=True))

    def _page(
        self, collection: str, chosen: models.Filter | None, with_vectors: bool, start: Any
    ) -> tuple[list[models.Record], Any]:
        return self._calls(
            lambda: self._client.scroll(
                collection,
                scroll_filter=chosen,
                limit=_PAGE,
                offset=start,
                with_vectors=with_vectors,
            )
        )


def _filter(only: Condition | None) -> models.Filter | None:
    return None if only is None else models.Filter.model_validate(only)


def _record(found: models.Record | models.ScoredPoint) -> Record:
    vector = None if found.vector is None else np.asarray(found.vector, np.float32)
    score = found.score if isinstance(found, models.ScoredPoint) else 0.0
    return Record(id=str(found.id), payload=found.payload or {}, vector=vector, score=score)
