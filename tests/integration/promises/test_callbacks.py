"""What is called when a job ends."""

from pathlib import Path
from typing import Any

import pytest
from rq.callbacks import Callback
from rq.webhook import Webhook

from running import Running, eventually, outcome, reason
from standins import user_jobs
from user_worker import JOBS, enqueue, lines, run

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


def test_on_success(worker: Running) -> None:
    """A listed callback gets the result, in the horse."""
    job = enqueue(worker, user_jobs.add, 1, 2, on_success=Callback(user_jobs.on_success))
    outcome(job)
    found = worker.connection.hgetall(f"callback:{job.id}")
    assert found == {b"success": b"3", b"pid": str(worker.horse).encode()}


def test_on_failure(worker: Running) -> None:
    """A listed callback gets the error, in the horse."""
    job = enqueue(worker, user_jobs.fail, "no", on_failure=Callback(user_jobs.on_failure))
    assert reason(outcome(job)) == "ValueError: no"
    found = worker.connection.hgetall(f"callback:{job.id}")
    assert found == {b"failure": b"ValueError: no", b"pid": str(worker.horse).encode()}


def test_callback_that_fails(worker: Running) -> None:
    """A success callback that raises fails its job, with its own reason."""
    result = run(worker, user_jobs.add, 1, 2, on_success=Callback(user_jobs.raises))
    assert reason(result) == "ValueError: the callback's own"


def test_callback_that_takes_too_long(worker: Running) -> None:
    """A callback has a time-out of its own."""
    result = run(worker, user_jobs.add, 1, 2, on_success=Callback(user_jobs.dawdle, timeout=1))
    assert "JobTimeoutException" in reason(result)


def test_on_failure_of_a_job_whose_process_died(worker: Running) -> None:
    """The next horse calls it, with how the former one ended."""
    before = worker.horse
    job = enqueue(worker, user_jobs.leave, 7, on_failure=Callback(user_jobs.on_failure))
    assert "left with exit code 7" in reason(outcome(job))
    eventually(lambda: worker.connection.exists(f"callback:{job.id}"))
    said, pid = worker.connection.hmget(f"callback:{job.id}", "failure", "pid")
    assert "AbandonedJobError: the horse left with exit code 7" in str(said)
    assert int(pid or 0) == worker.horse != before


@pytest.mark.parametrize("function", ["dawdle", "raises", "leave_as_callback"])
def test_on_failure_that_goes_wrong_itself(worker: Running, function: str) -> None:
    """It is bounded: the next job runs, in a horse that lives."""
    callback = Callback(f"{JOBS}.{function}", timeout=1)
    job = enqueue(worker, user_jobs.leave, 7, on_failure=callback)
    assert "left with exit code 7" in reason(outcome(job))
    assert run(worker, user_jobs.add, 1, 2).return_value == 3


@pytest.mark.parametrize("when", ["on_success", "on_failure", "on_stopped"])
def test_refused_callback(worker: Running, trace: Path, when: str) -> None:
    """A callback that is not listed fails the job before it begins; on_stopped is never taken."""
    callback = f"{JOBS}.on_success" if when == "on_stopped" else "os.getpid"
    options: dict[str, Any] = {when: Callback(callback)}
    result = run(worker, user_jobs.note, str(trace), **options)
    assert f"its callback '{callback}' is" in reason(result)
    assert lines(trace) == []


def test_refused_webhook(worker: Running, trace: Path) -> None:
    """A job that would send a request when it ends fails before it begins."""
    hook = Webhook("http://127.0.0.1:1/", "finished")
    result = run(worker, user_jobs.note, str(trace), webhooks=[hook])
    assert "webhooks are not on the worker's list" in reason(result)
    assert lines(trace) == []
