"""Thumbnails that are kept on disk."""

import os
from pathlib import Path

import pytest

from warmclip.indexing.thumbnail_cache import FOLDER, ThumbnailCache, is_version, version_of

JPEG = b"\xff\xd8" + bytes(1000) + b"\xff\xd9"


def version(number: int, side_px: int = 256) -> str:
    """Of one of many pictures."""
    return f"{number:08x}{'0' * 24}-{side_px}-2"


def test_drawing(tmp_path: Path) -> None:
    """It is there for its own size only, after a restart as well, and for nobody else to see."""
    ThumbnailCache(tmp_path).put(version(1), JPEG)
    cache = ThumbnailCache(tmp_path)
    assert (cache.get(version(1)), cache.get(version(1, 64))) == (JPEG, None)
    assert (tmp_path / FOLDER).stat().st_mode & 0o077 == 0
    cache.clear()
    assert cache.get(version(1)) is None
    cache.clear()


@pytest.mark.parametrize("torn", [b"", JPEG[:500], b"text"])
def test_torn_file(tmp_path: Path, torn: bytes) -> None:
    """It is as if it were not there, and is replaced."""
    cache = ThumbnailCache(tmp_path)
    cache.put(version(1), JPEG)
    (tmp_path / FOLDER / version(1)).write_bytes(torn)
    assert cache.get(version(1)) is None
    cache.put(version(1), JPEG)
    assert cache.get(version(1)) == JPEG


def test_too_many(tmp_path: Path) -> None:
    """What was used longest ago goes, and no more than is needed."""
    cache = ThumbnailCache(tmp_path, most_bytes=20 * len(JPEG))
    for number in range(1, 31):
        cache.put(version(number), JPEG)
        os.utime(tmp_path / FOLDER / version(number), (number, number))
    assert cache.get(version(2)) == JPEG  # it is used now
    cache.put(version(128), JPEG)
    kept = {number for number in range(1, 129) if cache.get(version(number))}
    assert kept == {2, *range(15, 31), 128}


def test_almost_too_many(tmp_path: Path) -> None:
    """Nothing goes."""
    cache = ThumbnailCache(tmp_path, most_bytes=20 * len(JPEG))
    for number in (*range(1, 19), 128):
        cache.put(version(number), JPEG)
    assert len(list((tmp_path / FOLDER).iterdir())) == 19


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (version_of("0123456789abcdef" * 4, 1600, 2), True),
        (version_of("0123456789abcdef" * 4, 64, 100), True),
        (version_of("0123456789ABCDEF" * 4, 64, 2), False),
        (version_of("short", 64, 2), False),
        (version(1) + "\n", False),
        (f"../{version(1)}", False),
        ("", False),
    ],
)
def test_what_names_a_drawing(text: str, expected: bool) -> None:
    """The digest, the side and the way of drawing, and nothing that leads elsewhere."""
    assert is_version(text) is expected


def test_digest_that_is_a_path(tmp_path: Path) -> None:
    """A store that others write to may hold anything; nothing is read or written elsewhere."""
    (tmp_path / "secret").write_bytes(JPEG)
    cache = ThumbnailCache(tmp_path)
    cache.put(version(1), JPEG)
    cache.put("../other", JPEG)
    assert cache.get("../secret") is None
    assert not (tmp_path / "other").exists()


def test_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and does no harm."""
    (tmp_path / FOLDER).write_text("a file")
    cache = ThumbnailCache(tmp_path)
    cache.put(version(1), JPEG)
    assert cache.get(version(1)) is None
    assert "thumbnails are not kept" in caplog.text
    cache.clear()
