"""Set up logging: JSON lines for machines, plain lines for people, of any record."""

import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_MOST_CHARS = 32_768  # of one text; a line has a bound, so that collectors take it
_MOST_DEPTH = 8
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # of a character, and no byte of a name
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One record as one line of pure ASCII.

    ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``; then what a record was given as
    ``extra``, such as ``action``; ``exception`` and ``stack`` as texts. Line feeds and other
    control characters, and bytes of names that are no UTF-8, are escaped by JSON itself.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line feed."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line[f"extra_{name}" if name in line else name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        text = json.dumps(_plain(line), ensure_ascii=True, allow_nan=False)
        return text.replace("\x7f", r"\u007f")  # the one control character that JSON lets pass


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(without_colours(super().format(record)), lines=True)


def log_json_lines(level: int = logging.INFO) -> None:
    """Log JSON lines on stderr in this process, Python's own warnings too.

    A process that this one starts has to call it again.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    _silence_libraries()


def log_text(level: int = logging.INFO, console: "Console | None" = None) -> None:
    """Log for people on stderr in this process: in colours on a terminal, else with the time.

    Args:
        level: the lowest level that is shown.
        console: where a terminal's lines go, if they must not cut through a progress bar.
    """
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        handler = RichHandler(console=console, show_path=False, show_time=False)
        handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    _silence_libraries()


def is_json() -> bool:
    """Whether this process logs JSON lines, and the processes that it starts should."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def without_colours(text: str) -> str:
    """Without the colours that RQ puts into its messages where stdout is a terminal."""
    return _COLOUR.sub("", text)


def printable(text: str, *, lines: bool = False) -> str:
    """Escape control characters, and what is no UTF-8, so that any terminal can show it.

    Args:
        text: such as a file's name.
        lines: keep line feeds, which in a name would forge lines of a log.
    """
    text = _HALF.sub(lambda half: ascii(half[0])[1:-1], text)
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else ascii(char)[1:-1]
        for char in shown
    )


def _silence_libraries() -> None:
    # stamina announces every retry in its own words; ``store.calls`` says the same in ours.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    # Every request to Qdrant, and a server's own start and stop, which ``serve`` says in our words.
    for library in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _message(record: logging.LogRecord) -> str:
    try:
        return without_colours(record.getMessage())
    except (TypeError, ValueError, KeyError):  # arguments that do not fit: still one line
        return f"{record.msg!s} {record.args!r}"


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can carry it, within bounds."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        half = _MOST_CHARS // 2  # a traceback says most in its last line
        return value if len(value) <= _MOST_CHARS else f"{value[:half]} ... {value[-half:]}"
    if depth < _MOST_DEPTH:
        if isinstance(value, Mapping):
            return {_plain(str(key)): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(item, depth + 1) for item in value]
    return _plain(str(value))
