"""Calls and the answers to them, in a real Redis; the worker is only its record."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from rq.job import JobStatus
from rq.results import Result

from simulating import register
from warmclip.errors import JobFailed, QueueUnreachable, StoreUnreachable
from warmclip.work import call as calling
from warmclip.work.allowlist import AllowedJob
from warmclip.work.call import CallCancelled, SentCall, call, send_call
from warmclip.work.liveness import STARTING
from warmclip.work.queues import fetch_jobs

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

QUEUE = "rq:queue:high"


def send(connection: Redis, timeout_s: float = 60.0) -> SentCall:
    """A call, where a worker listens."""
    register(connection, "w")
    return send_call(connection, "canary", {"a": [1]}, timeout_s=timeout_s)


def job_of(connection: Redis, sent: SentCall) -> AllowedJob:
    """Its job, as a worker reads it."""
    (job,) = fetch_jobs(connection, [sent.id]).values()
    return job


def fail(connection: Redis, sent: SentCall, reason: str) -> None:
    """Have a worker record this."""
    job = job_of(connection, sent)
    Result.create(job, Result.Type.FAILED, 60, exc_string=reason)


@pytest.mark.parametrize(("timeout_s", "whole_s"), [(60.0, 60), (60.6, 61), (59.6, 60)])
def test_job_of_a_call(connection: Redis, timeout_s: float, whole_s: int) -> None:
    """It waits, runs and is kept for so many seconds, at the end of its queue."""
    connection.rpush(QUEUE, "another")
    sent = send(connection, timeout_s)
    assert sent.workers == 1
    assert connection.lrange(QUEUE, 0, -1) == [b"another", sent.id.encode()]
    assert connection.smembers("rq:queues") == {QUEUE.encode()}
    job = job_of(connection, sent)
    assert (job.func_name, job.args, job.kwargs) == ("warmclip.work.jobs.canary", [], {"a": [1]})
    assert (job.get_status(), job.origin) == (JobStatus.QUEUED, "high")
    assert [job.timeout, job.ttl, job.result_ttl, job.failure_ttl] == [whole_s] * 4
    assert 0 < connection.ttl(job.key) <= whole_s
    assert job.enqueued_at is not None
    assert abs(datetime.now(UTC) - job.enqueued_at) < timedelta(seconds=30)


def test_answer(connection: Redis) -> None:
    """It comes while somebody waits; the last record of several counts."""
    sent = send(connection)
    job = job_of(connection, sent)

    def answer() -> None:
        Result.create(job, Result.Type.SUCCESSFUL, 60, return_value={"b": 2})

    timer = threading.Timer(0.1, answer)
    timer.start()
    assert sent.wait() == {"b": 2}
    timer.join()
    Result.create(job, Result.Type.SUCCESSFUL, 60, return_value={"b": 3})
    assert sent.wait() == {"b": 3}


@pytest.mark.parametrize(
    ("reason", "kind", "told"),
    [
        ("warmclip.errors.StoreUnreachable: it is away", StoreUnreachable, "^it is away$"),
        ("ValueError: no", JobFailed, "^the worker could not do it: ValueError: no$"),
        ("elsewhere.errors.StoreUnreachable: no", JobFailed, "could not do it: StoreUnreachable"),
        ("rq.exceptions.AbandonedJobError: x", JobFailed, "could not do it: its worker died$"),
    ],
)
def test_failure(connection: Redis, reason: str, kind: type[Exception], told: str) -> None:
    """It is raised as the worker's error, if that is one of ours."""
    sent = send(connection)
    fail(connection, sent, reason)
    with pytest.raises(kind, match=told):
        sent.wait()


def test_answer_of_another_kind(connection: Redis) -> None:
    """A key that somebody else has written to is a failure, and is not waited for."""
    sent = send(connection)
    connection.set(f"rq:results:{sent.id}", "x")
    with pytest.raises(JobFailed, match="its result in Redis cannot be used"):
        sent.wait()


@pytest.mark.parametrize("is_taken", [False, True])
def test_no_answer(connection: Redis, is_taken: bool) -> None:
    """The job leaves the queue; one that a worker has taken ends there."""
    sent = replace(send(connection), timeout_s=0.3)
    if is_taken:
        connection.lrem(QUEUE, 1, sent.id)
        connection.persist(f"rq:job:{sent.id}")
    with pytest.raises(QueueUnreachable, match="no worker answered within 1 s; `warmclip status`"):
        sent.wait()
    assert connection.llen(QUEUE) == 0
    assert connection.exists(f"rq:job:{sent.id}") == is_taken


def test_no_answer_of_a_worker_that_starts(connection: Redis) -> None:
    """The error says how far that is."""
    register(connection, "w", state=STARTING, at='["starting", 1, 4, "loading"]')
    sent = send_call(connection, "canary", {}, timeout_s=0.3)
    with pytest.raises(QueueUnreachable, match=r"1 s; a worker is starting: loading, 2 of 4$"):
        sent.wait()


def test_cancelled(connection: Redis) -> None:
    """It is asked about every second, and takes the job back."""
    register(connection, "w")
    asked: list[bool] = []

    def is_cancelled() -> bool:
        asked.append(len(asked) > 0)
        return asked[-1]

    with pytest.raises(CallCancelled):
        call(connection, "canary", {}, is_cancelled=is_cancelled)
    assert connection.llen(QUEUE) == 0
    assert list(connection.scan_iter("rq:job:*")) == []


@pytest.mark.parametrize("is_starting", [False, True])
def test_silence(
    connection: Redis,
    is_starting: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Why there is no answer yet is said once, after a while."""
    register(connection, "w", **({"state": STARTING} if is_starting else {}))
    monkeypatch.setattr(calling, "_SILENCE_S", 0.5)
    sent = send_call(connection, "canary", {}, timeout_s=60)
    waits: list[int] = []

    def is_cancelled() -> bool:
        waits.append(caplog.text.count("; waiting up to 60 s"))
        return len(waits) > 3

    with pytest.raises(CallCancelled):
        sent.wait(is_cancelled)
    assert waits == [0, 0, 1, 1, 1]
    assert ("a worker is starting" if is_starting else "every worker is busy") in caplog.text
