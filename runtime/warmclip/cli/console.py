"""What a person sees: progress, reports, hits. Answers go to stdout, everything else to stderr."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.progress as bars
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from warmclip.errors import WarmclipError
from warmclip.indexing.report import IndexReport
from warmclip.logs import log_json_lines, log_text, printable
from warmclip.progress import Progress
from warmclip.store.filter import Query

if TYPE_CHECKING:  # keeps numpy out of this import
    from warmclip.indexing.audit_report import AuditReport
    from warmclip.indexing.duplicates import DuplicatesReport

log = logging.getLogger(__name__)

_MOST_LISTED = 20  # of paths, groups, or pictures of a group
_NO_TERMINAL_WIDTH = 1000  # a file or a pipe: nothing is folded
_PAGE_WIDTH = 120  # but for pictures


class Terminal:
    """Where one command writes."""

    def __init__(
        self, *, as_json: bool = False, verbose: bool = False, log_json: bool = False
    ) -> None:
        self.as_json = as_json
        self._log_json = log_json
        self._answers = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        if not self._answers.is_terminal:
            self._answers.width = _NO_TERMINAL_WIDTH
        self._notes = Console(stderr=True, highlight=False, markup=False, emoji=False)
        level = logging.INFO if verbose else logging.WARNING
        if log_json:
            log_json_lines(level)
        else:
            log_text(level, self._notes)

    def note(self, text: str) -> None:
        """Say something by the way, on stderr."""
        if self._log_json:
            log.info("%s", text)
        else:
            self._notes.print(text, soft_wrap=True)

    def error(self, exc: WarmclipError) -> None:
        """One paragraph on stderr; with --json also an object on stdout."""
        if self.as_json:
            self.json({"error": {"type": type(exc).__name__, "message": str(exc)}})
        if self._log_json:
            log.error("%s", exc, extra={"action": "failed", "error": type(exc).__name__})
            return
        message = Text.assemble(("error: ", "bold red"), printable(str(exc), lines=True))
        self._notes.print(message, soft_wrap=True)

    def json(self, value: Mapping[str, Any]) -> None:
        """One JSON object on stdout. It is pure ASCII, and so keeps names that are not UTF-8."""
        self._answers.out(json.dumps(value, indent=2 if self._answers.is_terminal else None))

    def picture(self, drawn: RenderableType) -> None:
        """Something drawn by others, on stdout."""
        width = None if self._answers.is_terminal else _PAGE_WIDTH
        self._answers.print(drawn, soft_wrap=False, width=width)

    @contextmanager
    def progress(self, unit: str) -> Iterator[Progress]:
        """A bar with rate and time left, on a terminal."""
        if self._log_json:  # even a hidden bar ends with an empty line, before rich 14.1
            yield lambda _done, _total, _stage: None
            return
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        hidden = self.as_json or not self._notes.is_terminal
        with bars.Progress(*columns, console=self._notes, transient=True, disable=hidden) as bar:
            task = bar.add_task("", total=None, rate="")

            def advance(done: int, total: int, stage: str) -> None:
                speed = bar.tasks[0].speed
                rate = f"{speed:.0f} {unit}/s" if speed and speed >= 1 else ""
                bar.update(task, completed=done, total=total or None, description=stage, rate=rate)

            yield advance

    def index_report(self, report: IndexReport) -> None:
        """What became of each picture."""
        if self.as_json:
            self.json(report.to_dict())
            return
        skipped = report.skipped
        counts = {
            "indexed": report.indexed,
            "unchanged": report.unchanged,
            "reused": report.reused,
            "pruned": report.pruned,
            "ignored (hidden, or no pictures by name)": report.ignored,
            "skipped": len(skipped),
            "unreadable as before (--retry-unreadable reads them again)": len(report.unreadable),
        }
        told = [f"{count} {what}" for what, count in counts.items() if count]
        self._answers.print(f"{', '.join(told) or 'no pictures'} in {report.seconds:.1f} s")
        self._paths("skipped", "because", skipped)

    def audit_report(self, report: "AuditReport") -> None:
        """What is not as it should be, and what was done about it."""
        if self.as_json:
            self.json(report.to_dict())
            return
        if report.paths:
            self._differences(report)
        suspects = {it.path: f"{it.provider}, {it.indexed_at}" for it in report.unverified}
        if not suspects and not report.paths:
            self._answers.print(f"no vector in {report.collection!r} is suspect")
        elif suspects and report.repaired is None:
            self._answers.print(
                f"{len(suspects)} pictures have vectors that no good check has followed; "
                "--repair embeds them again"
            )
        if report.repaired is None:
            self._paths("suspect", "computed by", suspects)
        else:
            self._answers.print("repaired:")
            self.index_report(report.repaired)
        if report.is_of_another_model:
            self._answers.print(
                f"the vectors are of the model {report.generations[0].fingerprint[:12]}, the model "
                f"here is {report.model[:12]}: `warmclip migrate {report.collection}` embeds all "
                "with this one, or name the other as it was when they were made, with --bundle, "
                "--decode and --exif-transpose"
            )

    def _differences(self, report: "AuditReport") -> None:
        """How files and a collection differ; each kind's paths, unless they were repaired."""
        kinds: dict[str, dict[str, str]] = {
            "missing": {it.path: f"{it.size_bytes} bytes" for it in report.missing},
            "stale": {
                it.path: f"{it.size_bytes} bytes, were {it.stored_bytes} on {it.indexed_at}"
                for it in report.stale
            },
            "orphan": {
                it.path: "the file is gone" + (it.elsewhere and f", as {it.elsewhere} it is stored")
                for it in report.orphans
            },
            "moved": {it.path: f"was {it.before.path}" for it in report.moved},
            "suspect": {it.path: it.provider for it in report.unverified},
            "other-fingerprint": {it.path: it.fingerprint[:12] for it in report.foreign},
            "not-compared": report.problems,
            "unreadable": report.unreadable,
            "touched": dict.fromkeys(report.touched, "another time, the same bytes"),
            "identical": {
                it.paths[0]: f"the same bytes: {', '.join(it.paths[1:])}" for it in report.identical
            },
        }
        self._answers.print(
            f"{report.files} files compared with {report.points} points of {report.collection!r}: "
            + _verdict(report)
        )
        counts = [f"{len(told)} {kind}" for kind, told in kinds.items() if told]
        if counts:
            self._answers.print(", ".join(counts))
        for kept in report.generations[1:]:
            self._answers.print(
                f"beside it, {kept.collection} has {kept.points} points of the model "
                f"{kept.fingerprint[:12]}: `warmclip migrate {report.collection}` with that "
                "model's --bundle brings it up to date and switches to it"
            )
        if report.repaired is None:
            for kind, told in kinds.items():
                if kind != "suspect":  # listed by all audits
                    self._paths(kind, "because", told)

    def duplicates_report(self, report: "DuplicatesReport") -> None:
        """Groups of pictures, each with its largest first."""
        if self.as_json:
            self.json(report.to_dict())
            return
        self._answers.print(
            f"{report.pictures} pictures of {report.collection!r} compared at a cosine of "
            f"{report.threshold:g}: {len(report.groups)} groups; nothing was deleted"
        )
        for number, group in enumerate(report.groups[:_MOST_LISTED], start=1):
            self._answers.print(Text(f"group {number}, the largest picture first", style="bold"))
            for hit in group.hits[:_MOST_LISTED]:
                it = hit.payload
                same = "same bytes" if hit is not group.hits[0] and group.is_identical(hit) else ""
                size = f"{it.width_px}x{it.height_px}, {it.size_bytes} bytes"
                path = printable(shortened(it.path))
                self._answers.print(f"  {hit.score:.4f}  {size:28}  {same:10}  {path}")
            if len(group.hits) > _MOST_LISTED:
                self._answers.print(f"  ... and {len(group.hits) - _MOST_LISTED} more")
        if len(report.groups) > _MOST_LISTED:
            rest = len(report.groups) - _MOST_LISTED
            self._answers.print(f"... and {rest} more groups; --json lists them all")

    def _paths(self, heading: str, other: str, told: Mapping[str, str]) -> None:
        """Paths, and what there is to say of each; the first of many."""
        if not told:
            return
        table = Table(heading, other, box=None, pad_edge=False, header_style="bold")
        for path, what in list(told.items())[:_MOST_LISTED]:
            table.add_row(Text(printable(path), overflow="fold"), Text(printable(what)))
        self._answers.print(table)
        if len(told) > _MOST_LISTED:
            rest = len(told) - _MOST_LISTED
            self._answers.print(f"... and {rest} more; --json lists them all")

    def hits(
        self, queries: Sequence[Query], hits_of_each: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        """The pictures found for each query, best first."""
        answers = list(zip(queries, hits_of_each, strict=True))
        if self.as_json:
            self.json({"queries": [asdict(query) | {"hits": hits} for query, hits in answers]})
            return
        for query, hits in answers:
            self._answers.print(Text(printable(shortened(query.heading)), style="bold"))
            if not hits:
                self._answers.print("      nothing was found")
            for place, hit in enumerate(hits, start=1):
                path = printable(shortened(hit["path"]))
                self._answers.print(f"{place:4}  {hit['score']:.3f}  {path}")

    def submitted(self, job_ids: Sequence[str], images: int) -> None:
        """What was queued, when nobody waits for it."""
        if self.as_json:
            self.json({"jobs": list(job_ids), "images": images})
        elif not job_ids:
            self._answers.print("nothing was queued")
        else:
            self._answers.print(
                f"queued; images: {images}, jobs: {len(job_ids)}; `warmclip status` shows them"
            )

    def queue_status(self, status: Mapping[str, Any]) -> None:
        """Queues, workers and failures."""
        if self.as_json:
            self.json(status)
            return
        self._table(status["queues"], ("queue", "name"), "queued", "started", "finished", "failed")
        workers = [
            worker | {"at": f"{worker['at'][0]} of {worker['at'][1]}" if worker["at"] else None}
            for worker in status["workers"]
        ]
        self._table(workers, ("worker", "name"), "state", "job", "at", "hostname", "pid")
        for failure in status["failures"]:
            job = f"{failure['function']} {failure['job']}"
            self._answers.print(f"failed  {failure['ended_at']}  {printable(job)}")
            self._answers.print(f"        {printable(failure['reason'])}")
        if status["dead"]:
            self._answers.print(
                f"pictures set aside: {status['dead']}; `warmclip status --dead` lists them"
            )
        if not status["workers"]:
            self._answers.print("no worker is running; start one with `warmclip worker`")

    def dead_letters(self, letters: Sequence[Mapping[str, Any]]) -> None:
        """Pictures that were set aside, and why."""
        if self.as_json:
            self.json({"dead": list(letters)})
            return
        for letter in letters:
            self._answers.print(f"{printable(letter['at'])}  {printable(letter['path'])}")
            self._answers.print(f"    {printable(letter['reason'])}")
        if letters:
            self._answers.print("`warmclip status --requeue` gives them another chance")
        else:
            self._answers.print("no picture is set aside")

    def benchmark(self, benchmark: Mapping[str, Any]) -> None:
        """The figures of one machine."""
        if self.as_json:
            self.json(benchmark)
            return
        self._answers.print(
            "{model} on {provider}, {machine}, {cores} cores; loaded and warm in {load_s:.2f} s; "
            "medians of {rounds} interleaved rounds".format_map(benchmark)
        )
        rounded = [
            case | {"per_second": f"{case['per_second']:.1f}", "ms_each": f"{case['ms_each']:.1f}"}
            for case in benchmark["cases"]
        ]
        self._table(rounded, ("case", "name"), "batch", "per_second", "ms_each")

    def _table(
        self, rows: Sequence[Mapping[str, Any]], first: tuple[str, str], *columns: str
    ) -> None:
        """Rows under the columns' own names; ``first`` is a heading and the field below it."""
        if not rows:
            return
        table = Table(first[0], *columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            cells = (row[column] for column in (first[1], *columns))
            table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in cells))
        self._answers.print(table)


def shortened(path: str) -> str:
    """A path as seen from here, if it lies under the working folder."""
    here = str(Path.cwd()) + os.sep
    return path.removeprefix(here)


def _verdict(report: "AuditReport") -> str:
    if report.faults:
        return f"{report.faults} are not as they should be"
    return "all of another model than the one here" if report.is_of_another_model else "all is well"
