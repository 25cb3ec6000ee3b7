"""One thing done in one kind of process, told step by step. This runs in the doctor's children.

Every kind begins with a process that makes the thing and uses it, as a launching program has by
the time it starts workers. What differs is who does it next:

- ``main``: nobody else;
- ``fork``: a forked child, which makes it anew, uses the inherited one, lets go of both, exits;
- ``exec``: a new program, cold, once;
- ``horse``: a new program that keeps it and answers twice.

The story goes to stdout, one JSON object a line; other lines there are somebody else's.
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
    """What is tried: made once, then used."""

    make: Callable[[], Any]
    use: Callable[[Any], Mapping[str, Any] | None]  # facts worth telling, such as its best time
    command: Sequence[str]  # starts a new program with the same subject, ``--process`` apart
    slack_s: float = DEFAULT_SLACK_S


def run(subject: Subject, kind: Kind) -> int:
    """Do it in a process of this kind and return the exit code. A forked child leaves by itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected here
    try:
        if kind == "serve":
            _serve(subject)
            return 0
        launcher = _make_and_use(subject)
        match kind:
            case "fork":
                _fork(subject, launcher)
            case "exec":
                _exec(subject)
            case "horse":
                _ride(subject)
    except Exception as exc:  # whatever it is, it is what we came to see
        tell(error=_first_line(exc))
        return 1
    return 0


def tell(**story: Any) -> None:
    """Write one line of the story, whole, past any buffer that a forked child would inherit."""
    os.write(1, json.dumps(story).encode("ascii") + b"\n")


@contextmanager
def step(name: str, within_s: float | None = None) -> Iterator[dict[str, Any]]:
    """Announce what comes next, so that a hang or a crash has a name; add to what it yields."""
    facts: dict[str, Any] = {}
    announce(name, within_s)
    started = time.perf_counter()
    yield facts
    tell(done=name, seconds=time.perf_counter() - started, facts=facts)
    signal.alarm(0)


def announce(name: str, within_s: float | None = None) -> None:
    """Say what comes next. Who hangs in it ends by itself, should the doctor be gone."""
    tell(step=name, within_s=within_s)
    signal.alarm(round(within_s or LONGEST_DEADLINE_S) + 10)


@dataclass(slots=True)
class _Launcher:
    """What a launching process has by the time it starts others, and how long that took."""

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
    tell(took_s=now - started)
    return _Launcher(made=made, make_s=then - started, use_s=now - then)


def _fork(subject: Subject, launcher: _Launcher) -> None:
    pid = os.fork()
    if pid == 0:
        _be_forked(subject, launcher)
    _tell_end(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _be_forked(subject: Subject, launcher: _Launcher) -> None:
    """What a forked worker does, down to leaving as any Python program leaves."""

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
    except Exception as exc:  # whatever it is, it is what we came to see
        tell(error=_first_line(exc))
        sys.exit(1)
    tell(took_s=time.perf_counter() - started)
    announce("exits", allowed(0))
    sys.exit(0)


def _exec(subject: Subject) -> None:
    started = time.perf_counter()
    code = subprocess.call([*subject.command, "--process", "main"])  # noqa: S603 - ourselves
    tell(took_s=time.perf_counter() - started)
    _tell_end(code)


def _ride(subject: Subject) -> None:
    command = [*subject.command, "--process", "serve"]
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as horse:
        seconds = []
        for answer in ("answers", "answers again"):
            started = time.perf_counter()
            with step(answer):
                if not _ask(horse):
                    break
            seconds.append(time.perf_counter() - started)
        tell(step="exits", within_s=None)
        if horse.stdin is not None:
            horse.stdin.close()
        code = horse.wait()
    if len(seconds) == 2:
        tell(took_s=seconds[0], again_s=seconds[1])
    _tell_end(code)


def _ask(horse: "subprocess.Popen[bytes]") -> bool:
    """Have the horse use it once; what else it writes is passed on. False when it has gone."""
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
    """Be a horse: make it at the first question, keep it, until nobody asks any more."""
    signal.alarm(round(LONGEST_DEADLINE_S) + 10)
    made: list[Any] = []
    for _ in sys.stdin.buffer:
        if not made:
            made.append(subject.make())
        subject.use(made[0])
        os.write(1, _DONE)


def _tell_end(code: int) -> None:
    if code < 0:
        tell(end={"signal": signal_name(-code)})
    else:
        tell(end={"code": code})


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
