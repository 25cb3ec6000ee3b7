"""Excluded pictures: never indexed, and of those that are stored already, deleted when asked."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pictures import draw
from standins.pixels import PixelEncoder
from warmclip.errors import PruneRefused
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.exclusion import IGNORE_FILE
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.repair import repair_collection
from warmclip.store.qdrant import QdrantStore

pytestmark = pytest.mark.quick


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    """An embedded store."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        yield store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures, three of them in a folder of their own."""
    folder = tmp_path / "photos"
    for number in range(20):
        draw(folder / ("raw" if number < 3 else "own") / f"{number:02}.png", number)
    return folder


def ignore(folder: Path, *lines: str) -> None:
    """Write an ignore file."""
    (folder / IGNORE_FILE).write_text("\n".join(lines), encoding="utf-8")


def stored(store: QdrantStore) -> set[str]:
    """The files that are stored."""
    return {Path(point.payload.path).name for point in store.scroll("images")}


RAW = {"00.png", "01.png", "02.png"}


@pytest.mark.parametrize("by", ["file", "option"])
def test_pictures_that_are_excluded_later(store: QdrantStore, photos: Path, by: str) -> None:
    """A plain run leaves them stored; the one that is told to prune deletes them."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    given = []
    if by == "file":
        ignore(photos, "raw/")
    else:
        given = ["raw/"]
    plain = indexer.index([photos], exclude=given)
    assert (plain.unchanged, plain.pruned, plain.ignored["excluded"]) == (17, 0, 1)
    assert stored(store) >= RAW
    assert indexer.index([photos], exclude=given, prune=True).pruned == 3
    assert stored(store).isdisjoint(RAW)
    assert len(stored(store)) == 17


def test_all_pictures_are_excluded(store: QdrantStore, photos: Path) -> None:
    """The folder is not taken for the place of a disk that is away; that much needs a yes."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    ignore(photos, "*.png")
    with pytest.raises(PruneRefused, match=r"20 of the 20 pictures.*too much excluded"):
        indexer.index([photos], prune=True)
    assert len(stored(store)) == 20
    assert indexer.index([photos], prune=True, yes=True).pruned == 20
    assert stored(store) == set()


@pytest.mark.parametrize("by", ["file", "option"])
def test_audit(store: QdrantStore, photos: Path, by: str) -> None:
    """Stored pictures that are excluded are orphans, others that are excluded are not missing."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    draw(photos / "raw" / "new.png", 77)
    given = []
    if by == "file":
        ignore(photos, "raw/")
    else:
        given = ["raw/"]
    report = audit_folders(store, "images", [photos], exclude=given)
    assert {Path(it.path).name for it in report.orphans if it.excluded} == RAW
    assert (report.faults, report.exit_code, report.missing) == (3, 1, ())
    told = json.loads(json.dumps(report.to_dict()))
    assert all(it["excluded"] for it in told["orphans"])
    assert (told["exclude"], told["ignored"]["excluded"]) == (given, 1)
    repaired = repair_collection(store, report, indexer.index_files).repaired
    assert repaired is not None
    assert (repaired.pruned, repaired.skipped) == (3, {})
    assert stored(store).isdisjoint(RAW)
    assert audit_folders(store, "images", [photos], exclude=given).exit_code == 0


def test_audit_of_a_folder_inside(store: QdrantStore, photos: Path) -> None:
    """The file above it counts: a repair does not bring back what another run has left out."""
    ignore(photos, "new.png")
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    draw(photos / "own" / "new.png", 77)
    assert audit_folders(store, "images", [photos / "own"]).exit_code == 0


def test_picture_that_is_included_again(store: QdrantStore, photos: Path) -> None:
    """Before a repair deletes it, it is looked at once more."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    ignore(photos, "raw/")
    report = audit_folders(store, "images", [photos])
    (photos / IGNORE_FILE).unlink()
    repaired = repair_collection(store, report, indexer.index_files).repaired
    assert repaired is not None
    assert repaired.pruned == 0
    assert stored(store) >= RAW


def test_file_that_cannot_be_used(store: QdrantStore, photos: Path) -> None:
    """Nothing is indexed there and nothing deleted, whatever it was meant to say."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    draw(photos / "raw" / "new.png", 77)
    ignore(photos / "raw", "*.png", "[")
    report = indexer.index([photos], prune=True)
    assert (report.pruned, report.indexed, report.exit_code) == (0, 0, 1)
    assert "line 2" in report.skipped[str(photos / "raw")]
    audited = audit_folders(store, "images", [photos])
    assert (audited.orphans, audited.exit_code) == ((), 1)


def test_vectors_that_migrate_has_kept(store: QdrantStore, photos: Path) -> None:
    """An excluded picture does not come back with them."""
    Indexer(PixelEncoder(), store).index([photos])
    other = Indexer(PixelEncoder("b"), store)
    other.migrate()
    ignore(photos, "raw/")
    assert other.index([photos], prune=True).pruned == 3
    former = store.list_generations("images")[1]
    assert former.points == 17
