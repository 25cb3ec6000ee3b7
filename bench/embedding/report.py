"""A run as people read it: on the terminal, and as Markdown that can be pasted."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.embedding import plot, targets
from bench.embedding.cases import FIRST, PEAK, Case, batch_column
from bench.embedding.contenders import CONTENDERS, GEMM, TORCH
from bench.embedding.results import Results
from bench.machine import load_average, stamp, warning_of_others
from bench.spread import short
from bench.table import open_console, print_table

SUMMARY = (
    ("image-tower", batch_column(32), "image tower, images/s"),
    ("text-tower", batch_column(32), "texts/s"),
    ("large-folder", "images/s", "large photographs, images/s"),
    ("small-folder", "images/s", "small photographs, images/s"),
    ("mixed-folder", "images/s", "mixed folder, images/s"),
    ("query", "p50, ms", "query, ms"),
    ("start", FIRST, "first vector after, s"),
    ("start", PEAK, "peak memory, MB"),
)
_TOWERS = ("image-tower", "text-tower")


class Report:
    """Everything that a run tells.

    Attributes:
        loads: load averages, the first one from before.
        others: their share of the cores, once the run is over.
    """

    def __init__(self, results: Results, environment: dict[str, Any], out: Path) -> None:
        self.loads = [load_average()]
        self.others: float | None = None
        self._results = results
        self._environment = environment
        self._out = out

    def write(self) -> None:
        """Into the folder: results.json, results.md, plot.svg."""
        self._out.mkdir(parents=True, exist_ok=True)
        evaluated = [target.to_dict() for target in self._targets()]
        answer = {
            "environment": self._environment,
            "load_average": self._load(),
            "others_share": self.others,
            "warning": self._warning(),
            "aims": evaluated,
            **self._results.to_dict(),
        }
        self._write("results.json", json.dumps(answer, indent=2) + "\n")
        self._write("plot.svg", plot.draw_plot(self._results, SUMMARY))
        drawn = StringIO()
        console = open_console(drawn)
        for heading, part in self._parts():
            drawn.write(f"### {heading}\n\n" if heading else "")
            self._print(part, console)
        self._write("results.md", drawn.getvalue().rstrip() + "\n")

    def print(self, console: Console) -> None:
        """On the terminal, or as Markdown into a pipe."""
        for heading, part in self._parts():
            if heading:
                console.print(heading if console.is_terminal else f"### {heading}\n")
            self._print(part, console)

    def _write(self, name: str, text: str) -> None:
        partial = self._out / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._out / name)

    def _print(self, part: Table | str, console: Console) -> None:
        if isinstance(part, Table):
            print_table(part, console)
        else:
            console.out(part + "\n")

    def _parts(self) -> Iterator[tuple[str, Table | str]]:
        yield "In short", self._summary()
        yield (
            "",
            f"In brackets: times as fast as {TORCH}, in the same round. Batches of 32. "
            f"{self._peers_store()}",
        )
        yield "", self._stamp()
        for case in self._results.cases.values():
            yield case.title, self._table(case)
        if any(name in self._results.cases for name in _TOWERS):
            yield "Share of what the matrix products alone would allow", self._shares()
        yield "Targets", self._target_table()
        failures = self._results.failures()
        if failures:
            table = Table("left out", "because")
            for name, reasons in failures.items():
                table.add_row(name, "; ".join(reasons).replace("|", "/"))
            yield "Left out", table

    def _summary(self) -> Table:
        chosen = [it for it in SUMMARY if it[0] in self._results.cases]
        table = Table("", *(heading for _, _, heading in chosen))
        for name in CONTENDERS:
            cells = [self._brief(case, column, name) for case, column, _ in chosen]
            if any(cells):
                table.add_row(name, *cells)
        return table

    def _brief(self, case: str, column: str, name: str) -> str:
        spread = self._results.spread(case, column, name)
        if spread is None:
            return ""
        times = self._results.in_brackets(case, column, name)
        return short(spread.median) + (f" ({times.median:.2f}x)" if times else "")

    def _table(self, case: Case) -> Table:
        columns = [column for column in case.columns if self._has(case, column)]
        cosines = [name for name in case.contenders if self._worst(case, name)]
        more = ["worst cosine to open_clip"] if cosines else []
        table = Table("", *columns, *more)
        for name in case.contenders:
            if self._results.failure(case.name, name):
                continue
            cells = [self._cell(case, column, name) for column in columns]
            if any(cells):
                table.add_row(name, *cells, *([self._worst(case, name)] if more else []))
        return table

    def _has(self, case: Case, column: str) -> bool:
        return any(self._results.spread(case.name, column, name) for name in case.contenders)

    def _cell(self, case: Case, column: str, name: str) -> str:
        spread = self._results.spread(case.name, column, name)
        if spread is None:
            return ""
        times = self._results.in_brackets(case.name, column, name)
        return f"{spread}, {times.median:.2f}x" if times else str(spread)

    def _worst(self, case: Case, name: str) -> str:
        cosine = self._results.worst_cosines.get((case.name, name))
        return "" if cosine is None or name == TORCH else f"{min(cosine, 1):.6f}"

    def _shares(self) -> Table:
        chosen = [
            (case, column)
            for case in self._results.cases.values()
            if case.name in _TOWERS
            for column in case.columns
        ]
        table = Table("", *(f"{case.name.split('-')[0]}, {column}" for case, column in chosen))
        for name in CONTENDERS:
            cells = [
                self._results.times_as_fast(case.name, column, name, GEMM)
                for case, column in chosen
            ]
            if name != GEMM and any(cells):
                table.add_row(name, *(f"{100 * it.median:.0f} %" if it else "" for it in cells))
        return table

    def _targets(self) -> list[targets.Target]:
        return targets.evaluate_targets(self._results, self._environment["cores"])

    def _target_table(self) -> Table:
        words = {True: "reached", False: "missed", None: "not measured"}
        table = Table("what", "found", "target", "")
        for target in self._targets():
            sign = "at least" if target.more_is_better else "at most"
            found = str(target.found) if target.found else ""
            table.add_row(target.words, found, f"{sign} {target.bound:g}", words[target.is_reached])
        return table

    def _peers_store(self) -> str:
        return (
            "warmclip stores in an embedded Qdrant, with a payload for each picture; the others "
            "stack a matrix and save it, and search it with one product."
        )

    def _stamp(self) -> str:
        warning = self._warning()
        text = stamp(self._environment, self._load(), self._results.rounds)
        if self.others is not None:
            text += f" Others took {100 * self.others:.0f} % of the cores."
        return f"{text}\n\n{warning}" if warning else text

    def _load(self) -> dict[str, float]:
        return {"before": self.loads[0], "highest": max(self.loads)}

    def _warning(self) -> str | None:
        return warning_of_others(self._load(), self._environment["cores"], self.others)
