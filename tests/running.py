"""Real workers in processes of their own, a real Redis, and what they leave: for several tiers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.liveness import STARTING
from warmclip.work.queues import open_queue
from warmclip.work.status import read_status

PATIENCE_S = 120.0  # a worker imports and loads on a busy machine

WORKER = (sys.executable, "-m", "warmclip.cli", "worker")


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of ours in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "warmclip.cli", *map(str, arguments)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def start_python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A worker that is listening, and a connection to its Redis."""

    process: subprocess.Popen[str]
    connection: Redis
    settings: Settings
    log: Path

    def run(self, function: str, *args: Any, **options: Any) -> Result:
        """Enqueue as any RQ producer would, and wait for the outcome."""
        return outcome(self.enqueue(function, *args, **options))

    def enqueue(self, function: str, *args: Any, **options: Any) -> Job:
        """Enqueue as any RQ producer would."""
        queue = Queue(connection=self.connection, serializer=JSONSerializer)
        return queue.enqueue(function, args=args, **options)

    @property
    def horse(self) -> int:
        """The process of its horse; one that is being replaced is waited for."""
        eventually(lambda: len(children(self.process.pid)) == 1)
        (pid,) = children(self.process.pid)
        return pid

    def kill_horse(self, signum: int = signal.SIGKILL) -> int:
        """Send a signal to the horse, and return its process."""
        pid = self.horse
        os.kill(pid, signum)
        return pid


def outcome(job: Job, timeout_s: int = 60) -> Result:
    """Wait until a job is over.

    Redis is asked for a second at a time: one question must end before the connection's time-out.
    """
    deadline = time.monotonic() + timeout_s
    while (result := job.latest_result(timeout=1)) is None:
        assert time.monotonic() < deadline, f"{job} did not end"
    return result


def reason(result: Result) -> str:
    """The last line of a failure."""
    assert result.type == Result.Type.FAILED
    return str(result.exc_string).strip().splitlines()[-1]


def children(pid: int) -> list[int]:
    """The horses that a process has."""
    command = ["pgrep", "-P", str(pid), "-f", "warmclip.work.horse"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def eventually(true: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def start_worker(environment: dict[str, str], *arguments: str, log: Path) -> subprocess.Popen[str]:
    """Start a worker; its log grows."""
    with log.open("a") as stream:
        return subprocess.Popen(
            [*WORKER, *arguments],
            env=os.environ | environment,
            stderr=stream,
            stdout=stream,
            text=True,
        )


def wait_for_worker(
    process: subprocess.Popen[str], connection: Redis, log: Path, timeout_s: float = PATIENCE_S
) -> None:
    """Wait until this worker listens."""
    deadline = time.monotonic() + timeout_s
    while not any(it.state != STARTING for it in read_status(connection).workers):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@contextmanager
def running_worker(
    settings: Settings, environment: dict[str, str], *arguments: str
) -> Iterator[Running]:
    """Start a worker, wait until it listens, and stop it as a supervisor does."""
    log = settings.home.parent / f"{settings.home.name}.log"
    with open_broker(settings) as connection:
        process = start_worker(environment, *arguments, log=log)
        try:
            wait_for_worker(process, connection, log)
            yield Running(process=process, connection=connection, settings=settings, log=log)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            process.wait(PATIENCE_S)


def interpreter(venv: str) -> Path:
    """The Python of an environment beside ours; skipped where it was not made, but never in CI."""
    python = Path(__file__).parents[1] / venv / "bin" / "python"
    if not python.exists():
        reason = f"no {venv}; `make {venv}/installed` makes it"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    return python


@contextmanager
def occupied(worker: Running) -> Iterator[None]:
    """The worker has a job that does not end while the block runs, so that all others wait.

    Its environment must let a horse be silent for so long: see ``PATIENT``.
    """
    assert worker.run("warmclip.work.jobs.canary").return_value  # earlier jobs have ended
    horse = worker.kill_horse(signal.SIGSTOP)
    try:
        job = worker.enqueue("warmclip.work.jobs.canary")
        eventually(lambda: not open_queue(worker.connection).job_ids)
        yield
    finally:
        os.kill(horse, signal.SIGCONT)
    assert outcome(job).return_value


PATIENT = {"WARMCLIP_HANG_SECONDS": "3600"}


def environment_of(home: Path, bundle: Path, **more: str) -> dict[str, str]:
    """The variables of a worker."""
    return {"WARMCLIP_HOME": str(home), "WARMCLIP_BUNDLE": str(bundle)} | more
