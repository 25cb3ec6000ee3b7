"""A folder as people have it: each file counts where it belongs, and is read once."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pictures import tiles
from raw_files import RAW
from standins.pixels import PixelEncoder
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.exclusion import IGNORE_FILE
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.repair import repair_collection
from warmclip.store.qdrant import QdrantStore

pytestmark = pytest.mark.quick

PICTURES = (
    *("a.jpg", "b.PNG", "c.gif", "d.webp", "e.tiff", "f.bmp", "trip/g.jpeg"),
    *("My.photoslibrary/originals/0/h.jpeg", "not excluded/i.png"),
)
LARGE = "108 MP.jpg"  # as a phone takes them; of one grey, so that it is small and soon decoded
CAMERA = {f"raw files/{number}.{kind}": kind for number in range(20) for kind in RAW}
EXCLUDED = (
    *("@eaDir/a.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", "lost+found/a.jpg"),
    *("__MACOSX/a.jpg", "trip/node_modules/x/a.png", "My.photoslibrary/resources/0/h.jpeg"),
    *("raw/a.png", "trip/g-small.jpg"),
)
OTHERS = (
    *("film.mov", "film.MP4", "trip/film.mov", "draft.psd", "read me.txt", "NOTES"),
    *("._a.jpg", ".git/a.png", ".k.jpg.icloud"),
)
UNREADABLE = {"broken.jpg": b"no picture", "empty.png": b"", "cut.webp": b"RIFF\0\0\0\0WEBP"}

_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_watch)  # it cannot be taken away again


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    """An embedded store."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        yield store


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that this process opens."""
    global _opened  # noqa: PLW0603 - for the hook
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folder."""
    top = tmp_path / "photos"
    for number, name in enumerate((*PICTURES, *EXCLUDED, *OTHERS)):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        kind = name.rpartition(".")[2].lower()
        tiles(number).save(top / name, kind if kind in ("gif", "webp", "tiff", "bmp") else "png")
    for name, content in UNREADABLE.items():
        (top / name).write_bytes(content)
    for number, (name, kind) in enumerate(CAMERA.items()):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(RAW[kind]() + bytes([number]))  # no two are one content
    Image.new("L", (12_000, 9_000), 90).save(top / LARGE, quality=30)
    (top / "link").symlink_to(top / "trip")
    (top / IGNORE_FILE).write_text("raw/\n*-small.jpg\n")
    return top


def test_folder_of_many_kinds(
    store: QdrantStore, photos: Path, tmp_path: Path, opened: list[str]
) -> None:
    """The second run opens no picture, and an audit has nothing left to say after a repair."""
    indexer = Indexer(PixelEncoder(), store, home=tmp_path / "home")
    first = indexer.index([photos])
    expected = len(PICTURES) + len(CAMERA) + 1
    assert (photos / LARGE).stat().st_size < 2_000_000
    (large,) = (it.payload for it in store.scroll("images") if it.payload.path.endswith(LARGE))
    assert (large.width_px, large.height_px) == (12_000, 9_000)
    assert (first.indexed, first.exit_code) == (expected, 1)
    assert set(first.skipped) == {str(photos / name) for name in UNREADABLE}
    assert first.ignored == {
        "excluded": 9,
        ".mov": 2,
        ".mp4": 1,
        ".psd": 1,
        ".txt": 1,
        "without suffix": 1,
        "hidden": 3,
        "only in iCloud": 1,
        "linked": 1,
    }
    inside = str(photos) + os.sep
    assert any(path.startswith(inside) for path in opened)
    opened.clear()
    second = indexer.index([photos])
    assert (second.unchanged, second.indexed, second.exit_code) == (expected, 0, 0)
    assert (second.unreadable, second.ignored) == (first.skipped, first.ignored)
    read = {path for path in opened if path.startswith(inside) and Path(path).is_file()}
    assert read <= {str(photos / IGNORE_FILE)}
    (photos / "a.jpg").unlink()
    report = audit_folders(store, "images", [photos], home=tmp_path / "home")
    assert (report.faults, report.exit_code) == (1, 1)
    repaired = repair_collection(store, report, indexer.index_files, home=tmp_path / "home")
    assert repaired.exit_code == 0
    again = audit_folders(store, "images", [photos], home=tmp_path / "home")
    assert (again.exit_code, set(again.unreadable)) == (0, set(first.skipped))
