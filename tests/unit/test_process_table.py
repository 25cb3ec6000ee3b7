"""Unit: what is told of other processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import eventually
from standins.clock import Clock
from warmclip import process_table
from warmclip.process_table import (
    IdleWatch,
    Process,
    is_running,
    parse_process,
    read_process,
    read_processor_time,
)


def test_running_process() -> None:
    """This one runs; one that ended and was reaped does not."""
    assert is_running(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_running(process.pid)


@pytest.mark.parametrize("has_proc", [True, False], ids=["proc", "ps"])
def test_process_that_nobody_reaps(has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ended does not run, though its number is still taken; with /proc and without."""
    if not has_proc:
        monkeypatch.setattr("warmclip.process_table._PROC", Path("/no/such/folder"))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    while (found := read_process(process.pid)) and found.state != "Z":
        pass  # it is ending
    os.kill(process.pid, 0)
    assert not is_running(process.pid)
    process.wait()


@pytest.mark.parametrize("has_proc", [True, False], ids=["proc", "ps"])
def test_parent_and_command(has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent is this process; a long command is told whole."""
    if not has_proc:
        monkeypatch.setattr("warmclip.process_table._PROC", Path("/no/such/folder"))
    argument = "x" * 500
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()  # one that is just being started has no command yet
    found = read_process(process.pid)
    assert found is not None
    assert found.parent == os.getpid()
    assert found.command.endswith(argument)
    process.communicate()
    assert read_process(process.pid) is None


@pytest.mark.parametrize(
    ("line", "process"),
    [
        (
            "  1 Ss   /sbin/launchd -v\n",
            Process(parent=1, state="S", command="/sbin/launchd -v"),
        ),
        ("812 Z+\n", Process(parent=812, state="Z", command="")),
        ("812 Z (python3.11)\n", Process(parent=812, state="Z", command="(python3.11)")),
        ("", None),
        ("812\n", None),
        ("-1 S x\n", None),
        ("error: no such option\n", None),
    ],
)
def test_line(line: str, process: Process | None) -> None:
    """Lines of Linux and macOS; what is none is nothing."""
    assert parse_process(line) == process


def test_no_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tool, /proc tells as much; without both, nothing is known."""
    monkeypatch.setattr("os.defpath", "/no/such/folder")
    monkeypatch.setenv("PATH", "/no/such/folder")
    if Path("/proc/self/stat").exists():
        found = read_process(os.getpid())
        assert found is not None
        assert (found.parent, found.state) == (os.getppid(), "R")
        assert Path(found.command.split()[0]).name == Path(sys.executable).name
    monkeypatch.setattr("warmclip.process_table._PROC", Path("/no/such/folder"))
    assert read_process(os.getpid()) is None
    assert read_processor_time(os.getpid()) is None


def state_of(pid: int) -> str:
    """Its letter."""
    found = read_process(pid)
    return "" if found is None else found.state


@pytest.fixture
def computing() -> Iterator[subprocess.Popen[bytes]]:
    """A process that never ends, and computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("has_proc", [True, False], ids=["proc", "ps"])
def test_idle_process(
    has_proc: bool, computing: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that computes is never idle, and one that was stopped is; but a time in which nobody
    looked, as the machine slept, proves nothing.
    """
    if not has_proc:
        monkeypatch.setattr(process_table, "_PROC", Path("/no/such/folder"))
    clock = Clock(0)
    monkeypatch.setattr(process_table, "time", clock)

    def look(seconds: int) -> float:
        for _ in range(seconds):
            clock.now += 1
            watch.idle_s()
        return watch.idle_s()

    watch = IdleWatch(computing.pid)
    used = read_processor_time(computing.pid)
    eventually(lambda: read_processor_time(computing.pid) != used)
    assert look(15) == 5
    computing.send_signal(signal.SIGSTOP)
    eventually(lambda: state_of(computing.pid) == "T")
    look(10)  # what it computed before that is seen
    clock.now += 3600
    assert 100 < look(100) < 120
    used = read_processor_time(computing.pid)
    computing.send_signal(signal.SIGCONT)
    eventually(lambda: read_processor_time(computing.pid) != used)
    assert look(10) < 10


def test_idle_process_where_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of which the system tells nothing is not called idle."""
    monkeypatch.setattr(process_table, "_PROC", Path("/no/such/folder"))
    monkeypatch.setattr("os.defpath", "/no/such/folder")
    monkeypatch.setenv("PATH", "/no/such/folder")
    clock = Clock(0)
    monkeypatch.setattr(process_table, "time", clock)
    watch = IdleWatch(os.getpid())
    for _ in range(100):
        clock.now += 1
        assert watch.idle_s() < 10
