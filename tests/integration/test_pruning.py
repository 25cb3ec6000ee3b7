"""Orphans that are deleted, and what keeps others from being deleted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pictures import draw
from standins.pixels import PixelEncoder
from warmclip.errors import PruneRefused
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.mounts import FILE, MountPoints, find_mount_point
from warmclip.indexing.repair import repair_collection
from warmclip.store.protocol import Point, Space
from warmclip.store.qdrant import QdrantStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    """An embedded store."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        yield store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where disks are remembered."""
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seventeen pictures and a nested folder with three, which may be a disk of its own."""
    folder = tmp_path / "photos"
    for number in range(20):
        draw(folder / ("disk" if number < 3 else "own") / f"{number:02}.png", number)
    return folder


def names(store: QdrantStore) -> set[str]:
    """The files that are stored."""
    return {Path(point.payload.path).name for point in store.scroll("images")}


def test_file_that_comes_back_before_its_point_is_deleted(
    store: QdrantStore, photos: Path, tmp_path: Path
) -> None:
    """It is looked at once more, after everything else was indexed."""
    Indexer(PixelEncoder(), store).index([photos])
    gone, away = photos / "own" / "10.png", tmp_path / "away.png"
    gone.rename(away)
    draw(photos / "own" / "new.png", 77)
    encoder = PixelEncoder(before_each=lambda: away.rename(gone))
    assert Indexer(encoder, store).index([photos], prune=True).pruned == 0
    assert {"10.png", "new.png"} <= names(store)


@pytest.mark.parametrize("by", ["index", "audit"])
def test_file_that_is_indexed_again_while_its_point_is_deleted(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Between the last look and the deletion somebody brings it back: its new point stays."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    gone = photos / "own" / "10.png"
    gone.unlink()
    report = audit_folders(store, "images", [photos])
    delete = store.delete_unchanged

    def too_late(name: str, points: Sequence[Point]) -> frozenset[str]:
        monkeypatch.setattr(store, "delete_unchanged", delete)
        draw(gone, 88)
        assert indexer.index_files([str(gone)]).indexed == 1
        return delete(name, points)

    monkeypatch.setattr(store, "delete_unchanged", too_late)
    if by == "index":
        assert indexer.index([photos], prune=True).pruned == 0
    else:
        repaired = repair_collection(store, report, indexer.index_files).repaired
        assert repaired is not None
        assert (repaired.pruned, repaired.skipped) == (0, {})
    assert "10.png" in names(store)


@pytest.mark.parametrize("comes_back", [False, True])
def test_picture_in_former_vectors(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    """What is gone for good is gone from the vectors that ``migrate`` kept; what came back is not.

    It comes back after its point was deleted, and before those are looked at.
    """
    Indexer(PixelEncoder(), store).index([photos])
    former = Space(fingerprint="fe" * 32, dim=PixelEncoder().space.dim)
    collection = store.create_collection("images", former)
    kept = [
        replace(it, payload=replace(it.payload, fingerprint=former.fingerprint))
        for it in store.scroll("images", with_vectors=True)
    ]
    store.upsert("images", kept)
    gone = photos / "own" / "10.png"
    gone.unlink()
    delete = store.delete_unchanged

    def and_come_back(name: str, points: Sequence[Point]) -> frozenset[str]:
        deleted = delete(name, points)
        if comes_back:
            draw(gone, 10)
        return deleted

    monkeypatch.setattr(store, "delete_unchanged", and_come_back)
    assert Indexer(PixelEncoder(), store).index([photos], prune=True).pruned == 1
    left = {Path(it.payload.path).name for it in store.scroll(collection)}
    assert ("10.png" in left) is comes_back
    assert len(left) == (20 if comes_back else 19)


class Disks:
    """Which folders are mount points, as a test says it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *mounted: Path) -> None:
        self.mounted = set(map(str, mounted))
        is_mount = os.path.ismount
        monkeypatch.setattr(
            "warmclip.indexing.mounts.os.path.ismount",
            lambda path: str(path) in self.mounted or is_mount(path),
        )


@pytest.mark.parametrize("is_left_as_a_folder", [True, False])
@pytest.mark.parametrize("by", ["index", "audit"])
def test_nested_disk_that_is_not_mounted(
    store: QdrantStore,
    photos: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    is_left_as_a_folder: bool,
) -> None:
    """Its pictures, less than a fifth of the collection, are not taken for deleted; nothing is
    changed until it is mounted again, or said to be gone for good.
    """
    disk = photos / "disk"
    disks = Disks(monkeypatch, disk)
    indexer = Indexer(PixelEncoder(), store, home=home)
    indexer.index([photos])
    content = {path: path.read_bytes() for path in disk.iterdir()}
    for path in content:
        path.unlink()
    if not is_left_as_a_folder:
        disk.rmdir()
    disks.mounted.clear()
    draw(photos / "own" / "new.png", 77)

    def prune(*, yes: bool = False) -> None:
        if by == "index":
            indexer.index([photos], prune=True, yes=yes)
        else:
            report = audit_folders(store, "images", [photos])
            repair_collection(store, report, indexer.index_files, home=home, yes=yes)

    with pytest.raises(PruneRefused, match=rf"3 pictures below '{disk}', where a disk was mounted"):
        prune()
    assert len(names(store)) == 20
    disk.mkdir(exist_ok=True)
    for path, data in content.items():
        path.write_bytes(data)
    disks.mounted.add(str(disk))
    prune()
    assert len(names(store)) == 21
    for path in content:
        path.unlink()
    disks.mounted.clear()
    prune(yes=True)
    assert len(names(store)) == 18


def test_disk_from_which_a_picture_was_deleted(
    store: QdrantStore, photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is mounted, its pictures come and go as everywhere."""
    Disks(monkeypatch, photos / "disk")
    indexer = Indexer(PixelEncoder(), store, home=home)
    indexer.index([photos])
    (photos / "disk" / "00.png").unlink()
    assert indexer.index([photos], prune=True).pruned == 1


def test_remembered_disks(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They add up from run to run; a damaged file is made anew; the root is none of them."""
    one, two = tmp_path / "one", tmp_path / os.fsdecode(b"tw\xf6")
    disks = Disks(monkeypatch, one, two, Path("/"))
    disks.mounted.add("/")
    MountPoints(home).add([f"{one}/deep/a.png", "/a.png"])
    MountPoints(home).add([f"{two}/a.png"])
    disks.mounted -= {str(one), str(two)}
    paths = [f"{one}/a.png", f"{one}/b.png", f"{two}/a.png", "/a.png", f"{one}-2/a.png"]
    assert MountPoints(home).find_unmounted(paths) == {str(one): 2, str(two): 1}
    assert MountPoints(home).find_unmounted(["/a.png"]) == {}
    (home / FILE).write_text("no JSON")
    assert MountPoints(home).find_unmounted(paths) == {}
    disks.mounted.add(str(one))
    MountPoints(home).add([f"{one}/a.png"])
    disks.mounted.remove(str(one))
    assert MountPoints(home).find_unmounted(paths) == {str(one): 2}


def test_mount_point_of_a_real_file() -> None:
    """It is what the system says it is."""
    folder = Path(find_mount_point("/proc/self/status"))
    assert os.path.ismount(folder)
