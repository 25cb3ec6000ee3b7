"""Qdrant's own engine in this process (qdrant-edge): one folder, one owner, one thread.

The engine holds Python's interpreter lock during every call. So calls are small: pages and batches
of at most a few hundred points. Its ``optimize`` is never called here, since it would stop every
thread for seconds: a process of its own does that to a copy of the collection.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from warmclip.errors import NotStored, StoreDamaged, StoreError
from warmclip.inference.arrays import Vector
from warmclip.progress import Progress
from warmclip.store.embedded_catalog import Catalog
from warmclip.store.embedded_conversion import convert_local_store, remove_former_files
from warmclip.store.embedded_copy import CollectionCopy
from warmclip.store.embedded_filters import to_filter
from warmclip.store.embedded_layout import count_deleted, has_graph, size_bytes
from warmclip.store.embedded_listener import listen
from warmclip.store.embedded_lock import check_lock, lock_store
from warmclip.store.embedded_questions import answer
from warmclip.store.embedded_shard import Shard, copy_readable, read_noted
from warmclip.store.embedded_thread import Postponed, StoreThread
from warmclip.store.engine import Record
from warmclip.store.filters import Condition
from warmclip.store.protocol import Optimized, Salvage

log = logging.getLogger(__name__)

T = TypeVar("T")
Offset: TypeAlias = int | str | None
"""The id of the first point of a page; None: the first one there is."""

_PAGE = 256  # points in one answer
_IDLE_S = 1.0  # without a call, before what was written is flushed
_LINGERS_S = 0.5  # in a process that was to end, before the store is closed


class EmbeddedEngine:
    """The ``Engine`` of an embedded store. It may be used from several threads."""

    def __init__(
        self, folder: Path, lock: int | None = None, progress: Progress | None = None
    ) -> None:
        """Take the folder for this process, and convert a store of the former format.

        Args:
            folder: made if it is not there.
            lock: from ``lock_store``, of the process that started this one; it stays open.
            progress: told how far the conversion is.

        Raises:
            StoreHeld: another process owns it.
            StoreError: it cannot be used.
        """
        self._folder = folder
        if lock is None:
            lock = lock_store(folder)
        else:
            check_lock(folder, lock)
            lock = os.dup(lock)
        try:
            convert_local_store(folder, progress)
            self._catalog = Catalog(folder)
            if self._catalog.has_former_files:
                remove_former_files(folder, self._catalog)
        except OSError as exc:
            os.close(lock)
            raise _failure(folder, exc) from exc
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        self._is_closed = False
        self._open: dict[str, Shard] = {}
        self._copies: dict[str, CollectionCopy] = {}  # that are being compacted
        self._thread = StoreThread(self._flush_all, _IDLE_S)
        self._listener = listen(folder, partial(answer, self))

    @property
    def when_missing(self) -> str:
        """See ``Engine``."""
        return ""

    def list_collections(self) -> list[str]:
        """See ``Engine``."""
        return self._call(self._catalog.list_collections)

    def read_aliases(self) -> dict[str, str]:
        """See ``Engine``."""
        return self._call(lambda: dict(self._catalog.aliases))

    def set_alias(self, name: str, collection: str, *, former: str | None) -> None:  # noqa: ARG002 - the protocol's
        """See ``Engine``."""
        self._call(lambda: self._catalog.set_alias(name, collection))

    def delete_alias(self, name: str) -> None:
        """See ``Engine``."""
        self._call(lambda: self._catalog.delete_alias(name))

    def create_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""

        def create() -> None:
            if collection not in self._catalog.list_collections():
                Shard.create(self._catalog.begin(collection), dim).close()
                self._catalog.adopt(collection)

        self._call(create)

    def prepare_collection(self, collection: str, dim: int) -> None:  # noqa: ARG002 - the protocol's
        """See ``Engine``: a shard is prepared when it is opened."""
        self._call(lambda: self._shard(collection))

    def describe(self, collection: str) -> dict[str, Any]:
        """See ``Engine``."""
        told = self._read(collection, lambda it: it.info())
        return {
            "engine": "embedded",
            "points": told.points_count,
            "segments": told.segments_count,
            "indexed_vectors": told.indexed_vectors_count,
            "graph": has_graph(self._catalog.path(collection)),
            "size_bytes": self._call(lambda: size_bytes(self._catalog.path(collection))),
        }

    def count_uncompacted(self, collection: str) -> int:
        """See ``Engine``."""

        def count() -> int:
            if self._catalog.is_link(collection):  # see `optimize`
                return 0
            shard = self._shard(collection)
            shard.flush()
            told = shard.read(lambda it: it.info())
            compacted = told.indexed_vectors_count - count_deleted(shard.path)
            return max(told.points_count - compacted, 0)

        return self._call(count)

    def optimize(
        self, collection: str, *, with_graph: bool, progress: Progress | None = None
    ) -> Optimized:
        """See ``Engine``. Who writes while the files are copied waits for that."""
        copy = CollectionCopy(self._catalog.name_copy(collection))
        started = time.monotonic()
        before = self.describe(collection)
        try:
            self._call(lambda: self._begin_copy(collection, copy))
            self._copy_files(collection, copy)
            done = copy.compact(with_graph=with_graph, progress=progress or _tell_nobody)
            if done:
                self._call(copy.open)
                copy.catch_up(self._call)
                former = self._call(lambda: self._adopt_copy(collection, copy))
                shutil.rmtree(former, ignore_errors=True)
        except OSError as exc:
            raise _failure(self._folder, exc) from exc
        finally:
            self._call(lambda: self._drop_copy(collection, copy))
            shutil.rmtree(copy.path, ignore_errors=True)
        after = self.describe(collection)
        return Optimized(
            done=done,
            points=after["points"],
            segments=after["segments"],
            seconds=time.monotonic() - started,
            size_bytes=after["size_bytes"],
            former_size_bytes=before["size_bytes"],
            had_graph=before["graph"],
            has_graph=after["graph"],
        )

    def _begin_copy(self, collection: str, copy: CollectionCopy) -> None:
        if collection in self._copies:
            raise StoreError(f"{collection!r} is being compacted already, by this process")
        if self._catalog.is_link(collection):
            raise StoreError(
                f"{self._catalog.path(collection)} is a symbolic link: what is compacted would be "
                "on this disk again. Move the whole home folder instead (WARMCLIP_HOME)"
            )
        self._copies[collection] = copy
        copy.begin(self._shard(collection))

    def _copy_files(self, collection: str, copy: CollectionCopy) -> None:
        try:
            copy.copy_files()
        except OSError:
            # A collection that was deleted meanwhile is no failure of the disk.
            self._call(lambda: copy.check(self._open.get(collection)))
            raise
        self._call(copy.end_copying)

    def _adopt_copy(self, collection: str, copy: CollectionCopy) -> Path:
        copy.check(self._open.get(collection))
        copy.finish()
        self._open.pop(collection).close()
        return self._catalog.replace(collection, copy.path)

    def _drop_copy(self, collection: str, copy: CollectionCopy) -> None:
        if self._copies.get(collection) is copy:
            del self._copies[collection]
        copy.close()

    def rebuild_collection(self, collection: str, dim: int) -> Salvage:
        """See ``Engine``."""

        def rebuild() -> Salvage:
            self._abandon(collection)
            made = Shard.create(self._catalog.begin(collection), dim)
            noted = read_noted(self._catalog.path(collection))
            try:
                kept = copy_readable(self._catalog.path(collection), made)
            finally:
                made.close()
            place = self._catalog.set_aside(collection)
            self._catalog.adopt(collection)
            lost = None if noted is None else max(noted - kept, 0)
            return Salvage(kept=kept, lost=lost, set_aside=os.fspath(place))

        return self._call(rebuild)

    def delete_collection(self, collection: str) -> None:
        """See ``Engine``."""

        def delete() -> None:
            if collection in self._catalog.list_collections():
                self._abandon(collection)
                self._catalog.remove(collection)

        self._call(delete)

    def upsert(self, collection: str, records: Sequence[Record]) -> None:
        """See ``Engine``."""
        points = [
            edge.Point(it.id, [] if it.vector is None else it.vector.tolist(), dict(it.payload))
            for it in records
        ]
        operation = edge.UpdateOperation.upsert_points(points)
        self._write(collection, lambda shard: shard.update(operation, points=len(points)))

    def set_payload(self, collection: str, fields: Mapping[str, Any], ids: Sequence[str]) -> None:
        """See ``Engine``."""
        operation = edge.UpdateOperation.set_payload(list(ids), dict(fields))
        self._write(collection, lambda shard: shard.update(operation, points=len(ids)))

    def delete(self, collection: str, only: Condition) -> None:
        """See ``Engine``."""
        operation = edge.UpdateOperation.delete_points_by_filter(to_filter(only))
        self._write(collection, lambda shard: shard.delete(operation))

    def delete_payload(self, collection: str, field: str, only: Condition) -> None:
        """See ``Engine``."""
        operation = edge.UpdateOperation.delete_payload_by_filter(to_filter(only), [field])
        self._write(collection, lambda shard: shard.update(operation))

    def count(self, collection: str, only: Condition | None = None) -> int:
        """See ``Engine``."""
        chosen = None if only is None else to_filter(only)
        return self._call(lambda: self._shard(collection).count(chosen))

    def retrieve(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False
    ) -> list[Record]:
        """See ``Engine``."""
        found = self._read(collection, lambda it: it.retrieve(list(ids), True, with_vectors))
        return [_record(it) for it in found]

    def scroll(
        self, collection: str, only: Condition | None = None, *, with_vectors: bool = False
    ) -> Iterator[Record]:
        """See ``Engine``."""
        following: Offset = None
        while True:
            page, following = self.read_page(collection, only, following, with_vectors=with_vectors)
            yield from page
            if following is None:
                return

    def read_page(
        self, collection: str, only: Condition | None, offset: Offset, *, with_vectors: bool
    ) -> tuple[list[Record], Offset]:
        """At most 256 points from an id on, and the first id of the next page; None: the last."""
        request = edge.ScrollRequest(
            offset=offset,
            limit=_PAGE,
            filter=None if only is None else to_filter(only),
            with_payload=True,
            with_vector=with_vectors,
        )
        page, following = self._scroll(collection, request)
        if isinstance(following, UUID):
            following = str(following)
        return [_record(it) for it in page], following

    def query(
        self, collection: str, vector: Vector, limit: int, only: Condition | None = None
    ) -> list[Record]:
        """See ``Engine``."""
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector.tolist()),
            filter=None if only is None else to_filter(only),
            with_payload=True,
        )
        return [_record(it) for it in self._read(collection, lambda it: it.query(request))]

    def close(self, *, at_exit: bool = False) -> None:
        """See ``Engine``. The folder is given up when all is flushed and closed.

        The engine takes as long to free the memory of a collection as to search it ten times, and
        the system no time. So with ``at_exit`` others are served until the process ends, or is
        seen not to: its output waits for a reader, or a disk for its motor.
        """
        if at_exit:
            self._call(self._flush_all)
            closing = threading.Timer(_LINGERS_S, self._close_after_all)
            closing.daemon = True
            closing.start()
            return
        if self._listener is not None:
            self._listener.close()
        try:
            self._thread.stop(self._close)
        except OSError as exc:
            raise _failure(self._folder, exc) from exc

    def _close_after_all(self) -> None:
        try:
            self.close()
        except StoreError as exc:  # nobody waits for it: what was acknowledged is in the log
            log.warning("%s", exc)

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with contextlib.ExitStack() as closing:
                for shard in self._open.values():
                    closing.callback(shard.close)
        finally:
            self._open.clear()
            os.close(self._lock)

    def _call(self, function: Callable[[], T]) -> T:
        try:
            return self._thread.run(function)
        except OSError as exc:
            raise _failure(self._folder, exc) from exc

    def _read(self, collection: str, call: Callable[[edge.EdgeShard], T]) -> T:
        return self._call(lambda: self._shard(collection).read(call))

    def _scroll(
        self, collection: str, request: edge.ScrollRequest
    ) -> tuple[list[edge.Record], int | str | UUID | None]:
        return self._read(collection, lambda it: it.scroll(request))

    def _write(self, collection: str, write: Callable[[Shard], None]) -> None:
        def run() -> None:
            copy = self._copies.get(collection)
            if copy is not None and not copy.is_copied:
                raise Postponed
            try:
                shard = self._shard(collection)
                write(shard)
            except StoreError:
                # What the engine has in memory may be half of it: its files and log are read anew.
                self._abandon(collection)
                raise
            if copy is not None:
                copy.note(shard, write)

        self._call(run)

    def _shard(self, collection: str) -> Shard:
        """The open collection. On the store's thread.

        Raises:
            NotStored: it is not there.
            StoreDamaged: it cannot be read.
        """
        shard = self._open.get(collection)
        if shard is None:
            if collection not in self._catalog.list_collections():
                raise NotStored(f"there is no collection {collection!r} in {self._folder}")
            try:
                shard = Shard.load(self._catalog.path(collection))
            except StoreDamaged as exc:
                raise self._damaged(collection, exc) from exc
            self._open[collection] = shard
        return shard

    def _abandon(self, collection: str) -> None:
        shard = self._open.pop(collection, None)
        if shard is not None:
            shard.abandon()

    def _flush_all(self) -> None:
        for collection, shard in list(self._open.items()):
            try:
                shard.flush()
            except (
                StoreError,
                OSError,
            ) as exc:  # nobody waits for it: the next write says it again
                log.warning("%s", exc)
                self._abandon(collection)

    def _damaged(self, collection: str, exc: StoreDamaged) -> StoreDamaged:
        name = collection.partition("__")[0]
        return StoreDamaged(
            f"the collection {name!r} of the embedded store is damaged: {exc}"
            f"{self._catalog.newer_engine()}. The other collections are whole. `warmclip "
            f"collections rebuild {name}` keeps what can be read; index its folders afterwards",
            collection=collection,
        )


def _tell_nobody(done: int, total: int, stage: str) -> None:
    """Progress that nobody wants to see."""


def _failure(folder: Path, exc: OSError) -> StoreError:
    return StoreError(
        f"the embedded store {folder} failed: {exc}. What was stored before is whole. Check the "
        "disk's free space, then run the same command again"
    )


def _record(found: edge.Record | edge.ScoredPoint) -> Record:
    vector = None if found.vector is None else np.asarray(found.vector, np.float32)
    score = found.score if isinstance(found, edge.ScoredPoint) else 0.0
    return Record(id=str(found.id), payload=found.payload or {}, vector=vector, score=score)
