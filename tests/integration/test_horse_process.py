"""A horse's pipes, as its worker has them; the horse is a small program, and no model is loaded."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from warmclip.settings import Settings
from warmclip.work.horse import process
from warmclip.work.horse.models import ModelChoice
from warmclip.work.horse.process import HorseProcess

pytestmark = pytest.mark.quick

FITS = process._FITS_BYTES  # into an empty pipe, on every system
# What `small_pipes` hold at most: macOS lets a pipe grow, and has no call to bound it.
HOLDS = FITS if sys.platform == "linux" else 64 * 1024

SETTINGS = Settings(home=Path("/home"), bundle=Path("/bundle"))

# Each tells what it was started with, and then does what it is there for.
_BEGINNING = """
import json, os, sys, time
orders, answers = open(int(sys.argv[1]), "rb"), int(sys.argv[2])
def tell(**told): os.write(answers, json.dumps(told).encode() + b"\\n")
settings, hello = orders.readline().decode(), json.loads(orders.readline())
tell(settings=settings, hello=hello, started=sys.argv[3:], pid=os.getpid(),
     telemetry=os.environ["ORT_DISABLE_TELEMETRY"])
"""
ANSWERS = """
for line in orders:
    tell(size=len(line), order=json.loads(line)["name"])
print("this is for the log")
"""  # and leaves when its orders end
READS_NOTHING = "time.sleep(600)"
LEAVES_LATE = "os.close(answers); time.sleep(0.2)"


@pytest.fixture
def horse_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], HorseProcess]]:
    """Starts a horse that runs a program, and has as long to end as a busy machine needs."""
    monkeypatch.setattr(process, "_EXITING_S", 60.0)
    with ExitStack() as stack:

        def start(program: str) -> HorseProcess:
            command = (sys.executable, "-I", "-S", "-c", _BEGINNING + program)
            monkeypatch.setattr(process, "_COMMAND", command)
            horse = HorseProcess(
                SETTINGS,
                worker="w",
                redis_socket="/s",
                store_owner=None,
                choice=ModelChoice(wanted=("a",), refused=("b",)),
                log_json=True,
            )
            stack.callback(horse.close)
            stack.callback(horse.end)
            return horse

        yield start


@pytest.fixture
def small_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes that hold no more than on a system that has the smallest."""
    make = os.pipe

    def make_small() -> tuple[int, int]:
        ends = make()
        if sys.platform == "linux":
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, FITS)
        return ends

    monkeypatch.setattr(os, "pipe", make_small)


def hear(horse: HorseProcess, count: int = 1) -> list[dict[str, Any]]:
    """Its next messages, which it owes us soon."""
    told: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while len(told) < count and time.monotonic() < deadline:
        told += horse.messages(1.0)
    return told


def order_of(size: int) -> dict[str, str]:
    """An order that is a line of so many bytes, with its end."""
    return {"name": "x" * (size - len('{"name": ""}\n'))}


def test_start(horse_of: Callable[[str], HorseProcess], capfd: pytest.CaptureFixture[str]) -> None:
    """It learns its settings by the pipe, whose worker it has, and which models it shall load."""
    horse = horse_of(ANSWERS)
    (told,) = hear(horse)
    assert Settings.from_json(told["settings"]) == SETTINGS
    assert told["hello"] == {
        "worker": "w",
        "redis_socket": "/s",
        "store_owner": None,
        "models": ["a"],
        "refused": ["b"],
        "log_json": True,
    }
    assert told["started"] == [f"--worker={os.getpid()}"]
    assert (told["pid"], told["telemetry"]) == (horse.pid, "1")
    horse.run(name="job")
    (answer,) = hear(horse)
    assert answer["order"] == "job"
    horse.leave()
    assert not horse.is_alive
    assert horse.end() == 0
    assert capfd.readouterr().out == ""  # a job that prints does not mix with answers


def test_horse_that_cannot_be_started(
    horse_of: Callable[[str], HorseProcess], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is an error, and leaves no pipe open."""
    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        horse_of(ANSWERS)
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.parametrize("size", [99, FITS, FITS + 1, 1024 * 1024])
def test_order(horse_of: Callable[[str], HorseProcess], size: int) -> None:
    """The horse has all of it, whether it fits into the pipe or not."""
    horse = horse_of(ANSWERS)
    hear(horse)
    order = order_of(size)
    horse.run(**order)
    (answer,) = hear(horse)
    assert answer == {"size": size, "order": order["name"]}
    deadline = time.monotonic() + 60
    while horse.is_alive and time.monotonic() < deadline:
        horse.leave()  # nothing is done as long as the order is being written
    assert horse.end() == 0


@pytest.mark.usefixtures("small_pipes")
@pytest.mark.parametrize("size", [FITS, FITS + 1, 1024 * 1024])
def test_horse_that_reads_nothing(horse_of: Callable[[str], HorseProcess], size: int) -> None:
    """Who gives it an order, or has it leave while it has not read that, is not held up."""
    horse = horse_of(READS_NOTHING)
    hear(horse)
    giving = threading.Thread(target=horse.run, kwargs=order_of(size), daemon=True)
    giving.start()
    giving.join(30)
    assert not giving.is_alive()
    if size > HOLDS:
        leaving = threading.Thread(target=horse.leave, daemon=True)
        leaving.start()
        leaving.join(20)
        assert not leaving.is_alive()
        # Python would wait for it as a worker ends, were it no daemon.
        assert [it.daemon for it in threading.enumerate() if it.name == "warmclip-order"] == [True]
    assert horse.is_alive
    assert horse.end() == -signal.SIGKILL
    assert "warmclip-order" not in {it.name for it in threading.enumerate()}


def test_horse_that_ends_after_its_pipe(horse_of: Callable[[str], HorseProcess]) -> None:
    """It is given the time to end by itself, with its own code."""
    horse = horse_of(LEAVES_LATE)
    hear(horse)
    with pytest.raises(EOFError):
        hear(horse)
    assert horse.has_left()
    assert horse.end() == 0
