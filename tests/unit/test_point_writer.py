"""Points on their way into a store: in batches, with the canaries that they still wait for."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import pytest

from standins.points import point
from warmclip.errors import StoreError
from warmclip.indexing.point_writer import PointWriter
from warmclip.inference.selection.canary import Canary
from warmclip.store.protocol import Point, VectorStore


class Written:
    """What a store was given; of the protocol, what a writer uses."""

    def __init__(self) -> None:
        self.batches: list[list[Point]] = []
        self.verified: list[str] = []
        self.failing = False

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Keep them, unless it fails."""
        assert name == "images"
        if self.failing:
            raise StoreError("no room")
        self.batches.append(list(points))

    def mark_verified(self, name: str, points: Sequence[Point]) -> None:
        """Keep their ids."""
        assert name == "images"
        assert points
        self.verified += [it.id for it in points]


class Writing:
    """A writer, what came of it, and the canaries that are good."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.store = Written()
        self.counts: list[int] = []
        self.proven = 0  # canaries below this number
        self.writer = PointWriter(
            cast("VectorStore", self.store),
            "images",
            is_proven=lambda it: it is None or it.number < self.proven,
            executor=executor,
            on_written=self.counts.append,
        )

    def write(self, numbers: range, canary: int | None = None) -> None:
        """Write points, which wait for a canary if one is named."""
        told = "" if canary is None else str(Canary(guard="g", number=canary))
        for number in numbers:
            made = point(number)
            self.writer.write(replace(made, payload=replace(made.payload, canary=told)))

    @property
    def canaries(self) -> list[str]:
        """What the points were stored with."""
        return [it.payload.canary for batch in self.store.batches for it in batch]


@pytest.fixture
def writing() -> Iterator[Writing]:
    """A writer with a thread."""
    with ThreadPoolExecutor(1) as executor:
        yield Writing(executor)


@pytest.mark.parametrize(
    ("count", "batches"), [(0, []), (1, [1]), (64, [64]), (65, [64, 1]), (200, [64, 64, 64, 8])]
)
def test_batches(writing: Writing, count: int, batches: list[int]) -> None:
    """All are written, in order, each once, and it is told how many."""
    writing.write(range(count))
    writing.writer.flush()
    writing.writer.flush()
    assert [len(batch) for batch in writing.store.batches] == batches
    ids = [it.id for batch in writing.store.batches for it in batch]
    assert ids == [point(number).id for number in range(count)]
    assert writing.counts == batches
    assert writing.store.verified == []


def test_canary_that_is_good_before_the_write(writing: Writing) -> None:
    """The point is stored as one that waits for nothing."""
    writing.proven = 1
    writing.write(range(3), canary=0)
    writing.writer.flush()
    assert writing.canaries == [""] * 3
    assert writing.store.verified == []


def test_canary_that_is_good_after_the_write(writing: Writing) -> None:
    """The point is stored with it, and marked later, once; others stay as they are."""
    writing.write(range(64), canary=0)
    writing.write(range(64, 100), canary=5)
    writing.writer._wait()  # until the first batch is written
    writing.proven = 1
    writing.writer.flush()
    assert writing.canaries == ["g-0"] * 64 + ["g-5"] * 36
    assert writing.store.verified == [point(number).id for number in range(64)]
    writing.proven = 10
    writing.writer.flush()  # it is another run's to prove the rest
    assert len(writing.store.verified) == 64


def test_write_that_fails(writing: Writing) -> None:
    """It is said at the next write that has to wait for it, or at the end."""
    writing.store.failing = True
    writing.write(range(64))
    with pytest.raises(StoreError, match="no room"):
        writing.write(range(64, 128))
    with pytest.raises(StoreError, match="no room"):
        writing.writer.flush()
    assert writing.counts == []
