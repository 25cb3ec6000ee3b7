"""One operation in one kind of process, reported step by step. It runs in the doctor's children.

Every kind begins with a process that makes the subject and uses it, as a launching program has by
the time it starts workers. What differs is who uses it next:

- ``main``: nobody else;
- ``fork``: a forked child, which makes it anew, uses the inherited one, releases both, exits;
- ``exec``: a new program, cold, once;
- ``horse``: a new program that keeps it and answers twice.

Events go to stdout, one JSON object a line; other lines there come from libraries.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from warmclip.children import signal_name

Kind = Literal["main", "fork", "exec", "horse", "serve"]  # serve: what a horse itself is started as
KINDS: tuple[Kind, ...] = ("main", "fork", "exec", "horse", "serve")

DEFAULT_SLACK_S = 10.0
LONGEST_DEADLINE_S = 600.0
# A forked child gets so many times what its parent needed, and the slack.
_PATIENCE = 5.0

_USE, _DONE = b"use\n", b"done\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is tried: it is made once, then used."""

    make: Callable[[], Any]
    use: Callable[[Any], Mapping[str, Any] | None]  # returns facts, such as its best time
    command: Sequence[str]  # starts a new program with the same subject, ``--process`` apart
    slack_s: float = DEFAULT_SLACK_S


def run(subject: Subject, kind: Kind) -> int:
    """Try a subject in a process of this kind, and return the exit code; a forked child exits."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected here
    try:
        if kind == "serve":
            _serve(subject)
            return 0
        launcher = _make_and_use(subject)
        match kind:
            case "fork":
                _run_fork(subject, launcher)
            case "exec":
                _run_exec(subject)
            case "horse":
                _run_horse(subject)
    except Exception as exc:  # whatever it is, it is the result
        write_event(error=_first_line(exc))
        return 1
    return 0


def write_event(**event: Any) -> None:
    """Write one event, past any buffer that a forked child would inherit."""
    os.write(1, json.dumps(event).encode("ascii") + b"\n")


@contextmanager
def step(name: str, within_s: float | None = None) -> Iterator[dict[str, Any]]:
    """Announce a step, so that a hang or a crash has a name; the block adds facts to the dict."""
    facts: dict[str, Any] = {}
    announce(name, within_s)
    started = time.perf_counter()
    yield facts
    write_event(done=name, seconds=time.perf_counter() - started, facts=facts)
    signal.alarm(0)


def announce(name: str, within_s: float | None = None) -> None:
    """Announce a step; an alarm ends this process if it hangs and the doctor is gone."""
    write_event(step=name, within_s=within_s)
    signal.alarm(round(within_s or LONGEST_DEADLINE_S) + 10)


@dataclass(slots=True)
class _Launcher:
    """What a launching process has made by the time it starts others, and how long that took."""

    made: Any
    make_s: float
    use_s: float


def _make_and_use(subject: Subject) -> _Launcher:
    started = time.perf_counter()
    with step("makes it"):
        made = subject.make()
    then = time.perf_counter()
    with step("uses it") as facts:
        facts.update(subject.use(made) or {})
    now = time.perf_counter()
    write_event(took_s=now - started)
    return _Launcher(made=made, make_s=then - started, use_s=now - then)


def _run_fork(subject: Subject, launcher: _Launcher) -> None:
    pid = os.fork()
    if pid == 0:
        _run_forked(subject, launcher)
    _write_end(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _run_forked(subject: Subject, launcher: _Launcher) -> None:
    """Do what a forked worker does, including the exit of a Python program."""

    def allowed(parents_s: float) -> float:
        return subject.slack_s + _PATIENCE * parents_s

    started = time.perf_counter()
    try:
        with step("makes it anew", allowed(launcher.make_s)):
            again = subject.make()
        with step("uses its own", allowed(launcher.use_s)) as facts:
            facts.update(subject.use(again) or {})
        with step("uses the inherited one", allowed(launcher.use_s)) as facts:
            facts.update(subject.use(launcher.made) or {})
        # While its own is alive, as when a program puts a new model in an old one's place.
        with step("lets go of the inherited one", allowed(0)):
            launcher.made = None
            gc.collect()
    except Exception as exc:  # whatever it is, it is the result
        write_event(error=_first_line(exc))
        sys.exit(1)
    write_event(took_s=time.perf_counter() - started)
    announce("exits", allowed(0))
    sys.exit(0)


def _run_exec(subject: Subject) -> None:
    started = time.perf_counter()
    code = subprocess.call([*subject.command, "--process", "main"])  # noqa: S603 - ourselves
    write_event(took_s=time.perf_counter() - started)
    _write_end(code)


def _run_horse(subject: Subject) -> None:
    command = [*subject.command, "--process", "serve"]
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as horse:
        seconds = []
        for answer in ("answers", "answers again"):
            started = time.perf_counter()
            with step(answer):
                if not _ask_horse(horse):
                    break
            seconds.append(time.perf_counter() - started)
        write_event(step="exits", within_s=None)
        if horse.stdin is not None:
            horse.stdin.close()
        code = horse.wait()
    if len(seconds) == 2:
        write_event(took_s=seconds[0], again_s=seconds[1])
    _write_end(code)


def _ask_horse(horse: "subprocess.Popen[bytes]") -> bool:
    """Have the horse use its subject once; other lines are passed on. False if it has ended."""
    assert horse.stdin is not None  # noqa: S101 - it was opened with pipes
    assert horse.stdout is not None  # noqa: S101
    try:
        horse.stdin.write(_USE)
        horse.stdin.flush()
    except BrokenPipeError:
        return False
    for line in horse.stdout:
        if line == _DONE:
            return True
        os.write(1, line)
    return False


def _serve(subject: Subject) -> None:
    """Serve as a horse: make the subject at the first line, keep it until the pipe ends."""
    signal.alarm(round(LONGEST_DEADLINE_S) + 10)
    made: list[Any] = []
    for _ in sys.stdin.buffer:
        if not made:
            made.append(subject.make())
        subject.use(made[0])
        os.write(1, _DONE)


def _write_end(code: int) -> None:
    if code < 0:
        write_event(end={"signal": signal_name(-code)})
    else:
        write_event(end={"code": code})


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
