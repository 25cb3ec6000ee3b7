"""A median of interleaved rounds, and how far they lay apart."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of some rounds, and their extremes."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Self:
        """One of at least one figure."""
        return cls(median=statistics.median(figures), lowest=min(figures), highest=max(figures))

    def __str__(self) -> str:
        if self.lowest == self.highest:
            return short(self.median)
        return f"{short(self.median)} ({short(self.lowest)} to {short(self.highest)})"


def short(figure: float) -> str:
    """Three digits that count."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"
