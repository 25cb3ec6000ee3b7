"""One collection of the embedded engine: what it refuses, and what it says is missing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import qdrant_edge as edge

from standins.disk import free_blocks
from standins.points import DIM, vector
from warmclip.errors import StoreDamaged, StoreError
from warmclip.store import embedded_shard
from warmclip.store.embedded_layout import find_torn, is_cold, make_config, note_files
from warmclip.store.embedded_shard import Shard, check_space, copy_readable, read_noted
from warmclip.store.filters import INDEXED

MB = 1 << 20


def points(*numbers: int) -> edge.UpdateOperation:
    """Store points with these numbers, each with a payload."""
    return edge.UpdateOperation.upsert_points(
        [edge.Point(it + 1, vector(it).tolist(), {"path": f"/photos/{it}"}) for it in numbers]
    )


def filled(path: Path, count: int) -> Shard:
    """A collection of so many points, flushed."""
    shard = Shard.create(path, DIM)
    shard.update(points(*range(count)), points=count)
    shard.flush()
    return shard


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    """A collection of ten points."""
    shard = filled(tmp_path / "images", 10)
    yield shard
    shard.abandon()


@pytest.mark.parametrize(
    ("blocks", "needed_mb", "refused"),
    [
        (16384, 0, ""),
        (16383, 0, r"is full: 63 MB .* needs 64 MB"),
        (33024, 65, ""),
        (33023, 65, r"has too little room: 128 MB .* needs 129 MB"),
    ],
)
def test_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, needed_mb: int, refused: str
) -> None:
    """64 MB stay free, of what this user may fill."""
    monkeypatch.setattr(os, "statvfs", free_blocks(blocks))
    if refused:
        with pytest.raises(StoreError, match=refused):
            check_space(tmp_path, needed_bytes=needed_mb * MB)
    else:
        check_space(tmp_path, needed_bytes=needed_mb * MB)


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"points": 12}', 12), (None, None), ("", None), ("[]", None), ('{"points": null}', None)],
)
def test_noted_points(tmp_path: Path, content: str | None, expected: int | None) -> None:
    """How many there were; nobody knows where the note is gone or torn."""
    if content is not None:
        (tmp_path / "points.json").write_text(content)
    assert read_noted(tmp_path) == expected


def test_flushed_now_and_then(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many points; an operation that writes none counts as one."""
    monkeypatch.setattr(embedded_shard, "FLUSH_EVERY", 5)
    shard.update(points(10, 11, 12), points=3)
    shard.update(points(13))
    assert read_noted(shard.path) == 10
    shard.update(points(14), points=1)
    assert read_noted(shard.path) == 15
    shard.update(points(15), points=1)
    assert read_noted(shard.path) == 15


def test_deleted_and_killed(shard: Shard) -> None:
    """Points that were deleted are not missed afterwards."""
    for number in (1, 2, 3):
        shard.delete(edge.UpdateOperation.delete_points([number]))
    shard.abandon()
    again = Shard.load(shard.path)
    assert again.count() == 7
    again.abandon()


def test_points_are_missing(shard: Shard) -> None:
    """They are counted; what is there can be opened all the same."""
    shard.abandon()
    (shard.path / "points.json").write_text('{"points": 12}')
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="2 of 12 pictures are missing") as raised:
            Shard.load(shard.path)
        assert raised.value.collection == "images"
    opened = Shard.load(shard.path, partial=True)
    assert opened.count() == 10
    opened.abandon()
    (shard.path / "points.json").write_text('{"points": 9}')  # written, and not flushed
    Shard.load(shard.path).abandon()


def test_vectors_are_missing(tmp_path: Path) -> None:
    """The engine opens a file of zeros without a word."""
    shard = Shard.create(tmp_path / "images", DIM)
    shard.update(edge.UpdateOperation.upsert_points([edge.Point(1, [0.0] * DIM, {})]), points=1)
    shard.close()
    with pytest.raises(StoreDamaged, match="the vectors are missing"):
        Shard.load(tmp_path / "images")


def compacted(shard: Shard) -> Path:
    """Its files, compacted and closed; how many points it has was not known before."""
    shard.update(points(*range(100)), points=100)
    shard.flush()
    (shard.path / "points.json").unlink()
    assert shard.optimize()
    assert read_noted(shard.path) == 100
    shard.close()
    note_files(shard.path)
    return shard.path


def shorten(path: Path, pattern: str) -> None:
    """Let a file lose its last byte."""
    file = max(path.glob(pattern), key=lambda it: it.stat().st_size)
    os.truncate(file, file.stat().st_size - 1)


def test_torn_vectors(shard: Shard) -> None:
    """A file that is shorter than it was is named."""
    path = compacted(shard)
    shorten(path, "segments/*/vector_storage/matrix.dat")
    with pytest.raises(StoreDamaged, match=r"matrix\.dat is not whole") as raised:
        Shard.load(path)
    assert raised.value.collection == "images"


def test_torn_index(shard: Shard, caplog: pytest.LogCaptureFixture) -> None:
    """It is made anew from the payloads, which is told, and watched from then on."""
    path = compacted(shard)
    shorten(path, "segments/*/payload_index/**/*.bin")
    for warnings in (1, 1):  # the second opening finds it whole
        opened = Shard.load(path)
        assert opened.count() == 100
        opened.close()
        assert len(caplog.records) == warnings
    assert find_torn(path) == []
    assert not list(path.parent.glob(".*"))


def test_other_damage_is_no_index_s(shard: Shard) -> None:
    """The indexes are put back as they were."""
    path = compacted(shard)
    before = {it: it.read_bytes() for it in path.glob("segments/*/payload_index/**/*.bin")}
    assert before
    for file in path.glob("segments/*/segment.json"):
        file.write_text("torn")
    with pytest.raises(StoreDamaged, match="cannot be opened") as raised:
        Shard.load(path)
    assert raised.value.collection == "images"
    assert {it: it.read_bytes() for it in before} == before
    assert not list(path.parent.glob(".*"))


def test_left_by_a_killed_compaction(shard: Shard) -> None:
    """It is removed."""
    shard.abandon()
    (shard.path / "temp_segments" / "half").mkdir(parents=True)
    Shard.load(shard.path).abandon()
    assert not (shard.path / "temp_segments" / "half").exists()


def test_indexes(tmp_path: Path) -> None:
    """Those that are missing are made, and those of a former version made anew when it is asked."""
    made = edge.EdgeShard.create(os.fspath(tmp_path / "images"), make_config(DIM))
    for field in ("path", "another"):
        made.update(edge.UpdateOperation.create_field_index(field, edge.PayloadSchemaType.Keyword))
    made.close()
    shard = Shard.load(tmp_path / "images")
    for cold in (INDEXED.keys() - {"path"}, set(INDEXED)):
        there = shard.read(lambda it: it.info()).payload_schema
        assert there.keys() == {*INDEXED, "another", "path"}
        assert {name for name, it in there.items() if is_cold(it.params)} == cold
        shard.renew_indexes()
    shard.abandon()


def test_write_that_fails(shard: Shard) -> None:
    """It is said, and what was stored is whole."""
    wrong = edge.UpdateOperation.upsert_points([edge.Point(1, [1.0], {})])
    with pytest.raises(StoreError, match=r"could not write to .*/images: "):
        shard.update(wrong, points=1)
    assert shard.count() == 10


class PanicException(BaseException):
    """What a panic of the engine is called."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("torn"), "torn"),
        (ValueError(), "ValueError"),
        (PanicException("index out of bounds"), "the engine panicked: index out of bounds"),
    ],
)
def test_read_that_fails(shard: Shard, error: BaseException, said: str) -> None:
    """The collection is named, whatever the engine raised."""

    def fail(_: edge.EdgeShard) -> None:
        raise error

    with pytest.raises(StoreDamaged, match=f"/images cannot be read: {said}$") as raised:
        shard.read(fail)
    assert raised.value.collection == "images"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt(shard: Shard, error: type[BaseException]) -> None:
    """It is none of the engine's failures."""

    def fail(_: edge.EdgeShard) -> None:
        raise error

    with pytest.raises(error):
        shard.read(fail)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("IO Error: No space left on device (os error 28)", True),
        ("Io(Os { code: 13, kind: PermissionDenied })", True),
        ("No such file or directory (os error 2)", False),
        ("invalid type: null at line 1", False),
    ],
)
def test_whose_failure(said: str, expected: bool) -> None:
    """The system's refusals damage no file; a file that is not there is damage."""
    assert embedded_shard._EngineError(said).is_of_the_system is expected


def test_what_can_be_read(tmp_path: Path) -> None:
    """All points that are whole, over several pages; the others are passed by."""
    source = filled(tmp_path / "damaged", 300)
    halves = [
        edge.Point(1, vector(0).tolist(), {}),
        edge.Point(2, [0.0] * DIM, {"path": "/photos/1"}),
    ]
    source.update(edge.UpdateOperation.upsert_points(halves))
    source.close()
    (source.path / "points.json").write_text('{"points": 400}')
    target = Shard.create(tmp_path / "images", DIM)
    assert copy_readable(source.path, target) == 298
    assert target.count() == 298
    for file in source.path.glob("segments/*/segment.json"):
        file.write_text("torn")
    assert copy_readable(source.path, target) == 0
    target.abandon()
    Shard.load(target.path).abandon()


def test_full_disk(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written: the engine's mapped files would kill the process."""
    monkeypatch.setattr(os, "statvfs", free_blocks(100))
    for write in (
        lambda: shard.update(points(11)),
        lambda: shard.delete(edge.UpdateOperation.delete_points([1])),
        shard.optimize,
        lambda: Shard.create(shard.path.with_name("second"), DIM),
    ):
        with pytest.raises(StoreError, match="is full"):
            write()
    assert shard.count() == 10
