"""Our vectors against one reference's: components, cosines, scores, searches, as findings.

Everything is computed in float64: in float32, 1 - 6e-8 is the first number below 1.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmclip.inference.arrays import Vectors
from warmclip.inference.bundle import Tower
from warmclip_export.parity.bounds import Bounds
from warmclip_export.parity.finding import Finding, Measure
from warmclip_export.parity.retrieval import Agreement, Searches

Figures = npt.NDArray[np.float64]
BothTowers = dict[Tower, Vectors]

# Every second text and every fourth picture is a query.
_TEXTS, _PICTURES = 2, 4


def largest_differences(ours: Vectors, theirs: Vectors) -> Figures:
    """Of each row, the largest difference of any component, shape (n,)."""
    return np.asarray(np.abs(ours.astype(np.float64) - theirs).max(axis=1))


def cosines(ours: Vectors, theirs: Vectors) -> Figures:
    """Of each pair of rows, shape (n,)."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def mean_distance(ours: BothTowers, theirs: BothTowers) -> float:
    """The mean length of what lies between two vectors, of the tower that is further off.

    A tower may not depend on what the two references differ in: a ResNet has no GELU.
    """
    between = [
        np.linalg.norm(ours[tower].astype(np.float64) - theirs[tower], axis=1).mean()
        for tower in ours
    ]
    return float(np.max(between))  # which, unlike max(), is NaN if one of them is


def select_queries(vectors: BothTowers) -> Vectors:
    """What is searched with: texts and pictures of every kind."""
    return np.concatenate([vectors["text"][::_TEXTS], vectors["image"][::_PICTURES]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One stage's vectors against a reference's; a missing vector is a row of NaN.

    Attributes:
        stage: what the findings are called.
        bounds: within which they pass.
        note: why vectors are missing; empty if none is.
    """

    stage: str
    bounds: Bounds
    note: str = ""

    def of_vectors(self, ours: Vectors, theirs: Vectors) -> tuple[Finding, ...]:
        """The largest difference and the lowest cosine."""
        return (
            self._find(
                "largest difference",
                float(largest_differences(ours, theirs).max()),
                self.bounds.difference,
            ),
            self._find("lowest cosine", float(cosines(ours, theirs).min()), self.bounds.cosine),
        )

    def of_scores(self, ours: BothTowers, theirs: BothTowers) -> tuple[Finding, ...]:
        """Each picture's similarity to each text."""
        figure = float(np.abs(_scores(ours) - _scores(theirs)).max())
        return (self._find("largest difference", figure, self.bounds.score),)

    def of_searches(self, ours: BothTowers, theirs: Searches) -> tuple[Finding, ...]:
        """Searches in a collection that is half ours, with our queries."""
        agreement = Agreement(queries=0, top1=math.nan, top10=math.nan, rank_correlation=math.nan)
        if all(np.isfinite(vectors).all() for vectors in ours.values()):
            agreement = theirs.compare(ours["image"], select_queries(ours), self.bounds.tie)
        return (
            self._find("top-1 agreement", agreement.top1, self.bounds.top1),
            self._find("top-10 overlap", agreement.top10, self.bounds.top10),
            self._find(
                "rank correlation", agreement.rank_correlation, self.bounds.rank_correlation
            ),
        )

    def _find(self, measure: Measure, figure: float, threshold: float) -> Finding:
        return Finding(
            stage=self.stage, measure=measure, figure=figure, threshold=threshold, note=self.note
        )


def _scores(vectors: BothTowers) -> Figures:
    return np.asarray(vectors["image"].astype(np.float64) @ vectors["text"].astype(np.float64).T)
