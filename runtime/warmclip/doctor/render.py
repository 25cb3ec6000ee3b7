"""The doctor's report for people: the machine, the matrix in colours, the conclusion."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmclip.doctor.conclusion import describe_result
from warmclip.doctor.dependencies import Dependency, State
from warmclip.doctor.machine import Machine
from warmclip.doctor.matrix import COLUMNS, PLAIN, Row
from warmclip.doctor.probe import ProbeResult, Status
from warmclip.doctor.report import Report
from warmclip.logs import printable

_GIB = 1024**3

_STYLES: dict[Status, str] = {
    "ok": "green",
    "error": "bold white on red",
    "signal": "bold white on red",
    "hang": "bold white on red",
    "absent": "dim",
}
_MARKS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "absent": ("-", "dim"),
    "wrong": ("!!", "bold white on red"),
    "unreachable": ("!!", "bold white on red"),
}


def render_report(report: Report) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = [_machine(report.machine), _dependencies(report.dependencies)]
    parts += [Text(f"note: {note}", style="yellow") for note in report.machine.notes]
    parts += [_matrix(report.rows), _legend(report.graph)]
    details = list(_details(report.rows))
    if details:
        parts.append(_detail_table(details))
    if report.selection is not None:
        parts.append(_trial_table(report.selection))
        if passed_over := report.selection["passed_over"].values():
            reasons = "\n".join(f"not tried: {printable(reason)}" for reason in passed_over)
            parts.append(Text(reasons, style="dim"))
    elif report.trials.status not in ("ok", "absent"):
        text = f"the trial of the providers {describe_result(report.trials)}"
        parts.append(Text(printable(text), style="red"))
    can_embed = report.conclusion.own_way_works
    parts.append(Text(report.conclusion.sentence, style="bold green" if can_embed else "bold red"))
    spaced = itertools.chain.from_iterable((part, Text("")) for part in parts[:-1])
    return Group(*spaced, parts[-1])


def _machine(machine: Machine) -> Table:
    memory = f", {machine.memory_bytes / _GIB:.0f} GiB" if machine.memory_bytes else ""
    usable = f" ({machine.usable_cores} usable)" if machine.usable_cores != machine.cores else ""
    lines = {
        "system": f"{machine.system} ({machine.build}), {machine.architecture}",
        "chip": f"{machine.chip}, {machine.cores} cores{usable}{memory}",
        "python": f"{machine.python}, {machine.executable}",
        "packages": ", ".join(
            f"{name} {version or 'NOT INSTALLED'}" for name, version in machine.packages.items()
        ),
        "formats": ", ".join(
            name if is_read else f"{name} NOT READ" for name, is_read in machine.formats.items()
        ),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        table.add_row(Text(name, style="bold"), Text(printable(value)))
    return table


def _dependencies(dependencies: Sequence[Dependency]) -> Table:
    table = Table.grid(padding=(0, 2))
    for dependency in dependencies:
        mark, style = _MARKS[dependency.state]
        table.add_row(
            Text(dependency.name, style="bold"),
            Text(mark, style=style),
            Text(printable(dependency.detail)),
        )
    return table


def _matrix(rows: Sequence[Row]) -> Table:
    table = Table(box=box.ROUNDED, header_style="bold", show_lines=True, border_style="dim")
    table.add_column("")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="center")
    for row in rows:
        table.add_row(Text(row.name, style="bold"), *(_cell(row.cells[kind]) for kind in COLUMNS))
    return table


def _cell(cell: ProbeResult) -> Text:
    """One cell in at most two lines: the outcome, and at which step."""
    style = _STYLES[cell.status]
    match cell.status:
        case "ok":
            then = f"\nthen {_duration(cell.again_s)}" if cell.again_s is not None else ""
            return Text(f"ok {_duration(cell.seconds)}{then}", style=style)
        case "hang":
            what = f"HANG {cell.seconds or 0:.0f} s"
        case "signal":
            what = str(cell.reason)
        case "error":
            what = str(cell.reason).partition(":")[0]
        case "absent":
            return Text(str(cell.reason).removesuffix(" is not installed"), style=style).append(
                "\nnot installed"
            )
    return Text.assemble((f" {what} ", style), (f"\n{cell.step}" if cell.step else "", "red"))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _legend(graph: str) -> Text:
    return Text(
        "Each cell is a child of its own, whose launching process has done the row's operation "
        "once; the column says in what kind of process it is then done again. "
        f"Sessions are made of {graph}.",
        style="dim",
    )


def _trial_table(selection: Mapping[str, Any]) -> Table:
    """Each trial of a provider, and which provider is used."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("provider", "tower", "trial"):
        table.add_column(heading)
    for heading in ("cosine", "/s at 1, 8, 32", "load", "MB", "pieces", "on CPU"):
        table.add_column(heading, justify="right")
    for trial in selection["trials"]:
        tower = trial["tower"]
        rates = {str(batch): rate for batch, rate in trial["images_per_s"].items()}
        outcome = Text(f"failed: {printable(trial['reason'])}", style="red")
        if trial["passed"]:
            is_used = selection["chosen"][tower] == trial["provider"]
            outcome = Text("passed, used" if is_used else "passed", style="green")
        table.add_row(
            Text(trial["provider"], style="bold"),
            tower,
            outcome,
            _figure(trial["cosine"], ".6f"),
            ", ".join(_figure(rates.get(batch), ".0f") or "-" for batch in ("1", "8", "32")),
            _figure(trial["load_s"], ".1f", " s"),
            _figure(trial["peak_rss_mb"], ".0f"),
            _figure(trial["partitions"], "d"),
            _figure(trial["cpu_nodes"], "d"),
        )
    if not selection["trials"]:
        for tower, name in selection["chosen"].items():
            used = f"none, used: {printable(selection['why'][tower])}"
            table.add_row(Text(name, style="bold"), tower, used, *[""] * 6)
    return table


def _figure(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _details(rows: Sequence[Row]) -> Iterator[tuple[str, str, ProbeResult]]:
    """Every failure, and everything that was tried in forks."""
    for row in rows:
        for kind, heading in COLUMNS.items():
            cell = row.cells[kind]
            if kind != "fork" and cell.status not in ("ok", "absent"):
                yield row.name, heading, cell
        if any(not variant.cell.is_ok for variant in row.forked):
            for variant in row.forked:
                if variant.cell.status != "absent":
                    how = "fork" if variant.name == PLAIN else f"fork, {variant.name}"
                    yield row.name, how, variant.cell


def _detail_table(details: Sequence[tuple[str, str, ProbeResult]]) -> Table:
    table = Table("what", "where", "result", box=None, pad_edge=False, header_style="bold")
    previous = ""
    for name, where, cell in details:
        style = "" if cell.is_ok else "red"
        said = f": {cell.said}" if cell.said and cell.said not in describe_result(cell) else ""
        told = Text(printable(describe_result(cell) + said), style=style)
        table.add_row("" if name == previous else name, where, told)
        previous = name
    return table
