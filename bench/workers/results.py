"""What was measured: medians, their spread, and the ratios that were promised."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.spread import Spread
from bench.table import print_table
from bench.workers.contenders import WARM, Case


class Results:
    """Seconds a job, by case and contender, one of each round; and who failed.

    Attributes:
        rounds: that are over.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.rounds = 0
        self._cases = cases
        self._seconds: dict[tuple[str, str], list[float]] = {}
        self._failures: dict[tuple[str, str], str] = {}

    def add_round(self, measured: Sequence[tuple[Case, str, float]]) -> None:
        """Take in one round: case, contender and seconds a job."""
        self.rounds += 1
        for case, contender, seconds_per_job in measured:
            self._seconds.setdefault((case.name, contender), []).append(seconds_per_job)

    def fail(self, case: Case, contender: str, reason: str) -> None:
        """Take a contender out."""
        self._failures[case.name, contender] = reason

    def has_failed(self, case: Case, contender: str) -> bool:
        """Whether it was taken out."""
        return (case.name, contender) in self._failures

    def figures(self, case: Case, contender: str) -> Spread | None:
        """In the case's unit; None for who failed."""
        if self.has_failed(case, contender):
            return None
        return Spread.of([case.figure(it) for it in self._seconds[case.name, contender]])

    def ratios(self, case: Case, than: str) -> Spread | None:
        """How many times as fast WarmWorker was, round by round: what slows one, slows both."""
        if self.has_failed(case, than) or self.has_failed(case, WARM):
            return None
        rounds = zip(self._seconds[case.name, than], self._seconds[case.name, WARM], strict=True)
        return Spread.of([other / warm for other, warm in rounds])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can carry it."""
        return {"cases": [self._case(case) for case in self._cases]}

    def _case(self, case: Case) -> dict[str, Any]:
        contenders = []
        for contender in case.contenders:
            spread = self.figures(case, contender.name)
            contenders.append(
                {
                    "name": contender.name,
                    "function": contender.function,
                    "jobs": contender.jobs,
                    "seconds_per_job": self._seconds.get((case.name, contender.name), []),
                    "figure": asdict(spread) if spread else None,
                    "failure": self._failures.get((case.name, contender.name)),
                }
            )
        ratios = []
        for target in case.targets:
            times = self.ratios(case, target.than)
            ratios.append(
                {
                    "than": target.than,
                    "times": asdict(times) if times else None,
                    "target": target.times,
                    "met": times.median >= target.times if times else None,
                }
            )
        return {
            "name": case.name,
            "unit": case.unit,
            "images": case.images,
            "contenders": contenders,
            "ratios": ratios,
        }

    def print(self, console: Console) -> None:
        """Two tables: boxes on a terminal, else Markdown."""
        for table in (self._figure_table(), self._ratio_table()):
            print_table(table, console)

    def _figure_table(self) -> Table:
        table = Table("worker", *(f"{case.name}, {case.unit}" for case in self._cases))
        names = dict.fromkeys(each.name for case in self._cases for each in case.contenders)
        for name in names:
            table.add_row(name, *(self._cell(case, name) for case in self._cases))
        return table

    def _cell(self, case: Case, name: str) -> str:
        if all(each.name != name for each in case.contenders):
            return ""
        return str(self.figures(case, name) or self._failures[case.name, name])

    def _ratio_table(self) -> Table:
        table = Table("case", f"{WARM} is so many times as fast as", "times", "target", "met")
        for case in self._cases:
            for target in case.targets:
                times = self.ratios(case, target.than)
                met = "" if times is None else "yes" if times.median >= target.times else "no"
                table.add_row(case.name, target.than, str(times or "failed"), target.words, met)
        return table
