"""What an audit tells of some files, compared in chunks of two with an embedded store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pictures import draw
from standins.pixels import PixelEncoder
from warmclip.indexing import audit
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.indexer import Indexer
from warmclip.store.qdrant import QdrantStore

pytestmark = pytest.mark.quick


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five pictures."""
    monkeypatch.setattr(audit, "_CHUNK", 2)
    monkeypatch.setattr(audit, "_TOLD_EVERY", 2)
    for number in range(5):
        draw(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def store(tmp_path: Path, photos: Path) -> Iterator[QdrantStore]:
    """It has the pictures."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        Indexer(PixelEncoder(), store).index([photos])
        yield store


def test_every_chunk_is_compared(store: QdrantStore, photos: Path) -> None:
    """Each file is looked at once, however many there are, and it is told how far that is."""
    told: list[tuple[int, int, str]] = []
    report = audit_folders(store, "images", [photos], progress=lambda *it: told.append(it))
    assert (report.files, report.points, report.faults, report.identical) == (5, 5, 0, ())
    assert told == [
        *((done, 5, "points") for done in (2, 4)),
        *((done, 5, "files") for done in (0, 2, 4)),
    ]
    for number in range(5):
        draw(photos / f"{number}.png", 10 + number)
    report = audit_folders(store, "images", [photos])
    stale = sorted(Path(it.path).name for it in report.stale)
    assert stale == [f"{number}.png" for number in range(5)]


def test_why_a_point_is_an_orphan(store: QdrantStore, photos: Path) -> None:
    """Its file is gone, or is there and excluded; a file that is neither is compared."""
    (photos / "1.png").unlink()
    (photos / "3.png").unlink()
    report = audit_folders(store, "images", [photos], exclude=["[23].png"])
    assert [(Path(it.path).name, it.excluded) for it in report.orphans] == [
        ("1.png", False),
        ("2.png", True),
        ("3.png", False),
    ]
    assert (report.files, report.missing, report.stale) == (2, (), ())


def test_where_the_content_of_an_orphan_is_stored(store: QdrantStore, photos: Path) -> None:
    """At another place that is there, is as it was stored, and is not excluded."""
    content = (photos / "0.png").read_bytes()
    for name in ("copy.png", "gone.png", "stale.png"):
        (photos / name).write_bytes(content)
    Indexer(PixelEncoder(), store).index([photos])
    for name in ("0.png", "gone.png"):
        (photos / name).unlink()
    draw(photos / "stale.png", 20)
    report = audit_folders(store, "images", [photos])
    elsewhere = str((photos / "copy.png").resolve())
    assert [(Path(it.path).name, it.elsewhere) for it in report.orphans] == [
        ("0.png", elsewhere),
        ("gone.png", elsewhere),
    ]
    assert [Path(it.path).name for it in report.stale] == ["stale.png"]
    assert report.identical == ()
    report = audit_folders(store, "images", [photos], exclude=["copy.png"])
    assert {it.elsewhere for it in report.orphans} == {""}


def test_files_that_are_identical(store: QdrantStore, photos: Path) -> None:
    """Those that are stored as they are, of the folders that are compared."""
    content = (photos / "0.png").read_bytes()
    for name in ("b.png", "a.png", "other/c.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(content)
    (photos / "d.png").write_bytes((photos / "4.png").read_bytes())
    Indexer(PixelEncoder(), store).index([photos])
    report = audit_folders(store, "images", sorted(photos.glob("*.png")))
    assert [[Path(path).name for path in it.paths] for it in report.identical] == [
        ["0.png", "a.png", "b.png"],
        ["4.png", "d.png"],
    ]
    assert report.exit_code == 0
