"""Points on their way into a store: in batches, with the canaries that they still wait for."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from standins.disk import free_blocks
from standins.points import SPACE, point
from warmclip.errors import StoreError
from warmclip.indexing.point_writer import PointWriter
from warmclip.inference.selection.canary import Canary
from warmclip.store.qdrant import QdrantStore


class Writing:
    """A writer, what came of it, and the canaries that are good."""

    def __init__(self, store: QdrantStore, executor: ThreadPoolExecutor) -> None:
        self.counts: list[int] = []
        self.proven = 0  # canaries below this number
        self.writer = PointWriter(
            store,
            "images",
            is_proven=lambda it: it is None or it.number < self.proven,
            executor=executor,
            on_written=self.counts.append,
        )
        self._store = store

    def write(self, numbers: range, canary: int | None = None) -> None:
        """Write points, which wait for a canary if one is named."""
        told = "" if canary is None else str(Canary(guard="g", number=canary))
        for number in numbers:
            made = point(number)
            self.writer.write(replace(made, payload=replace(made.payload, canary=told)))

    @property
    def stored(self) -> dict[str, str]:
        """The points that are stored, by id, each with the canary that it waits for."""
        return {it.id: it.payload.canary for it in self._store.scroll("images")}


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    """A writer with a thread, and a collection that is empty."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store, ThreadPoolExecutor(1) as executor:
        store.ensure_collection("images", SPACE)
        yield Writing(store, executor)


def waiting(numbers: range, canary: str) -> dict[str, str]:
    """These points, waiting for a canary."""
    return {point(number).id: canary for number in numbers}


@pytest.mark.parametrize(
    ("count", "batches"), [(0, []), (1, [1]), (64, [64]), (65, [64, 1]), (200, [64, 64, 64, 8])]
)
def test_batches(writing: Writing, count: int, batches: list[int]) -> None:
    """All are written, each once, and it is told how many."""
    writing.write(range(count))
    writing.writer.flush()
    writing.writer.flush()
    assert writing.counts == batches
    assert writing.stored == waiting(range(count), "")


def test_canary_that_is_good_before_the_write(writing: Writing) -> None:
    """The point is stored as one that waits for nothing."""
    writing.proven = 1
    writing.write(range(64), canary=0)
    writing.writer._wait()  # until the batch is written
    assert writing.stored == waiting(range(64), "")


def test_canary_that_is_good_after_the_write(writing: Writing) -> None:
    """The point is stored with it, and marked later; others stay as they are."""
    writing.write(range(64), canary=0)
    writing.write(range(64, 100), canary=5)
    writing.writer._wait()  # until the first batch is written
    assert writing.stored == waiting(range(64), "g-0")
    writing.proven = 1
    writing.writer.flush()
    rest = waiting(range(64, 100), "g-5")
    assert writing.stored == waiting(range(64), "") | rest
    writing.proven = 10
    writing.writer.flush()  # it is another run's to prove the rest
    assert writing.stored == waiting(range(64), "") | rest


def test_write_that_fails(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at the next write that has to wait for it, or at the end."""
    monkeypatch.setattr(os, "statvfs", free_blocks(0))
    writing.write(range(64))
    with pytest.raises(StoreError, match="is full"):
        writing.write(range(64, 128))
    with pytest.raises(StoreError, match="is full"):
        writing.writer.flush()
    assert writing.counts == []
    assert writing.stored == {}
