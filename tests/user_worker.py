"""A worker that runs a user's own jobs, and what RQ tells of both."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

from running import PATIENCE_S, WORKER, Running, environment_of, eventually, outcome
from standins import user_jobs

JOBS = user_jobs.__name__
_TESTS = Path(__file__).parent
_RQ = (sys.executable, "-m", "rq.cli")


def user_environment(home: Path, bundle: Path, **more: str) -> dict[str, str]:
    """The variables of a worker that runs the user's jobs; it needs no store, so it holds none."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_TESTS)]))
    mine = {"WARMCLIP_JOBS": user_jobs.NAMES, "PYTHONPATH": path, "QDRANT_URL": "http://[::1]:1"}
    return environment_of(home, bundle) | mine | more


def lines(trace: Path) -> list[str]:
    """What they left."""
    return trace.read_text(encoding="utf-8").splitlines() if trace.exists() else []


def enqueue(worker: Running, function: Callable[..., Any], *args: Any, **options: Any) -> Job:
    """Enqueue one of the user's jobs."""
    return worker.enqueue(f"{JOBS}.{function.__name__}", *args, **options)


def run(worker: Running, function: Callable[..., Any], *args: Any, **options: Any) -> Result:
    """Enqueue one of the user's jobs, and wait for its outcome."""
    return outcome(enqueue(worker, function, *args, **options))


def status(job: Job) -> JobStatus:
    """The job's state now."""
    return job.get_status()


def fresh(job: Job) -> Job:
    """The job as it is now."""
    return Job.fetch(job.id, connection=job.connection, serializer=JSONSerializer)


def seen(worker: Running) -> Worker:
    """The worker as RQ tells others of it."""
    workers = Worker.all(connection=worker.connection, serializer=JSONSerializer)
    (found,) = [it for it in workers if it.pid == worker.process.pid]
    assert isinstance(found, Worker)
    return found


def queue_of(worker: Running, name: str = "default") -> Queue:
    """A queue as a producer has it."""
    return Queue(name, connection=worker.connection, serializer=JSONSerializer)


def burst(
    environment: dict[str, str], queues: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run another worker until there is nothing to do."""
    return subprocess.run(
        [*WORKER, "--queues", queues, "--burst", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def rq(worker: Running, *arguments: str) -> str:
    """Run RQ's own command on the worker's Redis."""
    path = worker.connection.connection_pool.connection_kwargs["path"]
    done = subprocess.run(
        [*_RQ, arguments[0], "--url", f"unix://{path}", *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def begun(worker: Running, trace: Path, seconds: float = 30, **options: Any) -> Job:
    """A job that has begun."""
    job = enqueue(worker, user_jobs.sleep, seconds, str(trace), **options)
    eventually(lambda: lines(trace)[-1:] == ["begin"])
    return job
