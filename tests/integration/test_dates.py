"""Dates on which pictures were taken: stored, searched by, and added to what was stored before."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from pictures import draw, tiles
from standins.pixels import PixelEncoder
from warmclip.indexing.indexer import Indexer
from warmclip.store.filter import Filter
from warmclip.store.protocol import Payload
from warmclip.store.qdrant import QdrantStore

pytestmark = pytest.mark.quick


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    """An embedded store."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        yield store


def photo(path: Path, taken: str) -> None:
    """A picture that was taken then, in a file of today."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    tiles(len(path.name)).save(path, exif=exif)


def payloads(store: QdrantStore) -> dict[str, Payload]:
    """What is stored, by file name."""
    return {Path(it.payload.path).name: it.payload for it in store.scroll("images")}


def test_dates_of_a_folder(store: QdrantStore, tmp_path: Path) -> None:
    """A search by days goes by cameras' clocks, or by files if they do not tell, or if asked to."""
    photos = tmp_path / "photos"
    photos.mkdir()
    photo(photos / "old.jpg", "2019:07:20 23:59:59")
    photo(photos / "never.jpg", "2446:01:01 00:00:00")
    draw(photos / "plain.png", 3)
    indexer = Indexer(PixelEncoder(), store, home=tmp_path / "home")
    assert indexer.index([photos]).indexed == 3
    assert {name: it.taken_at for name, it in payloads(store).items()} == {
        "old.jpg": "2019-07-20T23:59:59",
        "never.jpg": "",
        "plain.png": "",
    }

    def found(only: Filter) -> list[str]:
        return sorted(Path(it.payload.path).name for it in indexer.search("red", only=only))

    day = date(2019, 7, 20)
    assert found(Filter(since=day, until=day)) == ["old.jpg"]
    assert found(Filter(since=date(2020, 1, 1))) == ["never.jpg", "plain.png"]
    assert found(Filter(until=day, by_file_date=True)) == []
    assert len(found(Filter(since=date(2020, 1, 1), by_file_date=True))) == 3


def test_collection_from_before_dates(store: QdrantStore, tmp_path: Path) -> None:
    """The next run reads each picture once, embeds none, and the one after it reads none."""
    photos = tmp_path / "photos"
    photos.mkdir()
    photo(photos / "a.jpg", "2019:07:20 12:00:00")
    draw(photos / "plain.png", 3)
    indexer = Indexer(PixelEncoder(), store, home=tmp_path / "home")
    indexer.index([photos])
    before = list(store.scroll("images", with_vectors=True))
    store.upsert(
        "images", [replace(it, payload=replace(it.payload, taken_at=None)) for it in before]
    )
    report = indexer.index([photos])
    assert (report.indexed, report.reused, report.unchanged) == (0, 2, 0)
    assert payloads(store)["a.jpg"].taken_at == "2019-07-20T12:00:00"
    again = indexer.index([photos])
    assert (again.reused, again.unchanged) == (0, 2)
