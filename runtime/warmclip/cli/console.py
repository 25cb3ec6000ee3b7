"""What a command writes: answers to stdout; notes, errors, progress and logs to stderr."""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from warmclip.errors import OutputUnwritable, SettingsError, WarmclipError
from warmclip.logs import log_json_lines, log_text, printable
from warmclip.progress import Progress

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger(__name__)

MOST_LISTED = 20
"""Paths, groups, or pictures of a group that are shown; ``--json`` lists them all."""

_SHARED = 4  # paths with one reason that are told together
_NO_TERMINAL_WIDTH = 1000  # a file or a pipe: nothing is folded
_PAGE_WIDTH = 120  # of what is drawn for a file or a pipe


class Terminal:
    """Where one command writes."""

    def __init__(
        self, *, as_json: bool = False, verbose: bool = False, log_json: bool = False
    ) -> None:
        self.as_json = as_json
        self._log_json = log_json
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Python does the same for stderr: PYTHONIOENCODING may name one that has few letters.
            sys.stdout.reconfigure(errors="backslashreplace")
        self._answers = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        if not self._answers.is_terminal:
            self._answers.width = _NO_TERMINAL_WIDTH
        self._notes = Console(stderr=True, highlight=False, markup=False, emoji=False)
        level = logging.INFO if verbose else logging.WARNING
        if log_json:
            log_json_lines(level)
        else:
            log_text(level, self._notes)

    def print(self, answer: RenderableType) -> None:
        """Write a part of the answer for people, on stdout."""
        self._answers.print(answer)

    def draw(self, drawing: RenderableType) -> None:
        """Write a drawing, which has a width, on stdout."""
        width = None if self._answers.is_terminal else _PAGE_WIDTH
        self._answers.print(drawing, soft_wrap=False, width=width)

    def json(self, value: Mapping[str, Any]) -> None:
        """Write one JSON object on stdout, in ASCII, which keeps names that are not UTF-8."""
        self._answers.out(json.dumps(value, indent=2 if self._answers.is_terminal else None))

    def write_paths(self, paths: Iterable[str], *, nul: bool = False) -> None:
        """Write paths on stdout for other programs, byte by byte as they are stored.

        Args:
            paths: as the file system spells them.
            nul: end each with a NUL, as ``xargs -0`` reads them, not with a line feed.
        """
        end = b"\0" if nul else b"\n"
        left_out = 0
        for path in paths:
            try:
                sys.stdout.buffer.write(encode_path(path) + end)
            except ValueError:
                left_out += 1
        sys.stdout.buffer.flush()
        if left_out:
            self.note(f"left out, as no file can have such a path: {left_out}")

    def note(self, text: str) -> None:
        """Write a remark on stderr."""
        if self._log_json:
            log.info("%s", text)
        else:
            self._notes.print(text, soft_wrap=True)

    def confirm(self, question: str) -> bool:
        """Ask on stderr whether something is meant; only "y" and "yes" say so.

        Raises:
            SettingsError: nobody can be asked.
        """
        if self.as_json or sys.stdin is None or not sys.stdin.isatty():
            raise SettingsError(f"{question}. Nobody can be asked here: repeat with --yes")
        self._notes.print(printable(f"{question} [y/N] "), end="", soft_wrap=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def error(self, exc: WarmclipError) -> None:
        """Write an error as one paragraph on stderr; with --json also as an object on stdout."""
        if self.as_json:
            with suppress(OutputUnwritable):
                self.json({"error": {"type": type(exc).__name__, "message": str(exc)}})
        if self._log_json:
            log.error("%s", exc, extra={"action": "failed", "error": type(exc).__name__})
            return
        message = Text.assemble(("error: ", "bold red"), printable(str(exc), lines=True))
        self._notes.print(message, soft_wrap=True)

    @contextmanager
    def progress(self, unit: str) -> Iterator[Progress]:
        """Show a bar with the rate and the time left, on a terminal."""
        if self._log_json or self.as_json or not self._notes.is_terminal:
            yield lambda _done, _total, _stage: None
            return
        # Here, since it takes as long to import as all else of rich, and few see a bar.
        import rich.progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self._notes, transient=True) as bar:
            # rich hides the cursor, which a shell would be without after Ctrl-Z or a kill.
            self._notes.show_cursor()
            task = bar.add_task("", total=None, rate="")

            def advance(done: int, total: int, stage: str) -> None:
                speed = bar.tasks[0].speed
                rate = f"{speed:.0f} {unit}/s" if speed and speed >= 1 else ""
                bar.update(task, completed=done, total=total or None, description=stage, rate=rate)

            yield advance

    def print_paths(self, heading: str, other: str, details: Mapping[str, str]) -> None:
        """Write a table of paths, the first of many, with a detail of each.

        Args:
            heading: of the paths.
            other: of the details.
            details: path -> what to write beside it; without any, nothing is written.
        """
        if not details:
            return
        table = Table(heading, other, box=None, pad_edge=False, header_style="bold")
        for path, detail in list(details.items())[:MOST_LISTED]:
            table.add_row(Text(printable(path), overflow="fold"), Text(printable(detail)))
        self.print(table)
        if len(details) > MOST_LISTED:
            self.print(f"... and {len(details) - MOST_LISTED} more; --json lists them all")

    def print_table(
        self, rows: Sequence[Mapping[str, Any]], first: tuple[str, str], *columns: str
    ) -> None:
        """Write a table of rows, unless there are none.

        Args:
            rows: field -> value, each.
            first: the heading of the first column, and its field.
            columns: fields, which are their own headings.
        """
        if not rows:
            return
        table = Table(first[0], *columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            cells = (row[column] for column in (first[1], *columns))
            table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in cells))
        self.print(table)


class _Stdout(FileIO):
    """Standard output, of which it is told that it cannot be written."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write what fits.

        Raises:
            OutputUnwritable: a file system is full, say. A reader that has gone is no fault.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as exc:
            # Python would try to write the rest once more as it ends, and fail with other words.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            raise OutputUnwritable(
                f"the answer could not be written to standard output: {exc.strerror}; make room, "
                "or write it elsewhere"
            ) from exc


def run_app(app: Callable[[], object]) -> None:
    """Run a command line, and tell if standard output cannot be written, whoever writes to it.

    Args:
        app: Typer's. What it prints itself (help, version, completion) is told of as well.
    """
    former = sys.stdout
    if isinstance(former, TextIOWrapper):  # it may be closed
        sys.stdout = TextIOWrapper(
            BufferedWriter(_Stdout(former.fileno(), "w", closefd=False)),
            encoding=former.encoding,
            errors=former.errors,
            line_buffering=former.line_buffering,
            write_through=former.write_through,
        )
    try:
        app()
    except OutputUnwritable as exc:  # what a command tells itself has its exit code already
        Terminal().error(exc)
        sys.exit(exc.exit_code)


def fold_reasons(reasons: Mapping[str, str]) -> dict[str, str]:
    """Reasons as people read them: one that many paths share stands once, with their number.

    Args:
        reasons: path -> its reason.

    Returns:
        Path -> reason, or "20 files, such as PATH" -> reason, in the order of the first ones.
    """
    paths: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        paths.setdefault(reason, []).append(path)
    folded = {}
    for reason, some in paths.items():
        if len(some) >= _SHARED:
            folded[f"{len(some)} files, such as {some[0]}"] = reason
        else:
            folded |= dict.fromkeys(some, reason)
    return folded


def encode_path(path: str) -> bytes:
    """The bytes of a file's name.

    Raises:
        ValueError: no file can have it: it contains a NUL, or a character that is half of one.
    """
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("a NUL in a path")
    return encoded


def shorten_path(path: str) -> str:
    """A path relative to the working folder, if it lies below it."""
    try:
        here = str(Path.cwd()) + os.sep
    except FileNotFoundError:  # it was deleted
        return path
    return path.removeprefix(here)
