"""One collection of the embedded engine, whose calls are translated and whose files are watched.

The engine keeps a write-ahead log: what ``update`` has acknowledged survives kill -9. ``flush``
makes it survive a loss of power as well, and lets the log shrink.

The engine's errors have no types, and a damaged file may make it panic, which Python sees as a
BaseException; or load, with fewer points than there were. So it is noted how many points there
were at least, and compared when the files are opened.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import qdrant_edge as edge

from warmclip.child_locks import keep_from_children, leave_to_children
from warmclip.errors import StoreDamaged, StoreError
from warmclip.fsutil import replace_file
from warmclip.store.embedded_layout import (
    find_torn,
    is_cold,
    is_compacted,
    make_config,
    make_index,
    note_files,
)
from warmclip.store.filters import INDEXED

log = logging.getLogger(__name__)

T = TypeVar("T")

FLUSH_EVERY = 4096
"""Points that are written between two flushes: replaying as many takes a fifth of a second."""

_NOTED = "points.json"
_INDEXES = "payload_index"
_COPIED_AT_ONCE = 128  # points
_LEAST_FREE_BYTES = 64 * 1024 * 1024  # the engine maps its files: a full disk kills the process


class Shard:
    """The files of one collection, open. Used by one thread."""

    def __init__(self, path: Path, shard: edge.EdgeShard) -> None:
        """Take an open shard; see ``create`` and ``load``."""
        self.path = path
        self._shard = shard
        self._noted = path / _NOTED
        self._unflushed = 0
        self._wal: os.stat_result | None = None
        with contextlib.suppress(FileNotFoundError):  # the lock that the engine has of its own
            self._wal = (path / "wal").stat()
            keep_from_children(self._wal)

    @classmethod
    def create(cls, path: Path, dim: int) -> "Shard":
        """Make an empty collection of unit vectors, with its payload indexes.

        Raises:
            StoreError: the disk is full, or the folder cannot be used.
        """
        check_space(path.parent)
        try:
            made = _called(lambda: edge.EdgeShard.create(os.fspath(path), make_config(dim)))
        except _EngineError as exc:
            raise _not_written(path, exc) from exc
        shard = cls(path, made)
        shard.prepare()
        return shard

    @classmethod
    def load(
        cls, path: Path, *, partial: bool = False, config: edge.EdgeConfig | None = None
    ) -> "Shard":
        """Open a collection.

        Args:
            path: of its files.
            partial: open it even if points are missing.
            config: how ``optimize`` is to keep it from now on; None: as before.

        Raises:
            StoreDamaged: it cannot be opened, or has fewer points than were noted.
        """
        # Looked for now: once it is open, a file is as long as ever.
        torn = [] if partial else find_torn(path)
        for file in torn:
            if _INDEXES not in file:
                raise StoreDamaged(f"{path / file} is not whole", collection=path.name)
        # What a killed ``optimize`` had written: as much again as the collection.
        shutil.rmtree(path / "temp_segments", ignore_errors=True)
        is_healed = False
        try:
            opened = _opened(path, config, torn)
        except _EngineError as exc:
            if exc.is_of_the_system:
                raise StoreError(f"the embedded store cannot open {path}: {exc}") from exc
            healed = _load_without_indexes(path, config)
            if healed is None:
                reason = f"{path} cannot be opened: {exc}"
                raise StoreDamaged(reason, collection=path.name) from exc
            log.warning("the payload indexes in %s were damaged, and are made anew", path)
            opened, is_healed = healed, True
        shard = cls(path, opened)
        shard.prepare()
        if is_healed and is_compacted(path):
            note_files(path)
        if not partial:
            shard._check()
        return shard

    def prepare(self) -> None:
        """Make the payload indexes that are missing."""
        there = self.read(lambda shard: shard.info()).payload_schema
        for field in INDEXED.keys() - there.keys():
            self.update(make_index(field, INDEXED[field]))

    def renew_indexes(self) -> None:
        """Make those payload indexes anew that a former version made in another way.

        Raises:
            StoreError: it failed. Those that are missing are made by ``prepare``.
        """
        for field, index in self.read(lambda shard: shard.info()).payload_schema.items():
            if field in INDEXED and not is_cold(index.params):
                self.update(edge.UpdateOperation.delete_field_index(field))
                self.update(make_index(field, INDEXED[field]))

    def update(self, operation: edge.UpdateOperation, *, points: int = 0) -> None:
        """Carry out an operation that deletes nothing; when it returns, a kill loses nothing of it.

        Args:
            operation: of the engine.
            points: that it writes.

        Raises:
            StoreError: it failed. The shard must be closed then, and loaded anew.
        """
        check_space(self.path)
        try:
            _called(lambda: self._shard.update(operation))
        except _EngineError as exc:
            raise _not_written(self.path, exc) from exc
        self._unflushed += max(points, 1)
        if self._unflushed >= FLUSH_EVERY:
            self.flush()

    def delete(self, operation: edge.UpdateOperation) -> None:
        """Carry out an operation that may delete points; else as ``update``."""
        self._noted.unlink(missing_ok=True)
        self.update(operation)

    def read(self, call: Callable[[edge.EdgeShard], T]) -> T:
        """Return what a call that changes nothing returns.

        Raises:
            StoreDamaged: it failed.
        """
        try:
            return _called(lambda: call(self._shard))
        except _EngineError as exc:
            reason = f"{self.path} cannot be read: {exc}"
            raise StoreDamaged(reason, collection=self.path.name) from exc

    def count(self, only: edge.Filter | None = None) -> int:
        """How many points there are, or pass a filter."""
        return self.read(lambda shard: shard.count(edge.CountRequest(filter=only, exact=True)))

    def flush(self) -> None:
        """Make what was written survive a loss of power; nothing to do is no error.

        Raises:
            StoreError: it failed.
        """
        if not self._unflushed:
            return
        try:
            _called(self._shard.flush)
        except _EngineError as exc:
            raise _not_written(self.path, exc) from exc
        self._unflushed = 0
        replace_file(self._noted, json.dumps({"points": self.count()}))

    def optimize(self) -> bool:
        """Compact what can be; returns whether anything was done. Nothing else runs meanwhile.

        Raises:
            StoreError: it failed; the shard must be closed then.
        """
        check_space(self.path)
        try:
            done = _called(self._shard.optimize)
        except _EngineError as exc:
            raise _not_written(self.path, exc) from exc
        self._unflushed += 1
        self.flush()
        return done

    def close(self) -> None:
        """Flush, and let go of the files.

        Raises:
            StoreError: the flush failed; what was acknowledged is in the log.
        """
        try:
            self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the files after a failure."""
        with contextlib.suppress(_EngineError):  # it is of no use any more
            _called(self._shard.close)
            if self._wal is not None:
                leave_to_children(self._wal)

    def _check(self) -> None:
        """Compare with what was noted.

        Raises:
            StoreDamaged: points are missing, or the first one's vector is.
        """
        there = self.count()
        noted = read_noted(self.path) or 0
        page, _ = self.read(
            lambda shard: shard.scroll(
                edge.ScrollRequest(limit=1, with_payload=False, with_vector=True)
            )
        )
        if there < noted:
            lost = f"{noted - there} of {noted} pictures are missing"
        elif page and not any(page[0].vector or ()):
            lost = "the vectors are missing"
        else:
            return
        self.abandon()
        raise StoreDamaged(f"files in {self.path} are torn: {lost}", collection=self.path.name)


def read_noted(path: Path) -> int | None:
    """How many points a collection had at least when it was last flushed; None: nobody knows."""
    try:
        return int(json.loads((path / _NOTED).read_text("utf-8"))["points"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def copy_readable(path: Path, target: Shard) -> int:
    """Copy the points of a damaged collection that can be read whole; returns how many."""
    try:
        source = Shard.load(path, partial=True)
    except StoreError:
        return 0
    copied = 0
    following: int | str | UUID | None = None
    while True:
        request = edge.ScrollRequest(
            offset=following, limit=_COPIED_AT_ONCE, with_payload=True, with_vector=True
        )
        try:
            page, following = source.read(lambda it: it.scroll(request))  # noqa: B023 - called at once
        except StoreDamaged:
            break
        points = [
            edge.Point(it.id, it.vector, it.payload)
            for it in page
            if it.payload and isinstance(it.vector, list) and any(it.vector)
        ]
        target.update(edge.UpdateOperation.upsert_points(points), points=len(points))
        copied += len(points)
        if following is None:
            break
    source.abandon()
    return copied


def check_space(folder: Path, *, needed_bytes: int = 0) -> None:
    """Refuse to write when the disk is nearly full.

    Args:
        folder: on the disk.
        needed_bytes: what is to be written, if it is much.

    Raises:
        StoreError: less than that and 64 MB are free.
    """
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    needed = needed_bytes + _LEAST_FREE_BYTES
    if free < needed:
        state = "has too little room" if needed_bytes else "is full"
        raise StoreError(
            f"the disk of the embedded store {folder} {state}: {free >> 20} MB of free space are "
            f"left, and writing needs {needed >> 20} MB. What was stored before is "
            "whole. Make room, then run the same command again"
        )


def _opened(path: Path, config: edge.EdgeConfig | None, torn: list[str]) -> edge.EdgeShard:
    if torn:
        raise _EngineError(f"{torn[0]} is not whole")
    return _called(lambda: edge.EdgeShard.load(os.fspath(path), config))


def _load_without_indexes(path: Path, config: edge.EdgeConfig | None) -> edge.EdgeShard | None:
    """Open a collection whose payload indexes are damaged: they are made of the payloads."""
    indexes = list(path.glob(f"segments/*/{_INDEXES}"))
    aside = path.with_name(f".indexes-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for number, index in enumerate(indexes):
        index.rename(aside / str(number))
    with contextlib.suppress(_EngineError):
        opened = _called(lambda: edge.EdgeShard.load(os.fspath(path), config))
        shutil.rmtree(aside)
        return opened
    for number, index in enumerate(indexes):  # the damage is elsewhere
        shutil.rmtree(index, ignore_errors=True)
        (aside / str(number)).rename(index)
    shutil.rmtree(aside)
    return None


class _EngineError(Exception):
    """Whatever the engine raises, in its own words."""

    @property
    def is_of_the_system(self) -> bool:
        """Whether the system refused: a full disk, permissions. Then no file is damaged."""
        refused = re.search(r"(?:os error|Os \{ code:) (\d+)", str(self))
        return refused is not None and int(refused[1]) != errno.ENOENT


def _called(call: Callable[[], T]) -> T:
    """What a call of the engine returns.

    Raises:
        _EngineError: it failed, or panicked.
    """
    try:
        return call()
    except Exception as exc:  # the engine raises nothing more specific
        raise _EngineError(str(exc) or type(exc).__name__) from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # pyo3's, which has no importable name
            raise
        raise _EngineError(f"the engine panicked: {exc}") from exc


def _not_written(path: Path, exc: _EngineError) -> StoreError:
    return StoreError(
        f"the embedded store could not write to {path}: {exc}. What was stored before is whole. "
        "Check the disk's free space, then run the same command again"
    )
