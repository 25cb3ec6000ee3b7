"""A copy of one collection, which is compacted while the collection itself goes on to be used.

What is written meanwhile is kept in memory, and carried out in the copy before it takes the
collection's place: the files that others read are never touched. So a kill at any moment leaves
the collection as it was, or compacted.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

from warmclip.children import ChildProcess, describe_exit
from warmclip.errors import StoreDamaged, StoreError
from warmclip.process_table import IdleWatch
from warmclip.progress import Progress
from warmclip.store.embedded_layout import size_bytes
from warmclip.store.embedded_shard import Shard, check_space

_BLOCK_BYTES = 256 * 1024
_ZEROS = bytes(_BLOCK_BYTES)
_WRITES_AT_ONCE = 8  # a tenth of a second, for which others wait
_MOST_WRITES = 512  # meanwhile, of at most 64 points with their vectors: some 100 MB
_REASON_CHARS = 300
# The engine holds the interpreter lock as long as it works, so the compactor itself cannot tell
# that it does. A disk that has to spin up, or to write gigabytes, takes no such time.
_MOST_IDLE_S = 300.0


@dataclass(slots=True)
class CollectionCopy:
    """A copy that is being compacted.

    ``copy_files``, ``compact`` and ``catch_up`` take long, and are for the thread that waits for
    them. All else is for the store's thread.
    """

    path: Path  # of its files
    source: Shard | None = None  # the collection
    is_copied: bool = False  # until then nothing may be written to the collection
    points: int = 0  # in it
    writes: list[Callable[[Shard], None]] = field(default_factory=list)  # since then
    is_outdated: bool = False  # more was written than is kept
    shard: Shard | None = None  # the copy, once it is compacted and open

    def begin(self, source: Shard) -> None:
        """Prepare a collection to be copied.

        Raises:
            StoreError: there is no room for the copy and what is made of it, or it failed.
        """
        source.flush()
        check_space(source.path, needed_bytes=2 * size_bytes(source.path))
        self.points = source.count()
        self.source = source

    def copy_files(self) -> None:
        """Copy the collection's files.

        Raises:
            OSError: it failed.
        """
        assert self.source is not None  # noqa: S101 - it was begun
        _copy_files(self.source.path, self.path)

    def end_copying(self) -> None:
        """Let the collection be written to again."""
        self.is_copied = True

    def note(self, source: Shard, write: Callable[[Shard], None]) -> None:
        """Keep what was written into the collection."""
        if source is not self.source:
            return
        if len(self.writes) < _MOST_WRITES:
            self.writes.append(write)
        else:
            self.is_outdated = True

    def check(self, source: Shard | None) -> None:
        """See that it can still take the place of a collection, as that is open now.

        Raises:
            StoreError: it cannot.
        """
        if self.is_outdated:
            raise _written_meanwhile()
        if source is None or source is not self.source:
            raise StoreError(
                "the collection was not compacted: it was deleted or made anew meanwhile, or "
                "something could not be written to it"
            )

    def compact(self, *, with_graph: bool, progress: Progress) -> bool:
        """Compact it in a process of its own; returns whether there was anything to do.

        Raises:
            StoreError: it failed.
        """
        request = {"path": os.fspath(self.path), "with_graph": with_graph}
        # -P: no module of the working directory shadows one of ours.
        command = [sys.executable, "-P", "-m", "warmclip.store.embedded_compactor"]
        stage = "building a graph" if with_graph else "compacting"
        answer = {}

        def on_tick() -> None:
            progress(0, 0, stage)
            if self.is_outdated:
                raise _written_meanwhile()
            if watch.idle_s() > _MOST_IDLE_S:
                raise _hung()

        # The child leaves when its stdin ends, should this process die.
        with ChildProcess([*command, json.dumps(request)], stdin=PIPE) as child:
            watch = IdleWatch(child.pid)
            for message in child.messages(lambda: float("inf"), on_tick=on_tick):
                answer = message
            code = child.end()
        if "done" in answer and code == 0:
            return bool(answer["done"])
        told = answer.get("error") or f"its process {describe_exit(code)}{_end(child.stderr_text)}"
        raise StoreError(
            f"the collection could not be compacted: {told}. It is as it was, and nothing is lost"
        )

    def open(self) -> None:
        """Open it, as it was compacted.

        Raises:
            StoreError: it is not equal to the collection as that was copied, or the disk is full.
        """
        check_space(self.path)
        try:
            self.shard = Shard.load(self.path)
        except StoreDamaged as exc:
            raise _unequal(str(exc)) from exc
        _check_equal(self.shard, self.points)

    def catch_up(self, call: Callable[[Callable[[], None]], None]) -> None:
        """Carry out in it most of what was written meanwhile, in pieces that others wait for.

        Args:
            call: has the store's thread do something.
        """
        for _ in range(_MOST_WRITES // _WRITES_AT_ONCE):
            if len(self.writes) <= _WRITES_AT_ONCE:
                return
            call(self._write_some)

    def finish(self) -> None:
        """Carry out in it what is left, and close it.

        Raises:
            StoreError: it is not equal to the collection, or the disk is full; nothing was
                changed there.
        """
        assert self.source is not None  # noqa: S101 - `check` has seen it
        assert self.shard is not None  # noqa: S101 - it was opened
        while self.writes:
            self._write_some()
        _check_equal(self.shard, self.source.count())
        shard, self.shard = self.shard, None
        shard.close()

    def close(self) -> None:
        """Let go of its files, whatever became of it."""
        if self.shard is not None:
            self.shard.abandon()
            self.shard = None

    def _write_some(self) -> None:
        assert self.shard is not None  # noqa: S101 - it was opened
        for write in self.writes[:_WRITES_AT_ONCE]:
            write(self.shard)
        del self.writes[:_WRITES_AT_ONCE]


def _check_equal(made: Shard, points: int) -> None:
    if made.count() != points:
        raise _unequal(f"it has {made.count()} of {points} pictures")


def _copy_files(source: Path, target: Path) -> None:
    for folder, _, files in os.walk(source):
        made = target / Path(folder).relative_to(source)
        made.mkdir(mode=0o700)
        for name in files:
            _copy_file(Path(folder, name), made / name)


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file without what was never written of it: the engine makes files of 32 MB."""
    with source.open("rb", buffering=0) as read, target.open("wb") as written:
        block = bytearray(_BLOCK_BYTES)
        while count := read.readinto(block):
            if count == _BLOCK_BYTES and block == _ZEROS:
                written.seek(count, os.SEEK_CUR)
            else:
                written.write(memoryview(block)[:count])
        written.truncate(written.tell())


def _end(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return f": {lines[-1].strip()[:_REASON_CHARS]}" if lines else ""


def _written_meanwhile() -> StoreError:
    return StoreError(
        "the collection was not compacted: too much was written to it meanwhile. Nothing is lost: "
        "compact it when nothing is indexed"
    )


def _hung() -> StoreError:
    return StoreError(
        f"the collection could not be compacted: the process that does it has computed nothing for "
        f"{_MOST_IDLE_S:.0f} s, as it was stopped or a disk does not answer it, and was ended. The "
        "collection is as it was, and nothing is lost"
    )


def _unequal(reason: str) -> StoreError:
    return StoreError(
        f"the collection was not compacted: its copy is not equal to it: {reason}. The collection "
        "is as it was, and nothing is lost"
    )
