"""Commands to a worker, and its suspension."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rq.command import (
    send_command,
    send_kill_horse_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.job import JobStatus, Retry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import WorkerStatus

from running import Running, eventually, outcome, reason, running_worker
from standins import user_jobs
from user_worker import (
    JOBS,
    begun,
    burst,
    enqueue,
    lines,
    queue_of,
    rq,
    run,
    seen,
    status,
    user_environment,
)
from warmclip.settings import Settings

pytestmark = pytest.mark.usefixtures("server_binary")


def test_stop_job(worker: Running, trace: Path) -> None:
    """The job is stopped and never retried; the next one runs."""
    job = begun(worker, trace, retry=Retry(max=3))
    send_stop_job_command(worker.connection, job.id, serializer=JSONSerializer)
    assert "stopped by user" in reason(outcome(job))
    assert status(job) == JobStatus.STOPPED
    assert job.id in queue_of(worker).failed_job_registry
    assert run(worker, user_jobs.add, 1, 2).return_value == 3
    assert lines(trace) == ["begin"]


def test_stop_execution(worker: Running, trace: Path) -> None:
    """So is one execution of a job."""
    job = begun(worker, trace)
    (execution,) = job.get_executions()
    send_stop_execution_command(worker.connection, job.id, execution.id)
    outcome(job)
    assert status(job) == JobStatus.STOPPED


def test_stop_another_job(worker: Running, trace: Path) -> None:
    """A command that names another job does nothing."""
    job = begun(worker, trace, seconds=1)
    send_command(worker.connection, seen(worker).name, "stop-job", job_id="another")
    assert outcome(job).return_value == 1


def test_stop_that_comes_late(worker: Running) -> None:
    """A command to stop a job that ends at that moment never hits the one after it."""
    name = seen(worker).name
    for attempt in range(12):
        job = enqueue(worker, user_jobs.sleep, 0.02)
        following = enqueue(worker, user_jobs.sleep, 0.02)
        while status(job) == JobStatus.QUEUED:
            time.sleep(0.001)
        time.sleep(0.015 + 0.001 * attempt)
        send_command(worker.connection, name, "stop-job", job_id=job.id)
        assert outcome(following).return_value == 0.02
        assert status(job) in (JobStatus.FINISHED, JobStatus.STOPPED)


def test_kill_horse(worker: Running, trace: Path) -> None:
    """The job has failed, and the next one has a new horse."""
    job = begun(worker, trace)
    before = worker.horse
    send_kill_horse_command(worker.connection, seen(worker).name)
    assert "killed on command" in reason(outcome(job))
    assert job.id in queue_of(worker).failed_job_registry
    assert run(worker, user_jobs.process).return_value not in (before, None)


def test_kill_horse_retried(worker: Running, trace: Path) -> None:
    """A job with retries is run again."""
    job = begun(worker, trace, seconds=1, retry=Retry(max=1))
    send_kill_horse_command(worker.connection, seen(worker).name)
    assert outcome(job).return_value == 1
    assert lines(trace) == ["begin", "begin", "end"]


@contextmanager
def faulty_worker(home: Path, bundle: Path, **more: str) -> Iterator[Running]:
    """A worker with a provider that is slow or crashes."""
    environment = user_environment(home, bundle, WARMCLIP_BATCH_SIZE="4", **more)
    environment["PYTHONPATH"] += f"{os.pathsep}{Path(user_jobs.__file__).with_name('faulty')}"
    with running_worker(Settings.from_env(environment), environment) as worker:
        yield worker


def test_stop_job_while_a_new_horse_gets_ready(tmp_path: Path, demo_bundle: Path) -> None:
    """A job that is to be run again, as its horse died, is stopped before that."""
    more = {"WARMCLIP_PROVIDER": "faulty-nth", "FAULTY_N": "15", "WARMCLIP_MAX_CRASHES": "100"}
    with faulty_worker(tmp_path / "home", demo_bundle, **more) as worker:
        job = worker.enqueue("warmclip.work.jobs.embed_texts", [str(n) for n in range(80)])
        eventually(lambda: "died by signal 6" in worker.log.read_text())
        send_stop_job_command(worker.connection, job.id, serializer=JSONSerializer)
        assert "stopped by user" in reason(outcome(job))
        assert status(job) == JobStatus.STOPPED
        assert worker.log.read_text().count("died by signal 6") == 1
        assert worker.run("warmclip.work.jobs.embed_texts", ["a"]).return_value


def test_kill_horse_in_a_job_of_ours(tmp_path: Path, demo_bundle: Path) -> None:
    """It fails as well, and the provider is not to blame: it is not passed over from then on."""
    more = {"WARMCLIP_PROVIDER": "faulty-slow", "FAULTY_SECONDS": "0.5"}
    home = tmp_path / "home"
    with faulty_worker(home, demo_bundle, **more, WARMCLIP_MAX_CRASHES="1") as worker:
        job = worker.enqueue("warmclip.work.jobs.embed_texts", [str(n) for n in range(80)])
        eventually(lambda: status(job) == JobStatus.STARTED)
        send_kill_horse_command(worker.connection, seen(worker).name)
        assert "killed on command; provider faulty-slow" in reason(outcome(job))
        assert worker.run("warmclip.work.jobs.embed_texts", ["a"]).return_value
    assert not (home / "quarantine.json").exists()


def test_kill_idle_horse(worker: Running) -> None:
    """Without a job there is nothing to kill, and the horse stays warm."""
    run(worker, user_jobs.add, 1, 2)
    eventually(lambda: seen(worker).get_state() == WorkerStatus.IDLE)
    before = worker.horse
    send_kill_horse_command(worker.connection, seen(worker).name)
    time.sleep(0.5)
    assert run(worker, user_jobs.process).return_value == before


def test_suspend(worker: Running, trace: Path) -> None:
    """An idle worker begins no job while RQ is suspended, says so, and goes on afterwards."""
    rq(worker, "suspend")
    try:
        eventually(lambda: seen(worker).get_state() == WorkerStatus.SUSPENDED)
        job = enqueue(worker, user_jobs.note, str(trace))
        time.sleep(1.5)
        assert status(job) == JobStatus.QUEUED
    finally:
        rq(worker, "resume")
    outcome(job)
    assert lines(trace) == ["ran"]
    eventually(lambda: seen(worker).get_state() == WorkerStatus.IDLE)


def test_suspend_for_a_while(worker: Running) -> None:
    """A suspension may end by itself."""
    suspend(worker.connection, 2)
    eventually(lambda: seen(worker).get_state() == WorkerStatus.SUSPENDED)
    assert run(worker, user_jobs.add, 1, 2).return_value == 3


def test_burst_while_suspended(worker: Running, environment: dict[str, str]) -> None:
    """A worker that would leave when the queue is empty leaves at once, and the job stays."""
    suspend(worker.connection)
    try:
        job = queue_of(worker, "burst").enqueue(f"{JOBS}.add", 1, 2)
        assert burst(environment, "burst").returncode == 0
        assert status(job) == JobStatus.QUEUED
    finally:
        resume(worker.connection)
    assert burst(environment, "burst").returncode == 0
    assert status(job) == JobStatus.FINISHED
