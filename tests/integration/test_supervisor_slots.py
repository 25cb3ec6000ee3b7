"""What follows when a worker ends, with shell scripts for workers."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from running import eventually
from warmclip.errors import WarmclipError
from warmclip.work import supervisor
from warmclip.work.supervisor import Supervisor

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("signals")]

Run = Callable[..., tuple[int, dict[str, int]]]

BAD = WarmclipError.exit_code


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Supervise some scripts; the exit code, and how often each of them was started."""
    python = tmp_path / "python"
    # -P -m warmclip.cli worker NAME SCRIPT --supervisor=...
    python.write_text('#!/bin/sh\necho "$5 $7" >>"$STARTS"\nexec sh -c "$6"\n')
    python.chmod(0o700)
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setenv("STARTS", str(starts))
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE_S", 0.2)
    monkeypatch.chdir(tmp_path)

    def supervise(**scripts: str) -> tuple[int, dict[str, int]]:
        code = Supervisor([[name, script] for name, script in scripts.items()]).run()
        lines = starts.read_text().splitlines()
        assert all(line.endswith(f" --supervisor={os.getpid()}") for line in lines)
        names = [line.split()[0] for line in lines]
        return code, {name: names.count(name) for name in scripts}

    return supervise


def once(first: str, then: str = "exit 0") -> str:
    """A script that does something else when it is started again."""
    return f"if mkdir ran-{abs(hash(first))} 2>/dev/null; then {first}; else {then}; fi"


def send_when(there: Path, number: int) -> threading.Thread:
    """Send this process a signal as soon as a file is there."""

    def send() -> None:
        eventually(there.exists)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_all_have_finished(run: Run) -> None:
    """As with --burst: none is started again."""
    assert run(a="exit 0", b="exit 0") == (0, {"a": 1, "b": 1})


@pytest.mark.parametrize("how", ["exit 1", "exit 3", "kill -9 $$"])
def test_one_that_ends_unasked(run: Run, how: str) -> None:
    """It is replaced, and says nothing of the whole; the other one goes on."""
    assert run(a=once(how), b="exit 0") == (0, {"a": 2, "b": 1})


def test_one_that_fails_again_and_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started as often; its failures are counted, and how long it lasted is measured."""
    asked: list[tuple[int, float]] = []

    def next_start_at_once(failures: int, lasted_s: float) -> tuple[int, float]:
        asked.append((failures, lasted_s))
        return failures + 1, 0.0

    monkeypatch.setattr(supervisor, "next_start", next_start_at_once)
    assert run(a=once("exit 3", once("sleep 1.2; exit 4", once("exit 5")))) == (0, {"a": 4})
    assert [failures for failures, _ in asked] == [0, 1, 2]
    assert all(0 <= lasted_s < 30 for _, lasted_s in asked)
    assert asked[1][1] >= 1.2


def test_pause_before_a_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes before another one starts."""
    ended: list[float] = []

    def next_start(failures: int, _lasted_s: float) -> tuple[int, float]:
        ended.append(time.monotonic())
        return failures + 1, 0.6

    monkeypatch.setattr(supervisor, "next_start", next_start)
    assert run(a=once("exit 3")) == (0, {"a": 2})
    assert time.monotonic() - ended[0] >= 0.6


def test_configuration_that_none_can_work_with(run: Run, tmp_path: Path) -> None:
    """The others are asked to stop, and the exit code tells of it."""
    there = shlex.quote(str(tmp_path / "there"))
    waits = f'trap "exit 0" TERM; touch {there}; while :; do sleep 0.05; done'
    fails = f"while ! [ -e {there} ]; do sleep 0.05; done; exit {BAD}"
    assert run(a=waits, b=fails) == (BAD, {"a": 1, "b": 1})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(run: Run, tmp_path: Path, number: int) -> None:
    """Each worker gets the signal once, and is not replaced, however it ends then."""
    name = signal.Signals(number).name.removeprefix("SIG")
    there = tmp_path / "b-there"
    said = tmp_path / "said"
    # One ends at once, with a code that would replace it at another time.
    quick = f"trap 'exit 7' {name}; touch a-there; while :; do sleep 0.02; done"
    # One that takes its time would hear of a second one.
    counts = (
        f"trap 'echo {name} >>{said}' {name}; touch b-there; n=0; "
        f"while [ $n -lt 600 ]; do n=$((n + 1)); [ -e {said} ] && n=$((n + 99)); sleep 0.05; done; "
        "kill -9 $$"
    )
    thread = send_when(there, number)
    code, starts = run(a=quick, b="while ! [ -e a-there ]; do sleep 0.02; done; " + counts)
    thread.join()
    assert starts == {"a": 1, "b": 1}
    assert said.read_text().split() == [name]
    assert code == 7


def test_stopped_by_the_signal_itself(run: Run, tmp_path: Path) -> None:
    """A worker that had no time to listen to it has ended as it was asked to."""
    thread = send_when(tmp_path / "there", signal.SIGTERM)
    assert run(a="touch there; exec sleep 60") == (0, {"a": 1})
    thread.join()


def test_asked_to_stop_during_a_pause(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that would start again does not."""

    def stop(_failures: int, _lasted_s: float) -> tuple[int, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1, 600.0

    monkeypatch.setattr(supervisor, "next_start", stop)
    assert run(a="exit 3") == (0, {"a": 1})
