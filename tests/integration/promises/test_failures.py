"""Jobs that fail, overrun, vanish or end their process, and what they may be given again."""

import os
import signal
from pathlib import Path

import pytest
from rq.callbacks import Callback
from rq.job import JobStatus, Retry
from rq.results import Result

from running import Running, eventually, outcome, reason
from standins import user_jobs
from user_worker import JOBS, begun, enqueue, fresh, lines, queue_of, run, status

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


def test_failure(worker: Running) -> None:
    """It is recorded with its traceback, for as long as asked, and the job keeps its times."""
    job = enqueue(worker, user_jobs.fail, "no such thing", failure_ttl=40)
    enqueued_at = job.enqueued_at
    result = outcome(job)
    assert result.type == Result.Type.FAILED
    assert "Traceback" in str(result.exc_string)
    assert reason(result) == "ValueError: no such thing"
    job = fresh(job)
    assert status(job) == JobStatus.FAILED
    assert job.id in queue_of(worker).failed_job_registry
    assert 0 < worker.connection.ttl(job.key) <= 40
    assert job.enqueued_at == enqueued_at


def test_requeue(worker: Running, trace: Path) -> None:
    """A failed job can be queued again, by hand."""
    job = enqueue(worker, user_jobs.fail_until, str(trace), 2)
    assert outcome(job).type == Result.Type.FAILED
    queue_of(worker).failed_job_registry.requeue(job.id)
    eventually(lambda: status(job) == JobStatus.FINISHED)
    assert len(lines(trace)) == 2


def test_retry(worker: Running, trace: Path) -> None:
    """A job is run again at once, until it succeeds."""
    job = enqueue(worker, user_jobs.fail_until, str(trace), 3, retry=Retry(max=4))
    assert outcome(job).return_value == 3
    job = fresh(job)
    assert job.retries_left == 2
    assert job.id not in queue_of(worker).failed_job_registry


def test_retries_exhausted(worker: Running, trace: Path) -> None:
    """After so many retries a job has failed."""
    job = enqueue(worker, user_jobs.fail_until, str(trace), 9, retry=Retry(max=2))
    assert reason(outcome(job)) == "ValueError: run 3"
    job = fresh(job)
    assert job.retries_left == 0
    assert job.id in queue_of(worker).failed_job_registry
    assert len(lines(trace)) == 3


def test_retry_that_a_job_returns(worker: Running, trace: Path) -> None:
    """A job can ask for another run; the last one too many has a result of its own kind."""
    job = enqueue(worker, user_jobs.ask_again, str(trace), 2)
    eventually(lambda: status(job) == JobStatus.FAILED)
    assert len(lines(trace)) == 3
    result = job.latest_result()
    assert result is not None
    assert result.type == Result.Type.MAX_RETRIES_EXCEEDED


def test_retry_later(worker: Running, trace: Path) -> None:
    """A retry with an interval is left to RQ's scheduler."""
    job = enqueue(worker, user_jobs.fail_until, str(trace), 2, retry=Retry(max=1, interval=600))
    eventually(lambda: job.id in queue_of(worker).scheduled_job_registry)
    assert status(job) == JobStatus.SCHEDULED
    assert job.id not in queue_of(worker).job_ids


def test_job_that_ends_the_process(worker: Running) -> None:
    """It has failed, naming the exit code; the next one has a new horse."""
    before = worker.horse
    result = run(worker, user_jobs.leave, 7)
    assert "left with exit code 7" in reason(result)
    assert run(worker, user_jobs.process).return_value not in (before, worker.process.pid)


def test_job_whose_process_died_is_retried(worker: Running, trace: Path) -> None:
    """Retry holds for it, and it keeps its callbacks, which only the horse may run."""
    job = enqueue(
        worker,
        user_jobs.sleep,
        1.5,
        str(trace),
        retry=Retry(max=1),
        on_success=Callback(f"{JOBS}.on_success"),
    )
    eventually(lambda: lines(trace) == ["begin"])
    worker.kill_horse()
    assert outcome(job).return_value == 1.5
    assert lines(trace) == ["begin", "begin", "end"]
    eventually(lambda: worker.connection.hget(f"callback:{job.id}", "success") == b"1.5")


def test_timeout(worker: Running, trace: Path) -> None:
    """A job that overruns fails at its time-out; the next one has a fresh horse, as the time-out
    struck between any two steps.
    """
    before = worker.horse
    result = run(worker, user_jobs.sleep, 20, str(trace), job_timeout=1)
    assert "rq.timeouts.JobTimeoutException" in reason(result)
    assert lines(trace) == ["begin"]
    assert run(worker, user_jobs.process).return_value not in (before, None)


def test_no_timeout(worker: Running) -> None:
    """A job may be given all the time there is."""
    assert run(worker, user_jobs.sleep, 0.2, job_timeout=-1).return_value == 0.2


def test_deleted_job(worker: Running, trace: Path) -> None:
    """A job that was deleted or cancelled while it waited does not run."""
    holding = enqueue(worker, user_jobs.sleep, 0.5)
    deleted, cancelled = (enqueue(worker, user_jobs.note, str(trace)) for _ in range(2))
    worker.connection.delete(deleted.key)
    cancelled.cancel()
    outcome(holding)
    run(worker, user_jobs.add, 1, 2)
    assert lines(trace) == []
    assert queue_of(worker).intermediate_queue.get_job_ids() == []


def test_job_deleted_as_it_begins(worker: Running, trace: Path) -> None:
    """A job that vanishes when it is recorded as started may run; nothing of it is left."""
    horse = worker.horse
    os.kill(horse, signal.SIGSTOP)
    try:
        job = enqueue(worker, user_jobs.note, str(trace))
        eventually(lambda: job.id in queue_of(worker).started_job_registry)
        worker.connection.delete(job.key)
    finally:
        os.kill(horse, signal.SIGCONT)
    assert run(worker, user_jobs.process).return_value == horse
    assert queue_of(worker).started_job_registry.get_job_ids() == []
    assert queue_of(worker).intermediate_queue.get_job_ids() == []
    assert not worker.connection.exists(job.key)


def test_job_deleted_while_it_runs(worker: Running, trace: Path) -> None:
    """It ends, nothing of it is listed any more, and the worker goes on."""
    job = begun(worker, trace, seconds=1)
    job.delete()
    assert run(worker, user_jobs.add, 1, 2).return_value == 3
    assert lines(trace) == ["begin", "end"]
    assert queue_of(worker).started_job_registry.get_job_ids() == []
