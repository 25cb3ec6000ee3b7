"""Which pictures are near to which: blocks, columns and bounds of memory."""

import numpy as np
import pytest

from warmclip.errors import SettingsError
from warmclip.indexing import duplicates
from warmclip.indexing.duplicates import _assign_leaders, _enlarge
from warmclip.inference.arrays import Vectors


def near_each_other(count: int, seed: int) -> Vectors:
    """Unit vectors around a few directions."""
    dice = np.random.default_rng(seed)
    around = dice.standard_normal((6, 8))[dice.integers(0, 6, count)]
    rows = around + 0.15 * dice.standard_normal((count, 8))
    made: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def one_by_one(
    vectors: Vectors, ranks: list[int], threshold: float
) -> tuple[list[int], list[float]]:
    """The same as it is told: each in rank joins the first leader that it is near to."""
    leaders: list[int] = []
    found = [-1] * len(ranks)
    scores = [1.0] * len(ranks)
    for row in ranks:
        for leader in leaders:
            cosine = float(vectors[leader] @ vectors[row])
            if cosine >= threshold - 1e-6:
                found[row], scores[row] = leader, min(cosine, 1.0)
                break
        else:
            leaders.append(row)
            found[row] = row
    return found, scores


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("block", "columns"), [(4, 3), (1, 1), (7, 100), (100, 5)])
@pytest.mark.parametrize("threshold", [0.9, 0.97, 1.0])
def test_blocks_are_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, seed: int, block: int, columns: int, threshold: float
) -> None:
    """However the vectors are cut: the first in rank that is near leads, and there is no chain."""
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    monkeypatch.setattr(duplicates, "_COLUMNS", columns)
    vectors = near_each_other(40, seed)
    vectors[::9] = vectors[0]  # the same once more
    ranks = np.random.default_rng(seed).permutation(40)
    told: list[tuple[int, int, str]] = []
    leaders, scores = _assign_leaders(vectors, ranks, threshold, lambda *it: told.append(it))
    expected, expected_scores = one_by_one(vectors, ranks.tolist(), threshold)
    assert leaders.tolist() == expected
    assert scores == pytest.approx(expected_scores, abs=1e-6)
    assert told == [(start, 40, "comparing") for start in range(0, 40, block)]


@pytest.mark.parametrize(
    ("rows", "total", "expected"),
    [(0, 5000, 1024), (0, 10, 10), (1024, 5000, 2048), (1024, 1500, 1500), (2048, 10**6, 3000)],
)
def test_room_for_vectors(
    monkeypatch: pytest.MonkeyPatch, rows: int, total: int, expected: int
) -> None:
    """It is doubled, and never more than there are points, or than the bound."""
    monkeypatch.setattr(duplicates, "MOST_BYTES", 3000 * 4 * 8 + 5)
    vectors = near_each_other(rows, 1) if rows else np.empty((0, 0), np.float32)
    grown = _enlarge(vectors, 8, total)
    assert grown.shape == (expected, 8)
    if rows:
        assert np.array_equal(grown[:rows], vectors)


@pytest.mark.parametrize("rows", [3000, 3001])
def test_no_room_for_vectors(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """What to do is told."""
    monkeypatch.setattr(duplicates, "MOST_BYTES", 3000 * 4 * 8)
    with pytest.raises(SettingsError, match="more than 3000 pictures of 8 dimensions"):
        _enlarge(near_each_other(rows, 1), 8, 10**6)
