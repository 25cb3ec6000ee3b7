"""Vectors against the reference's: the worst row decides, of each figure."""

import math
from dataclasses import replace

import numpy as np
import pytest

from warmclip.inference.arrays import Vectors, unit_rows
from warmclip.inference.bundle import Tower
from warmclip_export.parity.bounds import cpu_bounds
from warmclip_export.parity.comparison import (
    BothTowers,
    Comparison,
    cosines,
    largest_differences,
    mean_distance,
    select_queries,
)
from warmclip_export.parity.retrieval import Agreement, Searches

BOUNDS = cpu_bounds("fp16")


def rows(count: int, seed: int) -> Vectors:
    """Unit vectors of sixteen numbers."""
    made = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return unit_rows(made, 16)


def turned(vectors: Vectors, row: int) -> Vectors:
    """The same, but for one row, which is turned at a right angle in its first two numbers."""
    made = vectors.copy()
    made[row, 0], made[row, 1] = -vectors[row, 1], vectors[row, 0]
    return made


def test_figures_of_rows() -> None:
    """Each row has a difference and a cosine of its own, whatever its length."""
    ours = np.array([[3, 4], [0, 2], [1, 0]], np.float32)
    theirs = np.array([[3, 4], [2, 0], [-1, 0.5]], np.float32)
    assert largest_differences(ours, theirs).tolist() == [0, 2, 2]
    assert cosines(ours, theirs) == pytest.approx([1, 0, -1 / math.sqrt(1.25)])


def test_distance_between_references() -> None:
    """The mean length of the differences, of the tower that is further off; NaN if one is."""
    zero = np.zeros((2, 2), np.float32)
    near = np.array([[3, 4], [0, 0]], np.float32)
    far = np.array([[6, 8], [0, 1]], np.float32)
    assert mean_distance({"image": near, "text": far}, {"image": zero, "text": zero}) == 5.5
    assert mean_distance({"image": far, "text": far}, {"image": near, "text": far}) == 3.0
    unknown = np.array([[math.nan, 0], [0, 0]], np.float32)
    for image, text in ((unknown, far), (far, unknown)):
        distance = mean_distance({"image": image, "text": text}, {"image": zero, "text": zero})
        assert math.isnan(distance)


@pytest.mark.parametrize("row", [0, 3, 9])
def test_worst_row_decides(row: int) -> None:
    """One wrong vector among many good ones is a fault."""
    theirs = rows(10, 1)
    comparison = Comparison(stage="s", bounds=BOUNDS)
    assert all(found.passed for found in comparison.of_vectors(theirs, theirs))
    difference, cosine = comparison.of_vectors(turned(theirs, row), theirs)
    assert not difference.passed
    assert not cosine.passed
    assert difference.threshold == BOUNDS.difference
    assert cosine.threshold == BOUNDS.cosine
    assert difference.figure == pytest.approx(
        float(np.abs(turned(theirs, row) - theirs).max()), abs=1e-6
    )


@pytest.mark.parametrize("tower", ["image", "text"])
def test_worst_score_decides(tower: Tower) -> None:
    """One wrong vector of either tower is seen in the scores of its pairs."""
    theirs: BothTowers = {"image": rows(10, 1), "text": rows(6, 2)}
    ours: BothTowers = {**theirs, tower: turned(theirs[tower], 5)}
    comparison = Comparison(stage="s", bounds=BOUNDS)
    (same,) = comparison.of_scores(theirs, theirs)
    (other,) = comparison.of_scores(ours, theirs)
    assert same.passed
    assert same.figure == 0
    assert not other.passed
    expected = np.abs(ours["image"] @ ours["text"].T - theirs["image"] @ theirs["text"].T).max()
    assert other.figure == pytest.approx(float(expected), abs=1e-6)
    assert other.threshold == BOUNDS.score


def test_what_is_searched_with() -> None:
    """Every second text, then every fourth picture."""
    vectors: BothTowers = {"image": rows(9, 1), "text": rows(5, 2)}
    expected = [*vectors["text"][[0, 2, 4]], *vectors["image"][[0, 4, 8]]]
    assert np.array_equal(select_queries(vectors), np.stack(expected))


class Answering(Searches):
    """What a store would have answered."""

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self.asked: list[tuple[Vectors, Vectors, float]] = []

    def compare(self, stored: Vectors, queries: Vectors, tie: float) -> Agreement:
        """Note what was asked."""
        self.asked.append((stored, queries, tie))
        return self.agreement


GOOD = Agreement(queries=6, top1=0.99, top10=0.985, rank_correlation=0.995)


@pytest.mark.parametrize(
    ("agreement", "passed"),
    [
        (GOOD, [True, True, True]),
        (replace(GOOD, top1=0.97), [False, True, True]),
        (replace(GOOD, top10=0.97), [True, False, True]),
        (replace(GOOD, rank_correlation=0.98), [True, True, False]),
    ],
)
def test_searches(agreement: Agreement, passed: list[bool]) -> None:
    """Each has a bound of its own; our pictures are searched, with our queries."""
    ours: BothTowers = {"image": rows(9, 1), "text": rows(5, 2)}
    comparison = Comparison(stage="s", bounds=BOUNDS)
    searches = Answering(agreement)
    found = comparison.of_searches(ours, searches)
    ((stored, queries, tie),) = searches.asked
    assert np.array_equal(stored, ours["image"])
    assert np.array_equal(queries, select_queries(ours))
    assert tie == BOUNDS.tie
    assert [it.measure for it in found] == ["top-1 agreement", "top-10 overlap", "rank correlation"]
    assert [it.passed for it in found] == passed


@pytest.mark.parametrize("tower", ["image", "text"])
def test_vectors_that_are_missing(tower: Tower) -> None:
    """Nothing is searched for, nothing passes, and it is said why."""
    ours: BothTowers = {"image": rows(9, 1), "text": rows(5, 2)}
    ours[tower][3] = np.nan
    comparison = Comparison(stage="s", bounds=BOUNDS, note="it could not be read")
    found = comparison.of_searches(ours, Answering(GOOD))
    assert not any(it.passed for it in found)
    assert {it.note for it in found} == {"it could not be read"}
