"""Jobs that depend on others, belong together, repeat themselves, share a limit or have a date."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rq.callbacks import Callback
from rq.group import Group
from rq.job import Dependency, JobStatus, Retry
from rq.queue import Queue
from rq.rate_limit import RateLimit
from rq.repeat import Repeat

from running import PATIENCE_S, Running, eventually, outcome
from standins import user_jobs
from user_worker import JOBS, enqueue, lines, queue_of, run, status

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


def test_dependency(worker: Running, trace: Path) -> None:
    """A job waits for another one, and runs after it."""
    first = enqueue(worker, user_jobs.sleep, 0.5, str(trace))
    second = enqueue(worker, user_jobs.note, str(trace), depends_on=first)
    assert status(second) == JobStatus.DEFERRED
    outcome(second)
    assert lines(trace) == ["begin", "end", "ran"]


def test_dependency_that_fails(worker: Running, trace: Path) -> None:
    """What depends on it stays back, but for what may do without."""
    first = enqueue(worker, user_jobs.sleep, 0.5, str(trace))
    failing = enqueue(worker, user_jobs.fail, "no", depends_on=first)
    strict = enqueue(worker, user_jobs.note, str(trace), "strict", depends_on=failing)
    lenient = Dependency([failing], allow_failure=True)
    outcome(enqueue(worker, user_jobs.note, str(trace), "lenient", depends_on=lenient))
    assert status(strict) == JobStatus.DEFERRED
    assert lines(trace) == ["begin", "end", "lenient"]


def test_dependency_keeps_its_callbacks(worker: Running, trace: Path) -> None:
    """A job that waited for another one has what it was enqueued with."""
    first = enqueue(worker, user_jobs.sleep, 0.5, str(trace))
    callback = Callback(user_jobs.on_success)
    second = enqueue(worker, user_jobs.add, 1, 2, depends_on=first, on_success=callback)
    outcome(second)
    assert worker.connection.hget(f"callback:{second.id}", "success") == b"3"


def test_cancelled_dependency(worker: Running, trace: Path) -> None:
    """A job that was cancelled does not run; what it kept back may."""
    first = enqueue(worker, user_jobs.sleep, 0.5, str(trace))
    second = enqueue(worker, user_jobs.note, str(trace), "second", depends_on=first)
    third = enqueue(worker, user_jobs.note, str(trace), "third", depends_on=second)
    second.cancel(enqueue_dependents=True)
    outcome(third)
    outcome(first)
    run(worker, user_jobs.add, 1, 2)
    assert sorted(lines(trace)) == ["begin", "end", "third"]
    assert status(second) == JobStatus.CANCELED


def test_group(worker: Running) -> None:
    """The jobs of a group are found by it."""
    group = Group.create(connection=worker.connection)
    parts = [Queue.prepare_data(f"{JOBS}.add", args=(number, 1)) for number in range(3)]
    jobs = group.enqueue_many(queue_of(worker), parts)
    assert [outcome(job).return_value for job in jobs] == [1, 2, 3]
    found = Group.fetch(group.name, worker.connection).get_jobs()
    assert {job.id for job in found} == {job.id for job in jobs}
    assert {job.get_status() for job in found} == {JobStatus.FINISHED}


def test_repeat(worker: Running, trace: Path) -> None:
    """A job without intervals repeats itself, with no scheduler."""
    job = enqueue(worker, user_jobs.note, str(trace), repeat=Repeat(times=2))
    eventually(lambda: len(lines(trace)) == 3 and status(job) == JobStatus.FINISHED)
    run(worker, user_jobs.add, 1, 2)
    assert len(lines(trace)) == 3


def test_rate_limit(worker: Running) -> None:
    """Jobs that share a limit all run, and free their places."""
    limit = RateLimit(key="one", concurrency=1)
    jobs = [enqueue(worker, user_jobs.add, number, 1, rate_limit=limit) for number in range(3)]
    assert [outcome(job).return_value for job in jobs] == [1, 2, 3]


def test_schedule(worker: Running, trace: Path, tmp_path: Path) -> None:
    """RQ's scheduler, as the page of promises starts it, has jobs retried and repeated later."""
    pages = Path(__file__).parents[3] / "docs" / "reference"
    page = (pages / "rq-promises.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    program = tmp_path / "scheduler.py"
    program.write_text(code, encoding="utf-8")
    path = worker.connection.connection_pool.connection_kwargs["path"]
    environment = os.environ | {"REDIS_URL": f"unix://{path}"}
    repeated = tmp_path / "repeated"
    with (tmp_path / "scheduler.log").open("w") as log:
        process = subprocess.Popen([sys.executable, str(program)], env=environment, stderr=log)
        try:
            retry = Retry(max=1, interval=1)
            job = enqueue(worker, user_jobs.fail_until, str(trace), 2, retry=retry)
            enqueue(worker, user_jobs.note, str(repeated), repeat=Repeat(times=1, interval=1))
            assert outcome(job).return_value == 2
            eventually(lambda: lines(repeated) == ["ran", "ran"])
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
