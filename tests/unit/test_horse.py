"""What a horse tells its worker, and what the worker makes of it; no horse is started."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rq.timeouts import JobTimeoutException

from running import eventually
from warmclip.activity import Stage
from warmclip.errors import BadVectors, ImageUnavailable, ImageUnreadable
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.horse.models import MissedModel
from warmclip.work.horse.report import JobReport
from warmclip.work.horse.reporter import Orphaned, Reporter
from warmclip.work.horse.runner import taint

LOAD = {"begin": 1, "stage": "load", "what": "coreml", "provider": "coreml", "allow_s": 600.0}
RUN = {"begin": 2, "stage": "run", "what": "image on cpu", "provider": "cpu", "allow_s": 2.0}
DECODE = {"begin": 3, "stage": "decode", "what": "/a.jpg", "provider": "", "allow_s": 0.0}
BEGAN = {"began": "e"}
NEVER = float("inf")


@pytest.mark.parametrize(
    ("messages", "is_ours", "seconds"),
    [
        ([BEGAN], True, 30.0),
        ([BEGAN, DECODE], True, 30.0),
        ([BEGAN, RUN], True, 30.0),
        ([BEGAN, LOAD], True, 600.0),
        ([BEGAN, LOAD, {"end": 1}], True, 30.0),
        # A function of the user's own has its time-out, once it has begun.
        ([], False, 30.0),
        ([BEGAN], False, NEVER),
        ([{"began": "another"}], False, 30.0),
        # What we do in it is watched as everywhere.
        ([BEGAN, DECODE], False, 30.0),
        ([BEGAN, DECODE, {"end": 3}], False, NEVER),
        ([BEGAN, LOAD], False, 600.0),
    ],
)
def test_allowed_silence(messages: list[dict[str, Any]], is_ours: bool, seconds: float) -> None:
    """How long a horse may be silent, by whose code it is in."""
    in_flight = InFlight("e")
    for message in messages:
        in_flight.update(message)
    assert in_flight.allowed_silence_s(30.0, is_ours=is_ours) == seconds


@pytest.mark.parametrize(
    "message",
    [
        {"begin": 1},
        {"begin": "x", "stage": "run"},
        {"begin": 1, "stage": "eat", "what": "", "provider": "", "allow_s": 0},
        {"end": [1]},
        {"at": 5},
        {"at": [1, 2]},
        {"part": 7, "of": "e"},
        {"part": "text", "of": "another"},
        {"extends": "long"},
        {},
    ],
    ids=json.dumps,
)
def test_message_that_is_none(message: dict[str, Any]) -> None:
    """It changes nothing: a job may have written it."""
    in_flight = InFlight("e")
    in_flight.update(message)
    assert str(in_flight) == "in Python code"
    assert (in_flight.text, in_flight.progress, in_flight.extends_s) == ("", None, None)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "decoding '/0'"),
        (4, "decoding '/0', decoding '/1', decoding '/2', decoding '/3'"),
        (5, "decoding '/0', decoding '/1', decoding '/2', decoding '/3' and 1 more"),
        (6, "decoding '/0', decoding '/1', decoding '/2', decoding '/3' and 2 more"),
        (9, "decoding '/0', decoding '/1', decoding '/2', decoding '/3' and 5 more"),
    ],
)
def test_what_it_is_doing(count: int, told: str) -> None:
    """In words, of four things at most."""
    in_flight = InFlight("e")
    for number in range(count):
        in_flight.update(DECODE | {"begin": number, "what": f"/{number}"})
    assert str(in_flight) == told
    assert in_flight.images == [f"/{number}" for number in range(count)]
    in_flight.update(RUN | {"begin": 99})
    assert [call.what for call in in_flight.native_calls] == ["image on cpu"]
    assert in_flight.provider == "cpu"


def test_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of native work is observed when it ends, once."""
    now = [10.0]
    monkeypatch.setattr("warmclip.work.horse.in_flight.time.monotonic", lambda: now[0])
    took: list[tuple[str, float]] = []
    in_flight = InFlight("e", lambda stage, seconds: took.append((stage, seconds)))
    in_flight.update(RUN)
    now[0] = 12.5
    for _ in range(2):
        in_flight.update({"end": RUN["begin"]})
    assert took == [("run", 2.5)]


def test_text_beyond_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """So much is kept; with what comes after it, it is no report."""
    monkeypatch.setattr("warmclip.work.horse.in_flight.MOST_BYTES", 10)
    in_flight = InFlight("e")
    for part in ("12345", "67890", "x", ""):
        in_flight.update({"part": part, "of": "e"})
    assert in_flight.text == "1234567890"


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
def test_report_of_any_size(size: int) -> None:
    """It arrives as it was, in messages that a pipe's reader keeps whole."""
    report = JobReport(execution="e", outcome="success", text="x" * size, retries_left=2)
    in_flight = InFlight("e")
    *parts, last = report.messages()
    for part in parts:
        assert len(json.dumps(part)) < 1024 * 1024
        in_flight.update(part)
    assert JobReport.read(last, in_flight.text) == report
    assert len(parts) <= 1 + size // 100_000  # each of them wakes the worker


@pytest.mark.parametrize(
    ("chars", "parts"),
    [(0, []), (262_144, [262_144]), (262_145, [262_144, 1]), (600_000, [262_144, 262_144, 75_712])],
)
def test_parts_of_a_report(chars: int, parts: list[int]) -> None:
    """Each is of a quarter of a million characters at most, and none is empty."""
    *sent, last = JobReport(execution="e", outcome="success", text="x" * chars).messages()
    assert [len(part["part"]) for part in sent] == parts
    assert {part["of"] for part in sent} <= {"e"}
    assert last["chars"] == chars


def test_report_of_nothing_but_an_outcome() -> None:
    """What a job does not change is left to RQ, and nothing is counted."""
    assert list(JobReport(execution="e", outcome="retry", text="").messages()) == [
        {
            "done": "e", "outcome": "retry", "chars": 0, "retries_left": None, "result_ttl": None,
            "failure_ttl": None, "tainted": "", "missed": asdict(MissedModel()),
            "store_retries": 0, "points": {},
        }
    ]  # fmt: skip


def test_report_that_got_a_part_twice() -> None:
    """It is no result either."""
    *parts, last = JobReport(execution="e", outcome="success", text="x" * 10).messages()
    in_flight = InFlight("e")
    for part in parts * 2:
        in_flight.update(part)
    assert JobReport.read(last, in_flight.text).outcome == "failure"


def test_report_that_lost_a_part() -> None:
    """It is no result any more, but a failure that says so."""
    *parts, last = JobReport(execution="e", outcome="success", text="x" * 600_000).messages()
    in_flight = InFlight("e")
    for part in parts[1:]:
        in_flight.update(part)
    report = JobReport.read(last, in_flight.text)
    assert report.outcome == "failure"
    assert "garbled" in report.text


def caused_by(error: BaseException) -> Exception:
    """An ordinary error that a job has made of another one."""
    found = ValueError("the job's own")
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "has_struck", "told"),
    [
        (None, False, ""),
        (ValueError("no"), False, ""),
        (ImageUnreadable("no"), False, ""),
        (RecursionError(), False, ""),
        (caused_by(KeyError("x")), False, ""),
        (None, True, "time-out"),  # the job has caught it
        (JobTimeoutException(), False, "time-out"),
        (caused_by(JobTimeoutException()), False, "time-out"),
        (MemoryError(), False, "memory"),
        (caused_by(MemoryError()), False, "memory"),
        (BadVectors("NaN"), False, "nonsense"),
        (SystemExit(0), False, "SystemExit"),
        (KeyboardInterrupt(), False, "KeyboardInterrupt"),
        (caused_by(asyncio.CancelledError()), False, "CancelledError"),
    ],
)
def test_taint(error: BaseException | None, has_struck: bool, told: str) -> None:
    """A horse goes on after an ordinary error of a job, and after nothing else."""
    found = taint(error, has_struck=has_struck)
    assert told in found
    assert bool(found) is bool(told)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of one; a test may have closed them."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def said(descriptor: int) -> list[dict[str, Any]]:
    """What was sent, line by line; what is no message is left out."""
    messages = []
    for line in os.read(descriptor, 65_536).split(b"\n"):
        try:
            messages.append(json.loads(line))
        except ValueError:
            continue
    return messages


def test_half_a_line_of_a_job(pipe: tuple[int, int]) -> None:
    """It garbles no message that comes after it."""
    reporter = Reporter(pipe[1], lambda _: None)
    os.write(pipe[1], b'half a line {"done": ')
    reporter.send(done="e")
    assert said(pipe[0]) == [{"done": "e"}]


def test_descriptor_that_is_another_file_now(pipe: tuple[int, int], tmp_path: Path) -> None:
    """A job closed it, and opened a file of its own under its number: nothing is written there."""
    reporter = Reporter(pipe[1], lambda _: None)
    os.close(pipe[1])
    with (tmp_path / "mine").open("wb") as mine:
        os.dup2(mine.fileno(), pipe[1])
        reporter.send(done="e")
        assert reporter.is_lost
    assert (tmp_path / "mine").read_bytes() == b""


def test_fork_after_the_descriptor_was_lost(pipe: tuple[int, int], tmp_path: Path) -> None:
    """A child that a job forks closes the horse's pipe, but no file that has its number now."""
    reporter = Reporter(pipe[1], lambda _: None)
    os.close(pipe[1])
    with (tmp_path / "mine").open("wb") as mine:
        os.dup2(mine.fileno(), pipe[1])
        child = os.fork()
        if child == 0:
            os.write(pipe[1], b"still open")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "mine").read_bytes() == b"still open"
    assert not reporter.is_lost


def test_fork_hangs_up(pipe: tuple[int, int]) -> None:
    """A child that a job forks does not look like a horse that is still at work."""
    Reporter(pipe[1], lambda _: None)
    child = os.fork()
    if child == 0:
        try:
            os.fstat(pipe[1])
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_program_that_a_job_starts_hangs_up(pipe: tuple[int, int]) -> None:
    """Nor does one that inherits the horse's descriptors, as what ``os.system`` starts does."""
    os.set_inheritable(pipe[1], True)  # as the horse itself has inherited it
    Reporter(pipe[1], lambda _: None)
    code = f"import os\nos.fstat({pipe[1]})"
    done = subprocess.run(
        [sys.executable, "-c", code], close_fds=False, capture_output=True, text=True, check=False
    )
    assert "Bad file descriptor" in done.stderr


def test_orphan_ends_at_its_next_step(pipe: tuple[int, int]) -> None:
    """Between two steps, not in the middle of one; and no job takes it for an error of its own."""
    reporter = Reporter(pipe[1], lambda _: None)
    reporter.progress(1, 3, "indexing")
    with reporter.during("run", "image"):
        reporter.on_orphaned()
    with pytest.raises(Orphaned):
        reporter.progress(2, 3, "indexing")
    assert not issubclass(Orphaned, Exception)


def test_one_slow_run(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises what a run may take for a while, not for good."""
    now = [0.0]
    monkeypatch.setattr("warmclip.work.horse.reporter.time.monotonic", lambda: now[0])
    reporter = Reporter(pipe[1], lambda _: None)

    def run(seconds: float) -> float:
        with reporter.during("run", "image"):
            now[0] += seconds
        return float(said(pipe[0])[0]["allow_s"])

    run(0.1)
    assert run(50.0) == pytest.approx(2.0)
    assert run(0.1) == pytest.approx(1000.0)
    for _ in range(40):
        run(0.1)
    assert run(0.1) == pytest.approx(2.0)


@pytest.mark.parametrize(("stage", "allow_s"), [("load", 600.0), ("run", 600.0), ("decode", 0.0)])
def test_step(pipe: tuple[int, int], stage: Stage, allow_s: float) -> None:
    """It is announced before it begins and after it ended, also by an error; each has a number."""
    reporter = Reporter(pipe[1], lambda _: None)
    with reporter.during(stage, "it", provider="coreml"):
        begins = {"stage": stage, "what": "it", "provider": "coreml", "allow_s": allow_s}
        assert said(pipe[0]) == [{"begin": 1, **begins}]
    assert said(pipe[0]) == [{"end": 1}]
    with pytest.raises(ValueError, match="wrong"), reporter.during("decode", "more"):
        raise ValueError("wrong")
    assert [message.get("begin", message.get("end")) for message in said(pipe[0])] == [2, 2]


def test_larger_batch_may_take_longer(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run may take is by the row, and of the slowest."""
    now = [0.0]
    monkeypatch.setattr("warmclip.work.horse.reporter.time.monotonic", lambda: now[0])
    reporter = Reporter(pipe[1], lambda _: None)
    for rows, seconds in ((4, 2.0), (10, 1.0)):
        with reporter.during("run", "image", rows=rows):
            now[0] += seconds
    said(pipe[0])
    for rows, allow_s in ((1, 10.0), (8, 80.0)):
        with reporter.during("run", "image", rows=rows):
            assert said(pipe[0])[0]["allow_s"] == pytest.approx(allow_s)
        said(pipe[0])
        reporter._row_s.pop()  # it took no time


def test_picture_that_is_set_aside(pipe: tuple[int, int]) -> None:
    """It is not decoded, and nothing is announced; a graph of the same name is run."""
    reporter = Reporter(pipe[1], {"/a.jpg": "it kills"}.get)
    with pytest.raises(ImageUnavailable, match="it kills"), reporter.during("decode", "/a.jpg"):
        pytest.fail("it was decoded")
    with reporter.during("run", "/a.jpg"), reporter.during("decode", "/b.jpg"):
        assert [message["begin"] for message in said(pipe[0])] == [1, 2]


def test_progress_is_told_four_times_a_second(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at the end in any case."""
    now = [100.0]
    monkeypatch.setattr("warmclip.work.horse.reporter.time.monotonic", lambda: now[0])
    reporter = Reporter(pipe[1], lambda _: None)
    for done in range(1, 11):
        reporter.progress(done, 10, "indexing")
        now[0] += 0.125
    assert [message["at"] for message in said(pipe[0])] == [
        [done, 10, "indexing"] for done in (1, 3, 5, 7, 9, 10)
    ]
    reporter.progress(999, 1000, "indexing")
    reporter.progress(int("1000"), int("1000"), "indexing")  # as they are counted
    reporter.send(done="e")
    assert [message.get("at") for message in said(pipe[0])] == [[1000, 1000, "indexing"], None]


@pytest.mark.filterwarnings(  # how its thread ends here
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
def test_heartbeat(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells that a job's Python runs: not between jobs, and not while native code does."""
    reporter = Reporter(pipe[1], lambda _: None)
    job, call = reporter.job(careful=True), reporter.during("load", "x")
    steps: list[Callable[[], object]] = [
        lambda: None,
        job.__enter__,
        lambda: None,
        call.__enter__,
        lambda: call.__exit__(None, None, None),
        lambda: job.__exit__(None, None, None),
        threading.Event().wait,  # for ever, as pytest takes an end for an exception
    ]
    alive: list[int] = []
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        os.write(pipe[1], b"\n")
        alive.append(said(pipe[0]).count({"alive": True}))
        slept.append(seconds)
        steps.pop(0)()

    monkeypatch.setattr(
        "warmclip.work.horse.reporter.time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0)
    )
    reporter.start_heartbeat()
    eventually(lambda: not steps)
    assert alive == [0, 0, 1, 1, 0, 1, 0]
    assert set(slept) == {1.0}


@pytest.mark.parametrize("careful", [True, False])
def test_careful_job(pipe: tuple[int, int], careful: bool) -> None:
    """It does one thing at a time; what the one before it left open is forgotten."""
    reporter = Reporter(pipe[1], lambda _: None)
    with reporter.job(careful=careful):
        assert reporter.one_at_a_time is careful
