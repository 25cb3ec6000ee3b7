import json
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from warmclip.cli.console import Terminal
from warmclip.errors import SettingsError
from warmclip.logs import JsonLines, is_json, log_json_lines, printable


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    """A record as a logger makes it."""
    logger = logging.getLogger("warmclip.test")
    return logger.makeRecord(
        logger.name, logging.INFO, __file__, 1, message, args, None, extra=extra
    )


def line_of(of: logging.LogRecord) -> dict[str, Any]:
    """The record's line, read again; it must be one line of printable ASCII."""
    line = JsonLines().format(of)
    assert line.isascii()
    assert line.isprintable()
    read: dict[str, Any] = json.loads(line)
    return read


def test_what_every_line_has() -> None:
    """A collector finds time, level, logger, message and action under their own names."""
    of = record("%d images", 3, action="batch_indexed", images=3)
    of.created = 0.25
    assert line_of(of) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "info",
        "logger": "warmclip.test",
        "message": "3 images",
        "action": "batch_indexed",
        "images": 3,
    }


@pytest.mark.parametrize(
    "name",
    ['a\nb\r\n{"level": "error"}', "\x1b]0;red\x00", "caf\udce9.png", "\u2028\x85\x7f", "é"],
)
def test_names_cannot_break_a_line(name: str) -> None:
    """Control characters and bytes that are no UTF-8 arrive whole, and forge no line."""
    found = line_of(record("indexed %s", name, path=name))
    assert found["message"] == f"indexed {name}"
    assert found["path"] == name


@pytest.mark.parametrize("value", [float("nan"), b"\xff", {1: {2, 3}}, object(), [[[]]]])
def test_values_that_json_has_no_word_for(value: object) -> None:
    """Whatever was passed as extra, the line is JSON."""
    assert "value" in line_of(record("a", value=value))


def test_value_inside_itself() -> None:
    """A list that contains itself ends somewhere."""
    endless: list[object] = []
    endless.append(endless)
    assert line_of(record("a", value=endless))


def test_exception_is_in_the_same_line() -> None:
    """A traceback is a field, not lines of its own."""
    of = record("failed")
    try:
        int("first\nsecond")
    except ValueError:
        of.exc_info = sys.exc_info()
    assert line_of(of)["exception"].startswith("Traceback")
    assert line_of(of)["exception"].endswith(r"'first\nsecond'")


def test_endless_text_is_cut() -> None:
    """A line has a bound, and its end, where a traceback says most, is kept."""
    assert len(line_of(record("x" * 1_000_000 + "end"))["message"]) < 100_000
    assert line_of(record("x" * 1_000_000 + "end"))["message"].endswith("end")


def test_arguments_that_do_not_fit() -> None:
    """A slip in a logging call costs the sentence, not the line."""
    assert line_of(record("%d", "three"))["message"] == "%d ('three',)"


def test_extra_with_a_name_of_ours() -> None:
    """A record's own time is not overwritten by what somebody calls so."""
    found = line_of(record("a", level="mine"))
    assert (found["level"], found["extra_level"]) == ("info", "mine")


@pytest.mark.parametrize(
    "say",
    [
        lambda terminal: terminal.note("by the way"),
        lambda terminal: terminal.error(SettingsError("no\nway")),
        lambda _terminal: warnings.warn("an old habit", stacklevel=1),
        lambda _terminal: logging.getLogger("other").warning("look"),
    ],
    ids=["note", "error", "warning", "library"],
)
def test_nothing_else_on_stderr(
    say: Callable[[Terminal], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With --log-json, whoever speaks says it in one JSON line."""
    terminal = Terminal(verbose=True, log_json=True)
    with terminal.progress("images") as progress:
        progress(1, 2, "indexing")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            say(terminal)
    logging.captureWarnings(False)
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert json.loads(line)["message"]
    assert said.out == ""


def test_whether_it_logs_json() -> None:
    """Who starts a process can ask how that one should log."""
    assert not is_json()
    log_json_lines()
    logging.captureWarnings(False)
    assert is_json()


def test_talkative_libraries(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their requests and their starts are not told, their warnings are."""
    for library in ("httpx", "httpcore", "uvicorn"):
        monkeypatch.setattr(logging.getLogger(library), "level", logging.NOTSET)
    log_json_lines()
    logging.getLogger("httpx").info("HTTP Request: GET http://qdrant/collections")
    logging.getLogger("httpcore.connection").info("connect_tcp.started")
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    logging.getLogger("httpx").warning("something is wrong")
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "something is wrong"


@pytest.mark.parametrize(
    ("name", "shown"), [("caf\udce9", "caf\\xe9"), ("half\ud800", "half\\ud800"), ("\0", "\\x00")]
)
def test_names_that_no_terminal_shows(name: str, shown: str) -> None:
    """Bytes that are no UTF-8, halves of characters and control characters are escaped."""
    assert printable(name) == shown
