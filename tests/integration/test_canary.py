"""The canary of health: a text is embedded, and what is stored is found."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving import draw
from warmclip.errors import SettingsError, SpaceMismatch, StoreError
from warmclip.settings import Settings
from warmclip.store.embedded_lock import lock_store
from warmclip.work.horse.context import JobContext, open_context
from warmclip.work.jobs import canary, index_images

COLLECTION = "images"


@pytest.fixture
def context(tmp_path: Path, demo_bundle: Path) -> Iterator[JobContext]:
    """This process as a horse, with a store of its own."""
    settings = Settings(home=tmp_path / "home", bundle=demo_bundle)
    lock = lock_store(settings.embedded_store)
    with open_context(settings, store_owner=lock) as context:
        yield context
    os.close(lock)


def index(folder: Path, count: int) -> Sequence[str]:
    """Store so many pictures."""
    paths = [str(path) for path in draw(folder, count)]
    assert index_images(paths, COLLECTION)["indexed"] == count
    return paths


def test_without_a_collection(context: JobContext) -> None:
    """Only a text is embedded, as by a server of an older version."""
    answer = canary()
    assert answer["found"] is None
    assert answer["providers"] == context.encoder.providers


@pytest.mark.usefixtures("context")
def test_nothing_is_stored_yet() -> None:
    """That is no fault; a name that no collection can have is one."""
    assert canary(COLLECTION)["found"] is None
    with pytest.raises(SettingsError, match="WARMCLIP_COLLECTION"):
        canary("no/collection")


def test_stored_picture_is_found(context: JobContext, tmp_path: Path) -> None:
    """It names one of those that are stored."""
    index(tmp_path / "pictures", 5)
    stored = {point.id for point in context.store.scroll(COLLECTION)}
    assert canary(COLLECTION)["found"] in stored


@pytest.mark.usefixtures("context")
def test_copies_of_one_picture(tmp_path: Path) -> None:
    """Of more copies than a search returns, any may be found."""
    (first,) = draw(tmp_path / "pictures", 1)
    for number in range(40):
        (first.parent / f"copy-{number}.png").write_bytes(first.read_bytes())
    paths = [str(path) for path in first.parent.iterdir()]
    index_images(paths, COLLECTION)
    assert canary(COLLECTION)["found"] is not None


class Forgetful:
    """A real store, one of whose searches finds something else than it should."""

    def __init__(self, store: Any, hits: int) -> None:
        self._store = store
        self._hits = hits

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """The first search is right, later ones miss the best hits."""
        found = self._store.search(*args, **kwargs)
        lost, self._hits = self._hits, 1
        return found[lost:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("lost", [0, 1], ids=["one is missed", "none is found"])
def test_stored_picture_is_not_found(context: JobContext, tmp_path: Path, lost: int) -> None:
    """The error names it, and what to do; a worker that only embeds would say that all is well."""
    index(tmp_path / "pictures", 5)
    context.__dict__["store"] = Forgetful(context.store, lost)
    with pytest.raises(StoreError, match=r"by the vector of '.*png'.*restart the worker"):
        canary(COLLECTION)


def test_collection_of_another_model(
    context: JobContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose model is not the collection's says so."""
    index(tmp_path / "pictures", 2)
    monkeypatch.setattr(context, "encoders", {"f" * 64: context.encoder})
    with pytest.raises(SpaceMismatch):
        canary(COLLECTION)
