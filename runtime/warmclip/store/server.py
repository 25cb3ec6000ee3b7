"""Qdrant as a server, over REST. Only this module and ``calls`` know its client."""

import ipaddress
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from qdrant_client import QdrantClient, models

from warmclip.errors import RequestTooLarge, StoreError
from warmclip.inference.arrays import Vector
from warmclip.store.bounded_transport import BoundedTransport
from warmclip.store.calls import ServerCalls
from warmclip.store.collection_options import CollectionOptions
from warmclip.store.engine import Record
from warmclip.store.filters import INDEXED, Condition
from warmclip.store.protocol import Salvage

log = logging.getLogger(__name__)

_PAGE = 256  # points in one answer


class ServerEngine:
    """The ``Engine`` of a Qdrant server."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        calls: ServerCalls,
        *,
        timeout_s: int,
        options: CollectionOptions | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: the server's address; user and password in it are sent as basic authentication.
            api_key: Qdrant's own key.
            calls: how the client is called.
            timeout_s: for one answer.
            options: how collections are made.
        """
        self._api_key = api_key
        self._calls = calls
        self._options = options or CollectionOptions()
        self._client = _open_client(url, api_key, timeout_s)
        self._page = _PAGE

    @property
    def when_missing(self) -> str:
        """See ``Engine``: a key that is limited to some collections sees no aliases at all."""
        if self._api_key is None or self.read_aliases():
            return ""
        return (
            "; or the key in QDRANT_API_KEY does not see it: it sees no alias at all, as is so "
            "with keys for some collections only"
        )

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

    def delete_alias(self, name: str) -> None:
        """See ``Engine``."""
        if name in self.read_aliases():
            alias = models.DeleteAlias(alias_name=name)
            step = models.DeleteAliasOperation(delete_alias=alias)
            self._calls(lambda: self._client.update_collection_aliases([step]))

    def create_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""
        params = models.VectorParams(
            size=dim, distance=models.Distance.COSINE, on_disk=self._options.on_disk
        )
        try:
            self._calls(
                lambda: self._client.create_collection(
                    collection, params, **self._options.arguments()
                )
            )
        except StoreError:
            # Another process made it meanwhile, or an earlier attempt did whose answer was lost.
            if collection not in self.list_collections():
                raise

    def prepare_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""
        info = self._calls(lambda: self._client.get_collection(collection))
        found = _describe_vectors(info.config.params.vectors)
        wanted = _describe_vectors(models.VectorParams(size=dim, distance=models.Distance.COSINE))
        if found != wanted:
            raise StoreError(
                f"the collection {collection!r} has {found}, and this model needs {wanted}: it was "
                "not made by warmclip. Choose another name with WARMCLIP_COLLECTION, or delete it"
            )
        for field in INDEXED.keys() - info.payload_schema.keys():
            self._create_index(collection, field)

    def describe(self, collection: str) -> dict[str, Any]:
        """See ``Engine``."""
        info = self._calls(lambda: self._client.get_collection(collection))
        told = info.model_dump(
            mode="json",
            exclude_none=True,
            include={
                "status": True,
                "points_count": True,
                "indexed_vectors_count": True,
                "segments_count": True,
                "config": {"params", "quantization_config", "strict_mode_config"},
            },
        )
        return {"engine": "server", "points": told.pop("points_count", None), **told}

    def rebuild_collection(self, collection: str, dim: int) -> Salvage:  # noqa: ARG002 - the protocol's
        """See ``Engine``."""
        raise StoreError(
            f"{collection!r} is kept by a Qdrant server, which alone knows its files: restore a "
            "snapshot of it, or index its pictures under another name"
        )

    def optimize(self, collection: str, *, with_graph: bool, progress: object = None) -> None:
        """See ``Engine``: a server does it by itself."""

    def count_uncompacted(self, collection: str) -> int:  # noqa: ARG002 - the protocol's
        """See ``Engine``."""
        return 0

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

    def set_payload(self, collection: str, fields: Mapping[str, Any], ids: Sequence[str]) -> None:
        """See ``Engine``."""
        chosen = models.PointIdsList(points=list(ids))
        self._calls(lambda: self._client.set_payload(collection, dict(fields), chosen, wait=True))

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
        start: models.ExtendedPointId | None = None
        while True:
            page, start = self._read_page(collection, chosen, with_vectors, start)
            yield from map(_record, page)
            if start is None:
                return

    def query(
        self, collection: str, vector: Vector, limit: int, only: Condition | None = None
    ) -> list[Record]:
        """See ``Engine``."""
        query = vector.tolist()
        chosen = _filter(only)
        found = self._calls(
            lambda: self._client.query_points(
                collection,
                query=query,
                query_filter=chosen,
                limit=limit,
                search_params=self._options.search_params(),
                with_payload=True,
            )
        )
        return [_record(it) for it in found.points]

    def close(self, *, at_exit: bool = False) -> None:  # noqa: ARG002 - the protocol's
        """See ``Engine``."""
        self._client.close()

    def _create_index(self, collection: str, field: str) -> None:
        kind = models.PayloadSchemaType(INDEXED[field])
        self._calls(lambda: self._client.create_payload_index(collection, field, kind, wait=True))

    def _read_page(
        self,
        collection: str,
        chosen: models.Filter | None,
        with_vectors: bool,
        start: models.ExtendedPointId | None,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        """One page, of as many points as the server's strict mode allows."""
        while True:
            limit = self._page
            try:
                return self._calls(
                    lambda: self._client.scroll(
                        collection,
                        scroll_filter=chosen,
                        limit=limit,  # noqa: B023 - called at once
                        offset=start,
                        with_vectors=with_vectors,
                    )
                )
            except RequestTooLarge:
                if limit == 1:
                    raise
                self._page = limit // 2


def _open_client(url: str, api_key: str | None, timeout_s: int) -> QdrantClient:
    parts = urlsplit(url)
    basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    host = parts.hostname or ""
    if api_key is not None and parts.scheme == "http" and not is_loopback(host):
        log.warning(
            "QDRANT_API_KEY is sent to %s without encryption, as QDRANT_URL is http://: whoever "
            "listens on the way can use it",
            host,
        )
    with warnings.catch_warnings():
        # It warns of the same in other words, for loopback as well, with a line of its source.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        return QdrantClient(
            url=url,
            api_key=api_key,
            timeout=timeout_s,
            prefer_grpc=False,
            # Both keep httpx and a version check from looking up the system's proxies, which
            # on macOS is what kills forked processes.
            trust_env=False,
            check_compatibility=False,
            auth=basic,
            # Its client keeps no connection to this machine either: that cost it delays.
            transport=BoundedTransport(timeout_s=timeout_s, keeps_alive=not is_loopback(host)),
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, so that nobody can listen on the way."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _describe_vectors(vectors: models.VectorsConfig | None) -> str:
    """What a collection keeps for each point, in words."""
    if isinstance(vectors, models.VectorParams):
        multi = " many" if vectors.multivector_config is not None else " one"
        return f"{multi.strip()} vector of {vectors.size} numbers, {vectors.distance.value}"
    names = ", ".join(sorted(vectors or ()))
    return f"the named vectors {names}" if names else "no dense vectors"


def _filter(only: Condition | None) -> models.Filter | None:
    return None if only is None else models.Filter.model_validate(only)


def _record(found: models.Record | models.ScoredPoint) -> Record:
    vector = None if found.vector is None else np.asarray(found.vector, np.float32)
    score = found.score if isinstance(found, models.ScoredPoint) else 0.0
    return Record(id=str(found.id), payload=found.payload or {}, vector=vector, score=score)
