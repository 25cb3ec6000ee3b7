"""The table to paste into an issue: a row for each test of this tier, with what it measured."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from apple.machine import MOST_CHARS, describe, why_not

MEASURED = "measured"
"""The name of the properties that a test records for its row: ``record_property``."""

_TIER = "tests/apple/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one test."""

    what: str
    measured: str
    outcome: str  # "passed", "**failed**" or "skipped"
    why: str  # empty for one that passed

    @classmethod
    def of(cls, report: pytest.TestReport) -> "Row":
        """The row of a finished test, or of one that could not begin."""
        name = report.nodeid.rpartition("::")[2]
        test, _, parameters = name.partition("[")
        what = test.removeprefix("test_").replace("_", " ")
        return cls(
            what=f"{what} ({parameters.removesuffix(']')})" if parameters else what,
            measured="; ".join(
                str(value) for key, value in report.user_properties if key == MEASURED
            ),
            outcome="**failed**" if report.failed else report.outcome,
            why=_why(report),
        )


def markdown(rows: Iterable[Row], machine: str) -> str:
    """The whole table, in Markdown."""
    lines = [machine, "", "| what | measured | outcome |", "|---|---|---|"]
    for row in rows:
        why = _cell(row.why)
        why = why if len(why) <= MOST_CHARS else f"{why[: MOST_CHARS - 1]}…"  # figures are whole
        outcome = f"{row.outcome}: {why}" if why else row.outcome
        lines.append(f"| {_cell(row.what)} | {_cell(row.measured)} | {outcome} |")
    return "\n".join(lines)


class TablePrinter:
    """Collects the rows while pytest runs, and prints the table at the end."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test once: when it was called, or when it could not be."""
        is_ours = report.nodeid.startswith(_TIER)
        if is_ours and (report.when == "call" or report.outcome != "passed"):
            self.rows.append(Row.of(report))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print it, and put it on the summary page of a workflow's run."""
        if why_not() or not self.rows:
            return
        text = markdown(self.rows, describe())
        terminalreporter.section("apple")
        terminalreporter.write_line(text)
        if page := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(page).open("a", encoding="utf-8") as stream:
                stream.write(f"{text}\n")


def _why(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash is not None else report.longreprtext


def _cell(text: str) -> str:
    """One cell's text: no line break, no column of its own."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
