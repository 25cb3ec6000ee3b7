"""What was measured, round by round; who was taken out; how contenders compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.embedding.cases import Case
from bench.embedding.contenders import GEMM, TORCH
from bench.spread import Spread

Measured = tuple[Case, str, dict[str, float]]
"""A case, a contender, and a figure for each column."""


class Results:
    """Figures by case, column and contender, one of each round.

    Attributes:
        rounds: that are over.
        cases: in the order of the tables.
        descriptions: what each contender says of itself.
        worst_cosines: of each contender's vectors to open_clip's, by case.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.rounds = 0
        self.cases = {case.name: case for case in cases}
        self.descriptions: dict[str, dict[str, Any]] = {}
        self.worst_cosines: dict[tuple[str, str], float] = {}
        self._figures: dict[tuple[str, str, str], list[float]] = {}
        self._failures: dict[tuple[str, str], str] = {}

    def add_round(self, measured: Sequence[Measured]) -> None:
        """Take in one whole round."""
        self.rounds += 1
        for case, contender, figures in measured:
            for column, figure in figures.items():
                self._figures.setdefault((case.name, column, contender), []).append(figure)

    def fail(self, case: str, contender: str, reason: str) -> None:
        """Take a contender out of a case."""
        self._failures[case, contender] = reason

    def failure(self, case: str, contender: str) -> str | None:
        """Why it was taken out."""
        return self._failures.get((case, contender))

    def failures(self) -> dict[str, list[str]]:
        """Who was taken out, and why, each reason once."""
        told: dict[str, list[str]] = {}
        for (_, contender), reason in self._failures.items():
            reasons = told.setdefault(contender, [])
            if reason not in reasons:
                reasons.append(reason)
        return told

    def spread(self, case: str, column: str, contender: str) -> Spread | None:
        """A figure; None where there is none."""
        figures = self._rounds(case, column, contender)
        return Spread.of(figures) if figures else None

    def times_as_fast(
        self, case: str, column: str, contender: str, than: str = TORCH
    ) -> Spread | None:
        """How many times as fast as another, round by round: what slows one, slows both."""
        if case not in self.cases:
            return None
        is_rate = self.cases[case].is_rate(column)
        return self.compare(
            (case, column, contender),
            (case, column, than),
            lambda own, other: own / other if is_rate else other / own,
        )

    def in_brackets(self, case: str, column: str, contender: str) -> Spread | None:
        """How it compares with open_clip in torch, where that is worth a word."""
        if contender in (TORCH, GEMM) or not self.cases[case].is_speed(column):
            return None
        return self.times_as_fast(case, column, contender)

    def compare(
        self,
        left: tuple[str, str, str],
        right: tuple[str, str, str],
        combine: Callable[[float, float], float],
    ) -> Spread | None:
        """Two figures of each round as one."""
        mine, others = self._rounds(*left), self._rounds(*right)
        if not mine or len(mine) != len(others):
            return None
        return Spread.of([combine(*pair) for pair in zip(mine, others, strict=True)])

    def note_cosine(self, case: str, contender: str, cosine: float) -> None:
        """Remember the worst."""
        worst = self.worst_cosines.get((case, contender), 1.0)
        self.worst_cosines[case, contender] = min(worst, cosine)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can carry it."""
        return {
            "rounds": self.rounds,
            "contenders": self.descriptions,
            "cases": [self._case(case) for case in self.cases.values()],
        }

    def _case(self, case: Case) -> dict[str, Any]:
        return {
            "name": case.name,
            "title": case.title,
            "contenders": [self._contender(case, name) for name in case.contenders],
        }

    def _contender(self, case: Case, name: str) -> dict[str, Any]:
        columns: Mapping[str, Any] = {
            column: {
                "figures": self._rounds(case.name, column, name),
                "spread": _plain(self.spread(case.name, column, name)),
                "times_as_fast_as_torch": _plain(self.times_as_fast(case.name, column, name)),
            }
            for column in case.columns
        }
        return {
            "name": name,
            "failure": self.failure(case.name, name),
            "worst_cosine": self.worst_cosines.get((case.name, name)),
            "columns": columns,
        }

    def _rounds(self, case: str, column: str, contender: str) -> list[float]:
        if self.failure(case, contender):
            return []
        return self._figures.get((case, column, contender), [])


def _plain(spread: Spread | None) -> dict[str, float] | None:
    return asdict(spread) if spread else None
