"""Jobs that depend on others, belong together, repeat themselves or share a limit."""

from pathlib import Path

import pytest
from rq.callbacks import Callback
from rq.group import Group
from rq.job import Dependency, JobStatus
from rq.queue import Queue
from rq.rate_limit import RateLimit
from rq.repeat import Repeat

from running import Running, eventually, outcome
from standins import user_jobs
from user_worker import JOBS, enqueue, lines, queue_of, run, status

pytestmark = pytest.mark.usefixtures("server_binary")


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
