"""Qdrant embedded in this process: one folder, one owner."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from qdrant_client import QdrantClient, models

from warmclip.errors import StoreError
from warmclip.inference.arrays import Vector
from warmclip.store.embedded_lock import check_lock, lock_store
from warmclip.store.engine import Record
from warmclip.store.filters import WITHOUT_FOLDERS, Condition
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.payload import from_json
from warmclip.store.sqlite import write_ahead

_PAGE = 10_000  # the embedded mode sorts all of its points again for every page

T = TypeVar("T")


class EmbeddedEngine:
    """The ``Engine`` of an embedded store, which lets one thread at a time into it.

    Qdrant's embedded mode loses points when several threads write (qdrant-client#1193), and it
    unpickles what it finds: only a private folder of our own is opened.
    """

    def __init__(self, folder: Path, lock: int | None = None) -> None:
        """Take the folder for this process.

        Args:
            folder: made if it is not there.
            lock: from ``lock_store``, of the process that started this one.

        Raises:
            StoreHeld: another process owns it.
            StoreError: it cannot be used.
        """
        self._folder = folder
        self._turn = threading.Lock()
        if lock is None:
            lock = lock_store(folder)
        else:
            check_lock(folder, lock)
        self._lock = lock
        try:
            # sqlite's own thread check would refuse on macOS what our lock makes safe.
            self._client = self._call(
                lambda: QdrantClient(path=str(folder), force_disable_check_same_thread=True)
            )
            for collection in self.list_collections():
                self._write_ahead(collection)
        except StoreError:
            os.close(lock)
            raise

    def list_collections(self) -> list[str]:
        """See ``Engine``."""
        return [it.name for it in self._call(self._client.get_collections).collections]

    def read_aliases(self) -> dict[str, str]:
        """See ``Engine``."""
        aliases = self._call(self._client.get_aliases).aliases
        return {it.alias_name: it.collection_name for it in aliases}

    def set_alias(self, name: str, collection: str, *, former: str | None) -> None:
        """See ``Engine``."""
        steps: list[models.AliasOperations] = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=collection, alias_name=name)
            )
        ]
        if former is not None:
            former_alias = models.DeleteAlias(alias_name=name)
            steps.insert(0, models.DeleteAliasOperation(delete_alias=former_alias))
        self._call(lambda: self._client.update_collection_aliases(steps))

    def create_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""
        params = models.VectorParams(size=dim, distance=models.Distance.COSINE)
        self._call(lambda: self._client.create_collection(collection, params))
        self._write_ahead(collection)

    def prepare_collection(self, collection: str) -> None:
        """See ``Engine``."""
        for record in list(self.scroll(collection, WITHOUT_FOLDERS)):
            lacking = {FOLDERS_FIELD: keys_above(from_json(record.payload).path)}
            self._set_payload(collection, lacking, record.id)

    def delete_collection(self, collection: str) -> None:
        """See ``Engine``."""
        self._call(lambda: self._client.delete_collection(collection))

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
        self._call(lambda: self._client.upsert(collection, points, wait=True))

    def delete(self, collection: str, only: Condition) -> None:
        """See ``Engine``."""
        chosen = models.FilterSelector(filter=models.Filter.model_validate(only))
        self._call(lambda: self._client.delete(collection, chosen, wait=True))

    def delete_payload(self, collection: str, field: str, only: Condition) -> None:
        """See ``Engine``."""
        chosen = models.Filter.model_validate(only)
        self._call(lambda: self._client.delete_payload(collection, [field], chosen, wait=True))

    def count(self, collection: str, only: Condition | None = None) -> int:
        """See ``Engine``."""
        chosen = _filter(only)
        return self._call(lambda: self._client.count(collection, chosen, exact=True)).count

    def retrieve(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False
    ) -> list[Record]:
        """See ``Engine``."""
        found = self._call(
            lambda: self._client.retrieve(collection, list(ids), with_vectors=with_vectors)
        )
        return [_record(it) for it in found]

    def scroll(
        self, collection: str, only: Condition | None = None, *, with_vectors: bool = False
    ) -> Iterator[Record]:
        """See ``Engine``."""
        start: models.ExtendedPointId | None = None
        while True:
            page, start = self._page(collection, _filter(only), with_vectors, start)
            yield from map(_record, page)
            if start is None:
                return

    def query(
        self, collection: str, vector: Vector, limit: int, only: Condition | None = None
    ) -> list[Record]:
        """See ``Engine``."""
        found = self._call(
            lambda: self._client.query_points(
                collection, query=vector.tolist(), query_filter=_filter(only), limit=limit
            )
        )
        return [_record(it) for it in found.points]

    def close(self) -> None:
        """See ``Engine``."""
        if self._lock >= 0:
            self._client.close()
            os.close(self._lock)
            self._lock = -1

    def _page(
        self,
        collection: str,
        chosen: models.Filter | None,
        with_vectors: bool,
        start: models.ExtendedPointId | None,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        return self._call(
            lambda: self._client.scroll(
                collection, chosen, limit=_PAGE, offset=start, with_vectors=with_vectors
            )
        )

    def _set_payload(self, collection: str, lacking: dict[str, list[str]], point: str) -> None:
        self._call(lambda: self._client.set_payload(collection, lacking, [point], wait=True))

    def _write_ahead(self, collection: str) -> None:
        self._call(lambda: write_ahead(self._client, collection))

    def _call(self, call: Callable[[], T]) -> T:
        """Return what the call returns, when it is this thread's turn."""
        with self._turn:
            try:
                return call()
            except (sqlite3.Error, OSError) as exc:
                raise StoreError(
                    f"the embedded store {self._folder} failed: {exc}; what was stored before is "
                    "whole. Check the disk's free space, then run the same command again"
                ) from exc
            except (ValueError, RuntimeError) as exc:
                raise StoreError(f"the embedded store {self._folder} refused: {exc}") from exc


def _filter(only: Condition | None) -> models.Filter | None:
    return None if only is None else models.Filter.model_validate(only)


def _record(found: models.Record | models.ScoredPoint) -> Record:
    vector = None if found.vector is None else np.asarray(found.vector, np.float32)
    score = found.score if isinstance(found, models.ScoredPoint) else 0.0
    return Record(id=str(found.id), payload=found.payload or {}, vector=vector, score=score)
