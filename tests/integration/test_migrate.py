"""A collection carried over to another model, while others write, and after an earlier time."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pictures import draw
from standins.pixels import PixelEncoder
from warmclip.errors import (
    PruneRefused,
    SettingsError,
    SourceChanged,
    SpaceMismatch,
    StoreError,
)
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.migration import switch_back
from warmclip.store.protocol import Point, collection_of
from warmclip.store.qdrant import QdrantStore


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures that differ."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        draw(folder / f"{number:04}.png", number)
    return folder


@pytest.fixture
def old(store: QdrantStore, photos: Path) -> Indexer:
    """The former model, with the pictures indexed."""
    indexer = Indexer(PixelEncoder("a"), store)
    indexer.index([photos])
    return indexer


def stored(store: QdrantStore, name: str = "images") -> dict[str, Point]:
    """File name -> point; a file that is stored twice fails the test."""
    points = list(store.scroll(name, with_vectors=True))
    by_name = {Path(point.payload.path).name: point for point in points}
    assert len(by_name) == len(points)
    return by_name


def at_picture(number: int, action: Callable[[], object]) -> Callable[[], None]:
    """Something that happens before one picture, counted from 1, is embedded."""
    numbers = itertools.count(1)

    def run() -> None:
        if next(numbers) == number:
            action()

    return run


def test_migrate(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """Every picture is embedded with the new model, and searched with it from then on."""
    new = Indexer(PixelEncoder("b"), store)
    (photos / "0003.png").unlink()
    report = new.migrate()
    assert report.indexed == 9
    assert [Path(path).name for path in report.skipped] == ["0003.png"]
    assert len(new.search("red", limit=20)) == 9
    with pytest.raises(SpaceMismatch):
        old.search("red")
    assert new.migrate().unchanged == 9  # again: nothing left to do


def test_migrate_without_the_pictures(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """It switches nothing while a large part cannot be read, unless told to."""
    new = Indexer(PixelEncoder("b"), store)
    for number in range(5):
        (photos / f"{number:04}.png").unlink()
    with pytest.raises(PruneRefused, match="5 of 10"):
        new.migrate()
    assert len(old.search("red", limit=20)) == 10
    assert new.migrate(yes=True, drop=True).unchanged == 5
    assert len(new.search("red", limit=20)) == 5
    assert len(store.list_generations("images")) == 1


def test_migrate_interrupted(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """The former vectors serve until the end, and a second run does only what is left."""
    for number in range(10, 100):
        draw(photos / f"{number:04}.png", number)
    old.index([photos])
    countdown = iter(range(80))
    broken = PixelEncoder("b", before_each=lambda: next(countdown))
    with pytest.raises(RuntimeError):  # the countdown's StopIteration, out of a generator
        Indexer(broken, store).migrate()
    assert len(old.search("red", limit=200)) == 100
    encoder = PixelEncoder("b")
    report = Indexer(encoder, store).migrate()
    assert (report.unchanged, encoder.embedded) == (64, 36)
    assert len(stored(store)) == 100


def test_migrate_of_no_collection(store: QdrantStore) -> None:
    """It says that there is none."""
    with pytest.raises(StoreError, match="no collection"):
        Indexer(PixelEncoder(), store).migrate()


def test_deleted_picture_does_not_come_back(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """There and back: what was deleted and pruned in between is in neither vectors."""
    new = Indexer(PixelEncoder("b"), store)
    new.migrate()
    (photos / "0003.png").unlink()
    assert new.index([photos], prune=True).pruned == 1
    former = collection_of("images", "a" * 64)
    assert "0003.png" not in stored(store, former)
    report = old.migrate()
    assert (report.unchanged, report.indexed, report.skipped) == (9, 0, {})
    assert "0003.png" not in stored(store)


def test_picture_deleted_otherwise_does_not_come_back(
    store: QdrantStore, photos: Path, old: Indexer
) -> None:
    """Whoever deleted it from the collection in use: the former vectors follow it."""
    new = Indexer(PixelEncoder("b"), store)
    new.migrate()
    point = stored(store)["0003.png"]
    store.delete_unchanged("images", [point])
    assert "0003.png" in stored(store, collection_of("images", "a" * 64))
    old.migrate()
    assert len(stored(store)) == 9
    assert photos.joinpath("0003.png").exists()


def test_picture_deleted_after_an_abandoned_migration(
    store: QdrantStore, photos: Path, old: Indexer
) -> None:
    """What the abandoned one had embedded is not taken over."""
    countdown = iter(range(10))
    draw(photos / "last.png", 99)
    old.index([photos])
    broken = PixelEncoder("b", before_each=lambda: next(countdown))
    with pytest.raises(RuntimeError):
        Indexer(broken, store).migrate()
    (photos / "0003.png").unlink()
    old.index([photos], prune=True)
    Indexer(PixelEncoder("b"), store).migrate()
    assert sorted(stored(store)) == sorted(path.name for path in photos.iterdir())


def test_former_vector_of_another_content(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """It is not taken for the present one, even if size and time of the file are the same."""
    changed = photos / "0003.png"
    Image.new("RGB", (48, 32), "red").save(changed, "BMP")
    os.utime(changed, ns=(1, 1))
    old.index([photos])
    new = Indexer(PixelEncoder("b"), store)
    new.migrate()
    Image.new("RGB", (48, 32), "blue").save(changed, "BMP")
    os.utime(changed, ns=(2, 2))
    new.index([photos])
    os.utime(changed, ns=(1, 1))
    new.index([photos])
    assert old.migrate().indexed == 1
    (nearest,) = old.search("blue", limit=1)
    assert Path(nearest.payload.path).name == "0003.png"


def test_pictures_indexed_meanwhile(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """What the former model indexes while the new one embeds is there after the switch."""

    def add() -> None:
        draw(photos / "added.png", 77)
        draw(photos / "0005.png", 78)
        (photos / "0003.png").unlink()
        old.index([photos], prune=True)

    new = Indexer(PixelEncoder("b", before_each=at_picture(1, add)), store)
    report = new.migrate()
    by_name = stored(store)
    assert sorted(by_name) == sorted(path.name for path in photos.iterdir())
    assert report.skipped == {}
    assert {point.payload.fingerprint for point in by_name.values()} == {"b" * 64}
    alone = PixelEncoder("b").encode_images([photos / "0005.png"])[0]
    vector = by_name["0005.png"].vector
    assert vector is not None
    np.testing.assert_allclose(vector, alone, atol=1e-6)


def test_picture_written_at_the_very_switch(
    store: QdrantStore, photos: Path, old: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of the former model that ends just then: its picture is carried over, and one that it
    deleted goes.
    """
    switch = store.switch_alias
    former = collection_of("images", "a" * 64)

    def late(*args: Any, **options: Any) -> str | None:
        result = switch(*args, **options)
        point = stored(store, former)["0003.png"]
        path = draw(photos / "late.png", 77)
        late = replace(point.payload, path=os.path.realpath(path), sha256="0" * 64)
        store.upsert(former, [replace(point, id="0" * 32, payload=late)])
        store.delete_unchanged(former, [stored(store, former)["0004.png"]])
        return result

    monkeypatch.setattr(store, "switch_alias", late)
    Indexer(PixelEncoder("b"), store).migrate(drop=True)
    by_name = stored(store)
    assert "late.png" in by_name
    assert "0004.png" not in by_name
    assert len(by_name) == 10
    assert old.collection == "images"


def test_pictures_indexed_all_the_time(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """It gives up after some passes, says so, and has switched nothing."""
    numbers = iter(range(100, 1000))

    def add() -> None:
        number = next(numbers)
        draw(photos / f"{number:04}.png", number)
        old.index([photos])

    with pytest.raises(SourceChanged, match="run the same command again"):
        Indexer(PixelEncoder("b", before_each=add), store).migrate()
    assert len(old.search("red", limit=100)) >= 10


def test_paths_of_a_second_pass(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """A picture that could not be read at first, and can be then, is no longer skipped."""
    unreadable = photos / "0003.png"
    content = unreadable.read_bytes()

    def mend() -> None:
        unreadable.write_bytes(content)
        draw(photos / "added.png", 77)
        old.index([photos])

    unreadable.write_bytes(b"no picture")
    report = Indexer(PixelEncoder("b", before_each=at_picture(2, mend)), store).migrate()
    assert report.skipped == {}
    assert len(stored(store)) == 11


def test_filled_and_not_switched(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """The former vectors go on answering; the switch then has only the rest to embed."""
    new = Indexer(PixelEncoder("b"), store)
    assert new.migrate(switch=False).indexed == 10
    assert len(old.search("red", limit=20)) == 10
    with pytest.raises(SpaceMismatch, match="not in use"):
        new.search("red")
    draw(photos / "added.png", 77)
    old.index([photos])
    again = new.migrate(switch=False)
    assert (again.indexed, again.unchanged) == (1, 10)
    report = new.migrate()
    assert (report.indexed, report.unchanged) == (0, 11)
    assert len(new.search("red", limit=20)) == 11


def test_way_back_is_not_advised(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """Whoever still has the former model is told to take the other one, not to migrate back."""
    Indexer(PixelEncoder("b"), store).migrate()
    with pytest.raises(SpaceMismatch) as caught:
        old.index([photos])
    assert "b" * 12 in str(caught.value)
    assert "warmclip migrate" not in str(caught.value)


def test_switch_back(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """The former vectors answer again; what was deleted meanwhile does not come back."""
    new = Indexer(PixelEncoder("b"), store)
    new.migrate()
    draw(photos / "added.png", 77)
    (photos / "0003.png").unlink()
    new.index([photos])
    store.delete_unchanged("images", [stored(store)["0003.png"]])
    outcome = switch_back(store, "images")
    assert (outcome.former, outcome.now) == ("b" * 64, "a" * 64)
    assert (outcome.behind, outcome.deleted) == (1, 1)
    assert len(old.search("red", limit=20)) == 9
    assert old.index([photos]).indexed == 1


def test_switch_back_to_half_a_collection(store: QdrantStore, photos: Path, old: Indexer) -> None:
    """Vectors of a migration that has not ended are no way back, unless that is meant."""
    countdown = iter(range(10))
    draw(photos / "last.png", 99)
    old.index([photos])
    with pytest.raises(RuntimeError):
        Indexer(PixelEncoder("b", before_each=lambda: next(countdown)), store).migrate()
    with pytest.raises(PruneRefused, match="11 of 11"):
        switch_back(store, "images")
    assert len(old.search("red", limit=20)) == 11
    assert switch_back(store, "images", "b" * 64, yes=True).behind == 11


@pytest.mark.usefixtures("old")
def test_switch_back_without_former_vectors(store: QdrantStore) -> None:
    """It says so."""
    with pytest.raises(StoreError, match="no vectors of another model"):
        switch_back(store, "images")


@pytest.mark.usefixtures("old")
def test_switch_back_with_several(store: QdrantStore) -> None:
    """It asks which one is meant."""
    Indexer(PixelEncoder("b"), store).migrate()
    Indexer(PixelEncoder("c"), store).migrate()
    with pytest.raises(SettingsError, match=r"aaaaaaaaaaaa, bbbbbbbbbbbb.*--bundle"):
        switch_back(store, "images")
    assert switch_back(store, "images", "b" * 64).now == "b" * 64
