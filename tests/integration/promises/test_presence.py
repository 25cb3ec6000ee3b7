"""What others see of a worker, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import Worker, WorkerStatus

from running import PATIENCE_S, WORKER, Running, eventually, outcome
from standins import user_jobs
from user_worker import JOBS, begun, burst, enqueue, fresh, lines, queue_of, rq, run, seen, status
from warmclip.settings import Settings

pytestmark = pytest.mark.usefixtures("server_binary")


def test_heartbeats_during_a_job(worker: Running, trace: Path) -> None:
    """While a long job runs, worker and job are shown alive and busy, with the job."""
    job = begun(worker, trace, seconds=12)
    first = seen(worker)
    assert first.get_state() == WorkerStatus.BUSY
    assert first.get_current_job_id() == job.id
    job = fresh(job)
    assert job.worker_name == first.name
    worker_beat, job_beat = heartbeat(first), heartbeat(job)
    eventually(lambda: heartbeat(seen(worker)) > worker_beat)
    eventually(lambda: heartbeat(fresh(job)) > job_beat)
    assert job.id in queue_of(worker).started_job_registry
    send_stop_job_command(worker.connection, job.id, serializer=JSONSerializer)
    outcome(job)


def heartbeat(of: Job | Worker) -> datetime:
    """When it was last known to live."""
    assert of.last_heartbeat is not None
    return of.last_heartbeat


def test_rq_info(worker: Running, trace: Path) -> None:
    """RQ's own command shows the worker, its state, and the queue."""
    job = begun(worker, trace)
    waiting = enqueue(worker, user_jobs.add, 1, 2)
    shown = rq(worker, "info", "--raw")
    send_stop_job_command(worker.connection, job.id, serializer=JSONSerializer)
    name = seen(worker).name
    assert (name, "busy") in names_and_states(shown)
    assert "queue default 1" in shown
    outcome(waiting)
    eventually(lambda: (name, "idle") in names_and_states(rq(worker, "info", "--raw")))


def names_and_states(shown: str) -> list[tuple[str, str]]:
    """Of the workers that `rq info --raw` shows."""
    return re.findall(r"^worker (\S+) \(.*?\) (\w+)", shown, re.MULTILINE)


def test_statistics(worker: Running) -> None:
    """The worker counts what succeeded and failed, and how long it took."""
    before = seen(worker)
    run(worker, user_jobs.sleep, 0.5)
    run(worker, user_jobs.fail, "no")
    after = seen(worker)
    assert after.successful_job_count - before.successful_job_count == 1
    assert after.failed_job_count - before.failed_job_count == 1
    assert after.total_working_time - before.total_working_time >= 0.5


def test_registration(worker: Running, environment: dict[str, str]) -> None:
    """A worker is listed with what it is, for each of its queues, until it has left."""
    found = seen(worker)
    assert found.queue_names() == ["high", "default"]
    assert found.hostname
    assert found.python_version == sys.version
    assert found.birth_date is not None
    arguments = ("--queues", "another")
    settings = Settings.from_env(environment)
    process = subprocess.Popen(
        [*WORKER, *arguments], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    another = queue_of(worker, "another")
    try:
        eventually(lambda: Worker.count(queue=another) == 1)
        (listed,) = Worker.all(queue=another, serializer=JSONSerializer)
        assert listed.pid == process.pid
        assert Worker.count(connection=worker.connection) == 2
        eventually(lambda: worker.connection.hget(listed.key, "state") == b"idle")
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert Worker.count(queue=another) == 0
    assert isinstance(listed, Worker)
    assert listed.death_date is not None
    assert settings.home.exists()


def test_queues_in_order(worker: Running, environment: dict[str, str], trace: Path) -> None:
    """The first queue is worked on first; at the end, every one is empty, and the exit code 0."""
    for name in ("low", "urgent", "low", "urgent"):
        queue_of(worker, name).enqueue(f"{JOBS}.note", str(trace), name)
    ended = burst(environment, "urgent,low")
    assert ended.returncode == 0, ended.stderr
    assert lines(trace) == ["urgent", "urgent", "low", "low"]
    assert burst(environment, "urgent,low").returncode == 0


def test_max_jobs(worker: Running, environment: dict[str, str], trace: Path) -> None:
    """A worker leaves after so many jobs; the others wait."""
    queue = queue_of(worker, "few")
    jobs = [queue.enqueue(f"{JOBS}.note", str(trace), str(number)) for number in range(3)]
    assert burst(environment, "few", "--max-jobs", "2").returncode == 0
    assert lines(trace) == ["0", "1"]
    assert [status(job) for job in jobs] == [
        JobStatus.FINISHED,
        JobStatus.FINISHED,
        JobStatus.QUEUED,
    ]


def test_expired_entries(worker: Running, environment: dict[str, str]) -> None:
    """What expired in a queue's registries is cleared when a worker starts."""
    queue = queue_of(worker, "untidy")
    registries = (queue.started_job_registry, queue.finished_job_registry)
    for registry in registries:
        worker.connection.zadd(registry.key, {"long-gone:1": 1})
    assert burst(environment, "untidy").returncode == 0
    assert [worker.connection.zcard(registry.key) for registry in registries] == [0, 0]


@pytest.mark.parametrize("how", ["shutdown command", "SIGTERM", "SIGINT"])
def test_warm_shutdown(worker: Running, environment: dict[str, str], trace: Path, how: str) -> None:
    """Asked to stop, a worker says so, finishes its job, begins no other, and ends with 0."""
    queue = queue_of(worker, "last")
    process = subprocess.Popen(
        [*WORKER, "--queues", "last"], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        first = queue.enqueue(f"{JOBS}.sleep", 4, str(trace))
        second = queue.enqueue(f"{JOBS}.add", 1, 2)
        eventually(lambda: lines(trace) == ["begin"])
        time.sleep(1.5)  # beyond the job's first heartbeat
        (listed,) = Worker.all(queue=queue, serializer=JSONSerializer)
        assert isinstance(listed, Worker)
        if how == "shutdown command":
            send_shutdown_command(worker.connection, listed.name)
        else:
            process.send_signal(signal.Signals[how])
        eventually(lambda: listed.shutdown_requested_date is not None)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert (status(first), status(second)) == (JobStatus.FINISHED, JobStatus.QUEUED)
    assert lines(trace) == ["begin", "end"]
    second.delete()
