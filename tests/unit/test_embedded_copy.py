"""A collection's copy, and its compaction: what is kept of what is written meanwhile."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import qdrant_edge as edge

from standins.disk import free_blocks
from standins.points import DIM, vector
from warmclip import process_table
from warmclip.errors import StoreError
from warmclip.store import embedded_compactor, embedded_copy
from warmclip.store.embedded_compactor import compact
from warmclip.store.embedded_copy import CollectionCopy
from warmclip.store.embedded_layout import find_torn, has_graph, is_compacted, size_bytes
from warmclip.store.embedded_shard import Shard

MB = 1 << 20


def write(*numbers: int) -> Callable[[Shard], None]:
    """Store points with these numbers."""
    points = [edge.Point(it + 1, vector(it).tolist(), {"path": f"/photos/{it}"}) for it in numbers]
    operation = edge.UpdateOperation.upsert_points(points)
    return lambda shard: shard.update(operation, points=len(points))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Shard]:
    """A collection of a hundred points."""
    shard = Shard.create(tmp_path / "source", DIM)
    write(*range(100))(shard)
    yield shard
    shard.abandon()


def begun(source: Shard) -> CollectionCopy:
    """A copy whose files are copied."""
    copy = CollectionCopy(source.path.with_name("copy"))
    copy.begin(source)
    copy.copy_files()
    copy.end_copying()
    return copy


def written(copy: CollectionCopy, source: Shard, count: int) -> None:
    """So many more points are written into the collection, one at a time."""
    for number in range(100, 100 + count):
        write(number)(source)
        copy.note(source, write(number))


def test_what_is_written_meanwhile(source: Shard) -> None:
    """It is carried out in the copy in small pieces, for which others wait; all of it."""
    copy = begun(source)
    written(copy, source, 30)
    copy.open()
    pieces: list[int] = []

    def call(piece: Callable[[], None]) -> None:
        before = copy.shard.count() if copy.shard else 0
        piece()
        pieces.append((copy.shard.count() if copy.shard else 0) - before)

    copy.catch_up(call)
    assert pieces == [8, 8, 8]  # the last eight are for `finish`
    copy.check(source)
    copy.finish()
    assert copy.shard is None
    made = Shard.load(copy.path)
    assert made.count() == 130
    made.abandon()


def test_somebody_writes_without_end(source: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends nevertheless: then too much was written, or `finish` does the rest."""
    monkeypatch.setattr(embedded_copy, "_MOST_WRITES", 64)
    copy = begun(source)
    written(copy, source, 9)
    copy.open()
    called: list[int] = []

    def call(piece: Callable[[], None]) -> None:
        called.append(len(copy.writes))
        if len(called) < 100:
            for number in range(8):
                copy.note(source, write(number))
        piece()

    copy.catch_up(call)
    assert len(called) == 8  # as many pieces as what is kept at most has
    copy.close()


def test_writes_are_kept_in_bounds(source: Shard) -> None:
    """Those of another collection are none of it; beyond a number, the copy is of no use."""
    copy = begun(source)
    other = Shard.create(source.path.with_name("other"), DIM)
    copy.note(other, write(1))
    other.abandon()
    assert copy.writes == []
    kept = write(1)
    for _ in range(embedded_copy._MOST_WRITES):
        copy.note(source, kept)
    copy.check(source)
    copy.note(source, kept)
    assert len(copy.writes) == embedded_copy._MOST_WRITES
    with pytest.raises(StoreError, match="too much was written"):
        copy.check(source)


def test_no_collection_to_take_the_place_of(source: Shard) -> None:
    """One that was deleted, or opened anew after a failure, is not replaced by its copy."""
    copy = begun(source)
    copy.check(source)
    for other in (None, Shard.create(source.path.with_name("other"), DIM)):
        with pytest.raises(StoreError, match="deleted or made anew meanwhile"):
            copy.check(other)
        if other is not None:
            other.abandon()


def test_copy_that_is_not_equal(source: Shard) -> None:
    """A write is missing in it, or a file of it is torn: nothing is replaced."""
    copy = begun(source)
    write(100)(source)  # and not noted
    copy.open()
    with pytest.raises(StoreError, match=r"not equal to it: it has 100 of 101 pictures.* nothing"):
        copy.finish()
    copy.close()
    copy.close()
    copy.points = 99
    with pytest.raises(StoreError, match="it has 100 of 99 pictures"):
        copy.open()
    copy.close()
    (segment,) = copy.path.glob("segments/*/segment.json")
    segment.unlink()
    with pytest.raises(StoreError, match=r"not equal to it: .* cannot be opened"):
        copy.open()
    assert source.count() == 101


BLOCK = 256 * 1024
ZEROS, DATA = bytes(BLOCK), bytes([1]) * BLOCK


@pytest.mark.parametrize(
    ("content", "least_saved"),
    [
        (b"", 0),
        (b"\0", 0),
        (b"text", 0),
        (ZEROS, BLOCK),
        (DATA + ZEROS, BLOCK),
        (ZEROS + DATA, BLOCK),
        (DATA + 3 * ZEROS + b"text", 3 * BLOCK),
        (DATA + ZEROS + b"\0", BLOCK),
        (DATA[:-1] + ZEROS + DATA[:-1], 0),
        (3 * DATA, 0),
    ],
)
def test_files_are_copied(tmp_path: Path, content: bytes, least_saved: int) -> None:
    """What is copied is equal, and takes no room for what was never written."""
    (tmp_path / "source" / "segments").mkdir(parents=True)
    (tmp_path / "source" / "segments" / "file").write_bytes(content)
    embedded_copy._copy_files(tmp_path / "source", tmp_path / "copy")
    copied = tmp_path / "copy" / "segments" / "file"
    assert copied.read_bytes() == content
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    assert copied.stat().st_blocks * 512 <= len(content) - least_saved + 8192


def test_room_for_the_copy(source: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files once more, and what is made of them; and 64 MB, as the engine always needs."""
    source.flush()
    needed = 2 * size_bytes(source.path) + 64 * MB
    copy = CollectionCopy(source.path.with_name("copy"))
    monkeypatch.setattr(os, "statvfs", free_blocks(needed - 1, block_bytes=1))
    with pytest.raises(StoreError, match=rf"too little room.* needs {needed >> 20} MB"):
        copy.begin(source)
    monkeypatch.setattr(os, "statvfs", free_blocks(needed, block_bytes=1))
    copy.begin(source)
    assert copy.points == 100


def nearest(shard: Shard) -> list[object]:
    """All points in the order of a search."""
    asked = edge.QueryRequest(limit=200, query=edge.Query.Nearest(vector(1000).tolist()))
    return [it.id for it in shard.read(lambda it: it.query(asked))]


def test_compaction(source: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done once, with a graph or without, which finds the same as before. Every file of it is
    written out before it is said to be done, and watched from then on.
    """
    copy = begun(source)
    out: set[Path] = set()
    monkeypatch.setattr(embedded_compactor, "write_out", out.add)
    done = [compact(copy.path, with_graph=it) for it in (False, False)]
    made = Shard.load(copy.path)
    assert nearest(made) == nearest(source)
    made.abandon()
    done.append(compact(copy.path, with_graph=True))
    made = Shard.load(copy.path)
    assert nearest(made) == nearest(source)
    made.abandon()
    assert done == [True, False, True]
    assert has_graph(copy.path)
    assert out >= {copy.path, *copy.path.rglob("*")}
    assert find_torn(copy.path) == []
    (vectors,) = copy.path.glob("segments/*/vector_storage/matrix.dat")
    os.truncate(vectors, vectors.stat().st_size - 1)
    assert find_torn(copy.path) == [os.fspath(vectors.relative_to(copy.path))]


def test_compaction_in_a_process_of_its_own(source: Shard) -> None:
    """What it says is what is told, and its reason if it fails."""
    copy = begun(source)
    told: list[tuple[int, int, str]] = []
    assert copy.compact(with_graph=False, progress=lambda *it: told.append(it))
    assert set(told) == {(0, 0, "compacting")}  # nobody knows how much there is to do
    assert not copy.compact(with_graph=False, progress=lambda *_: None)
    copy.open()
    copy.finish()
    (copy.path / "edge_config.json").write_text(json.dumps({}))
    with pytest.raises(
        StoreError, match=r"could not be compacted: .* cannot be read: .* nothing is lost"
    ):
        copy.compact(with_graph=True, progress=lambda *_: None)


def test_compactor_that_hangs(
    source: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended when it has computed nothing for long; the collection is as it was."""
    copy = begun(source)
    hanging = tmp_path / "python"
    hanging.write_text(f"#!{sys.executable}\nimport signal; signal.pause()\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(sys, "executable", os.fspath(hanging))
    monkeypatch.setattr(embedded_copy, "_MOST_IDLE_S", 2.0)
    monkeypatch.setattr(process_table, "_READ_EVERY_S", 0.5)
    ticks: list[str] = []

    def progress(*told: object) -> None:
        ticks.append(str(told))
        assert len(ticks) < 30, "nobody saw that it hangs"

    with pytest.raises(StoreError, match=r"computed nothing for 2 s.* ended.* nothing is lost"):
        copy.compact(with_graph=False, progress=progress)


def test_compactor_whose_owner_is_gone(source: Shard) -> None:
    """It does nothing, if that was so before it began."""
    copy = begun(source)
    request = json.dumps({"path": os.fspath(copy.path), "with_graph": False})
    command = [sys.executable, "-P", "-m", "warmclip.store.embedded_compactor", request]
    ended, other = os.pipe()
    os.close(other)
    child = subprocess.run(command, stdin=ended, capture_output=True, timeout=60, check=False)
    os.close(ended)
    assert (child.returncode, child.stdout, child.stderr) == (1, b"", b"")
    assert not is_compacted(copy.path)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS ignores the signal")
def test_compactor_whose_owner_is_killed() -> None:
    """Its pipe ends, and so does it, whatever it is at: the engine would not let Python look."""
    program = (
        "import time; from warmclip.store.embedded_compactor import _leave_with_parent as leave; "
        "leave(); print('works', flush=True); time.sleep(5)"
    )
    command = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"works\n"
        child.stdin.close()
        assert child.wait(30) == -signal.SIGIO


@pytest.mark.parametrize(
    ("printed", "end"),
    [("", ""), ("one\n two \n\n", ": two"), ("x" * 1000, ": " + "x" * 300)],
)
def test_last_words_of_a_compactor(printed: str, end: str) -> None:
    """The last line that it printed, in bounds."""
    assert embedded_copy._end(printed) == end
