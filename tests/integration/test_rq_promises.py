"""What RQ promises of its workers, asked of `warmclip worker`: docs/rq-promises.md names each test.

The promises are those of RQ's own tests; the worker, its Redis and its horse are real.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.callbacks import Callback
from rq.command import (
    send_command,
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.defaults import UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.group import Group
from rq.job import Dependency, Job, JobStatus, Retry
from rq.queue import Queue
from rq.rate_limit import RateLimit
from rq.repeat import Repeat
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.utils import now
from rq.webhook import Webhook
from rq.worker import Worker, WorkerStatus

from running import (
    PATIENCE_S,
    WORKER,
    Running,
    environment_of,
    eventually,
    outcome,
    reason,
    running_worker,
)
from standins import user_jobs
from warmclip.settings import Settings

pytestmark = pytest.mark.usefixtures("server_binary")

JOBS = user_jobs.__name__
_TESTS = Path(__file__).parents[1]
_RQ = (sys.executable, "-m", "rq.cli")


def user_environment(home: Path, bundle: Path, **more: str) -> dict[str, str]:
    """The variables of a worker that runs the user's jobs; it needs no store, so it holds none."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_TESTS)]))
    mine = {"WARMCLIP_JOBS": user_jobs.NAMES, "PYTHONPATH": path, "QDRANT_URL": "http://[::1]:1"}
    return environment_of(home, bundle) | mine | more


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> dict[str, str]:
    """One home, and so one private Redis, for the workers of this module."""
    return user_environment(tmp_path_factory.mktemp("promises") / "home", demo_bundle)


@pytest.fixture(scope="module")
def worker(environment: dict[str, str]) -> Iterator[Running]:
    """One worker for all tests that leave it as it was."""
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file in which jobs leave lines."""
    return tmp_path / "trace"


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


# Results


def test_result(worker: Running) -> None:
    """A result is there, its job is finished and listed as such, and it names its worker."""
    job = enqueue(worker, user_jobs.add, 1, 2)
    assert outcome(job).return_value == 3
    job = fresh(job)
    assert status(job) == JobStatus.FINISHED
    assert job.return_value() == 3
    assert job.id in queue_of(worker).finished_job_registry
    assert job.worker_name == seen(worker).name
    assert queue_of(worker).started_job_registry.get_job_ids() == []
    assert queue_of(worker).intermediate_queue.get_job_ids() == []


def test_result_ttl(worker: Running) -> None:
    """A job and its result live as long as asked: 30 s, for ever, or not at all."""
    for_a_while = enqueue(worker, user_jobs.add, 1, 2, result_ttl=30)
    for_ever = enqueue(worker, user_jobs.add, 1, 2, result_ttl=-1)
    for_no_time = enqueue(worker, user_jobs.add, 1, 2, result_ttl=0)
    last = enqueue(worker, user_jobs.add, 1, 2)
    outcome(last)
    assert 0 < worker.connection.ttl(for_a_while.key) <= 30
    assert worker.connection.ttl(for_ever.key) == -1
    assert not worker.connection.exists(for_no_time.key)


def test_long_job_without_result(worker: Running) -> None:
    """A job that outlives heartbeats and is to leave nothing leaves nothing."""
    job = enqueue(worker, user_jobs.sleep, 6, result_ttl=0)
    outcome(enqueue(worker, user_jobs.add, 1, 2))
    assert list(worker.connection.scan_iter(f"*{job.id}*")) == []


def test_times(worker: Running) -> None:
    """A job's times are in order."""
    before = now()
    job = enqueue(worker, user_jobs.sleep, 0.2)
    outcome(job)
    job = fresh(job)
    assert job.enqueued_at is not None
    assert job.started_at is not None
    assert job.ended_at is not None
    assert before <= job.enqueued_at <= job.started_at <= job.ended_at <= now()
    assert (job.ended_at - job.started_at).total_seconds() >= 0.2


def test_result_that_is_no_json(worker: Running) -> None:
    """Its job is finished, as RQ has it, and says that the result could not be kept."""
    assert run(worker, user_jobs.no_json).return_value == UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
    assert run(worker, user_jobs.add, 1, 2).return_value == 3


def test_coroutine(worker: Running) -> None:
    """A coroutine function is awaited."""
    assert run(worker, user_jobs.add_later, 1, 2).return_value == 3


def test_words_of_all_languages(worker: Running) -> None:
    """Arguments, results and descriptions are Unicode."""
    job = enqueue(worker, user_jobs.echo, "你好 caf\u00e9", description="世界")
    assert outcome(job).return_value == "你好 caf\u00e9"
    job = fresh(job)
    assert job.description == "世界"


def test_arguments_are_not_logged(worker: Running) -> None:
    """What a job was asked may be private."""
    run(worker, user_jobs.echo, "a-secret-search")
    assert "a-secret-search" not in worker.log.read_text()


# What a job may know and do


def test_current_job(worker: Running) -> None:
    """A job can ask which one it is."""
    job = enqueue(worker, user_jobs.who)
    assert outcome(job).return_value == job.id


@pytest.mark.parametrize("fails", [False, True])
def test_meta(worker: Running, fails: bool) -> None:
    """Meta data that a job saves stays, with what was there before, even if the job fails."""
    job = enqueue(worker, user_jobs.mark, {"new": 1, "old": 2}, fails, meta={"old": 1, "kept": 3})
    outcome(job)
    assert job.get_meta() == {"new": 1, "old": 2, "kept": 3}


def test_warm_model(worker: Running) -> None:
    """The user's function has the worker's model."""
    result = run(worker, user_jobs.embed, "a red circle").return_value
    assert isinstance(result, list)
    assert sum(number * number for number in result) == pytest.approx(1, abs=1e-5)


def test_one_process(worker: Running) -> None:
    """Jobs run in the worker's horse, one after the other, and not in the worker."""
    pids = {run(worker, user_jobs.process).return_value for _ in range(3)}
    assert pids == {worker.horse}


# Failures


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
    eventually(lambda: status(job) == JobStatus.SCHEDULED)
    assert job.id in queue_of(worker).scheduled_job_registry
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


# Callbacks


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


# Time-outs


def test_timeout(worker: Running, trace: Path) -> None:
    """A job that overruns fails at its time-out; the horse stays warm."""
    horse = worker.horse
    result = run(worker, user_jobs.sleep, 20, str(trace), job_timeout=1)
    assert "rq.timeouts.JobTimeoutException" in reason(result)
    assert lines(trace) == ["begin"]
    assert worker.horse == horse


def test_no_timeout(worker: Running) -> None:
    """A job may be given all the time there is."""
    assert run(worker, user_jobs.sleep, 0.2, job_timeout=-1).return_value == 0.2


# Commands


def begun(worker: Running, trace: Path, seconds: float = 30, **options: Any) -> Job:
    """A job that has begun."""
    job = enqueue(worker, user_jobs.sleep, seconds, str(trace), **options)
    eventually(lambda: lines(trace)[-1:] == ["begin"])
    return job


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


# Dependencies, groups, repeats, limits


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


# Jobs that vanish


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


def test_job_deleted_before_it_begins(worker: Running, trace: Path) -> None:
    """A job that vanishes on its way to the horse is passed by; the horse stays warm."""
    horse = worker.horse
    os.kill(horse, signal.SIGSTOP)
    try:
        job = enqueue(worker, user_jobs.note, str(trace))
        eventually(lambda: job.id in queue_of(worker).started_job_registry)
        worker.connection.delete(job.key)
    finally:
        os.kill(horse, signal.SIGCONT)
    assert run(worker, user_jobs.process).return_value == horse
    assert lines(trace) == []
    assert queue_of(worker).started_job_registry.get_job_ids() == []
    assert queue_of(worker).intermediate_queue.get_job_ids() == []


def test_job_deleted_while_it_runs(worker: Running, trace: Path) -> None:
    """It ends, nothing of it is listed any more, and the worker goes on."""
    job = begun(worker, trace, seconds=1)
    job.delete()
    assert run(worker, user_jobs.add, 1, 2).return_value == 3
    assert lines(trace) == ["begin", "end"]
    assert queue_of(worker).started_job_registry.get_job_ids() == []


# What others see of the worker


def test_heartbeats_during_a_job(worker: Running, trace: Path) -> None:
    """While a long job runs, worker and job are shown alive and busy, with the job."""
    job = begun(worker, trace, seconds=12)
    first = seen(worker)
    assert first.get_state() == WorkerStatus.BUSY
    assert first.get_current_job_id() == job.id
    assert first.last_heartbeat is not None
    job = fresh(job)
    assert job.worker_name == first.name
    assert job.last_heartbeat is not None
    time.sleep(6.5)
    for before, later in ((first, seen(worker)), (job, fresh(job))):
        assert before.last_heartbeat is not None
        assert later.last_heartbeat is not None
        assert later.last_heartbeat > before.last_heartbeat
    assert job.id in queue_of(worker).started_job_registry
    send_stop_job_command(worker.connection, job.id, serializer=JSONSerializer)
    outcome(job)


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


# How a worker ends


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
        first = queue.enqueue(f"{JOBS}.sleep", 3, str(trace))
        second = queue.enqueue(f"{JOBS}.add", 1, 2)
        eventually(lambda: lines(trace) == ["begin"])
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
