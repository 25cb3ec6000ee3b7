"""What becomes of jobs in Redis, where answers are lost and others write at the same moment.

Each race is forced: something happens between what a transaction reads and what it writes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.group import Group
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.repeat import Repeat
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp, now

from standins.redis_server import restricted
from warmclip.work import recovery
from warmclip.work.allowlist import AllowedJob
from warmclip.work.dequeue import Dequeuer
from warmclip.work.horse.report import JobReport, Outcome
from warmclip.work.liveness import worker_fields
from warmclip.work.recorder import JobRecorder, Running
from warmclip.work.recovery import OrphanRecovery
from warmclip.work.rq_worker import LIFE_S, RqWorker

pytestmark = pytest.mark.usefixtures("server_binary")

FUNCTION = "warmclip.work.jobs.embed_texts"


class Worker:
    """A worker without a horse."""

    def __init__(self, connection: Redis, name: str) -> None:
        self.rq = RqWorker(["default"], name=name, connection=connection)
        self.rq.register_birth()  # type: ignore[no-untyped-call]  # rq's is not annotated
        self.recorder = JobRecorder(self.rq)
        self.queue = self.rq.queues[0]
        self.given_up: list[str] = []
        self.recovery = OrphanRecovery(
            [self.queue], self.recorder, lambda job: self.given_up.append(job.id)
        )

    def take(self) -> AllowedJob:
        """The next job, in the intermediate list by now."""
        taken = Dequeuer(self.rq.connection, [self.queue]).take()
        assert taken is not None
        return taken[0]

    def start(self) -> Running:
        """The next job, started."""
        running = self.recorder.start(self.take(), self.queue)
        assert running is not None
        return running

    def finish(self, running: Running, outcome: Outcome = "success", text: str = "1") -> None:
        """Have a horse report this."""
        job = running.job
        report = JobReport(
            execution=running.execution.id,
            outcome=outcome,
            text=text,
            retries_left=job.retries_left,
            result_ttl=job.result_ttl,
            failure_ttl=job.failure_ttl,
        )
        self.recorder.finish(running, report)

    def figure(self, name: str) -> int:
        """One that RQ keeps of a worker."""
        return int(self.rq.connection.hget(self.rq.key, name) or 0)


@pytest.fixture
def worker(connection: Redis) -> Worker:
    """The one that runs the job."""
    return Worker(connection, "mine")


def enqueue(connection: Redis, **options: Any) -> Job:
    """A job of a producer's."""
    queue = Queue(connection=connection, serializer=JSONSerializer)
    return queue.enqueue(FUNCTION, args=(["a"],), **options)


def results(job: Job) -> list[Result]:
    """All that is recorded of a job's outcome."""
    found: list[Result] = Result.all(job, serializer=JSONSerializer)
    return found


def is_nowhere(worker: Worker, job: Job) -> bool:
    """Whether no list has it any more, waiting or running."""
    redis = worker.rq.connection
    return (
        worker.queue.job_ids == []
        and worker.queue.intermediate_queue.get_job_ids() == []
        and redis.zcard(worker.queue.started_job_registry.key) == 0
        and list(redis.scan_iter(f"rq:execution*:{job.id}*")) == []
        and redis.scard(worker.rq.executions_key) == 0
    )


@pytest.fixture
def lose_answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have the connection break after the next transaction was done, before its answer came."""

    def lose() -> None:
        execute: Any = Pipeline._execute_transaction
        left = [1]

        def and_break(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
            answers = execute(self, *args, **kwargs)
            if left:
                left.pop()
                self.watching = True  # as it is for who has no answer
                raise RedisConnectionError("lost the answer")
            return answers

        monkeypatch.setattr(Pipeline, "_execute_transaction", and_break)

    return lose


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object], int], None]:
    """Have something happen before the next transactions are done, after what they have read."""

    def happen(act: Callable[[], object], times: int = 1) -> None:
        execute: Any = Pipeline._execute_transaction
        left = [act] * times

        def after_it(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
            if left:
                left.pop()()
            return execute(self, *args, **kwargs)

        monkeypatch.setattr(Pipeline, "_execute_transaction", after_it)

    return happen


def test_start(worker: Worker, connection: Redis) -> None:
    """A job moves from the intermediate list to the started ones, in one step."""
    job = enqueue(connection)
    running = worker.start()
    assert worker.queue.intermediate_queue.get_job_ids() == []
    assert worker.queue.started_job_registry.get_job_and_execution_ids() == [
        (job.id, running.execution.id)
    ]
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert (job.get_status(), job.worker_name) == (JobStatus.STARTED, "mine")
    assert job.started_at is not None
    assert [it.id for it in job.get_executions()] == [running.execution.id]
    assert worker.rq.get_current_job_id() == job.id
    # While the job's heartbeats come, RQ lists it as its worker's.
    assert LIFE_S < connection.ttl(worker.rq.executions_key) <= LIFE_S + 60


@pytest.mark.parametrize("how", ["deleted", "cancelled"])
def test_gone_before_it_begins(worker: Worker, connection: Redis, how: str) -> None:
    """A job that was deleted or cancelled after it was taken is not run, and is in no list."""
    job = enqueue(connection)
    taken = worker.take()
    if how == "deleted":
        connection.delete(job.key)
    else:
        job.cancel()
    assert worker.recorder.start(taken, worker.queue) is None
    assert is_nowhere(worker, job)
    assert connection.exists(job.key) == (how == "cancelled")


@pytest.mark.parametrize("how", ["deleted", "cancelled"])
def test_gone_as_it_begins(worker: Worker, connection: Redis, meanwhile: Any, how: str) -> None:
    """The same at the very moment at which it is recorded as started."""
    job = enqueue(connection)
    taken = worker.take()
    with Redis(port=connection.connection_pool.connection_kwargs["port"]) as another:
        theirs = Job.fetch(job.id, another, JSONSerializer)
        meanwhile(theirs.delete if how == "deleted" else theirs.cancel)
        assert worker.recorder.start(taken, worker.queue) is None
    assert is_nowhere(worker, job)


def test_answer_lost_at_the_start(worker: Worker, connection: Redis, lose_answer: Any) -> None:
    """The job is started once: there is one execution, which ends with it."""
    job = enqueue(connection)
    taken = worker.take()
    lose_answer()
    running = worker.recorder.start(taken, worker.queue)
    assert running is not None
    assert connection.zcard(worker.queue.started_job_registry.key) == 1
    worker.finish(running)
    assert is_nowhere(worker, job)


@pytest.mark.parametrize("has_ended", [False, True], ids=["runs", "has ended"])
def test_job_that_another_worker_has_begun_meanwhile(
    connection: Redis, worker: Worker, has_ended: bool
) -> None:
    """A worker that was stopped, or refused, after it took a job leaves it to the one that took it
    for lost.
    """
    job = enqueue(connection)
    taken = worker.take()
    recovery._put_back(worker.queue, job.id)
    other = Worker(connection, "other")
    running = other.start()
    if has_ended:
        other.finish(running)
    assert worker.recorder.start(taken, worker.queue) is None
    if not has_ended:
        other.finish(running)
    assert len(results(job)) == 1
    assert is_nowhere(worker, job)


def test_taken_for_lost_before_it_begins(worker: Worker, connection: Redis) -> None:
    """A worker that was asleep in between starts a job that was queued again meanwhile: once."""
    job = enqueue(connection)
    taken = worker.take()
    connection.lrem(worker.queue.intermediate_queue.key, 0, job.id)
    connection.lpush(worker.queue.key, job.id)
    running = worker.recorder.start(taken, worker.queue)
    assert running is not None
    assert worker.queue.job_ids == []


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ("success", "1"),
        ("failure", "ValueError: no"),
        ("retry", '{"max": 1, "intervals": [0], "at_front": false}'),
    ],
)
def test_answer_lost_at_the_end(
    worker: Worker, connection: Redis, lose_answer: Any, outcome: Outcome, text: str
) -> None:
    """An outcome whose transaction was done is not recorded again."""
    job = enqueue(connection)
    running = worker.start()
    lose_answer()
    worker.finish(running, outcome, text)
    assert len(results(job)) == 1
    figures = worker.figure("successful_job_count"), worker.figure("failed_job_count")
    assert sorted(figures) == [0, 1]
    assert worker.queue.job_ids == ([job.id] if outcome == "retry" else [])
    assert connection.zcard(worker.queue.started_job_registry.key) == 0


def test_answer_lost_at_a_retry(worker: Worker, connection: Redis, lose_answer: Any) -> None:
    """A job that is retried is queued once, and has lost one retry."""
    job = enqueue(connection, retry=Retry(max=3))
    running = worker.start()
    lose_answer()
    worker.finish(running, "failure", "ValueError: no")
    assert worker.queue.job_ids == [job.id]
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert job.retries_left == 2


def test_dependents_after_a_lost_answer(
    worker: Worker, connection: Redis, lose_answer: Any
) -> None:
    """What waits for a job is queued, once."""
    first = enqueue(connection)
    second = enqueue(connection, depends_on=first)
    running = worker.start()
    lose_answer()
    worker.finish(running)
    assert worker.queue.job_ids == [second.id]


@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_given_up_while_it_ran(worker: Worker, connection: Redis, outcome: Outcome) -> None:
    """A job that another worker took for lost has the outcome which that one recorded."""
    job = enqueue(connection)
    running = worker.start()
    another = Worker(connection, "another")
    assert another.recorder.give_up(running, expired_by=None)
    worker.finish(running, outcome)
    assert job.get_status() == JobStatus.FAILED
    (result,) = results(job)
    assert "its worker died" in str(result.exc_string)
    assert is_nowhere(worker, job)


def test_given_up_as_it_ends(worker: Worker, connection: Redis, meanwhile: Any) -> None:
    """The same at the very moment at which its outcome is recorded."""
    job = enqueue(connection, retry=Retry(max=1))
    running = worker.start()
    another = Worker(connection, "another")
    lost = another_view(another, running)
    meanwhile(lambda: another.recorder.give_up(lost, expired_by=None))
    worker.finish(running)
    assert job.get_status() == JobStatus.QUEUED
    assert worker.queue.job_ids == [job.id]
    assert results(job) == []


def another_view(another: Worker, running: Running) -> Running:
    """An execution as another worker finds it."""
    job = AllowedJob.fetch(running.job.id, another.rq.connection, JSONSerializer)
    return Running(job=job, queue=another.queue, execution=running.execution)


def test_ended_as_it_is_given_up(worker: Worker, connection: Redis, meanwhile: Any) -> None:
    """A job that ends at the moment at which another worker gives it up has its own outcome."""
    job = enqueue(connection, retry=Retry(max=1))
    running = worker.start()
    another = Worker(connection, "another")
    lost = another_view(another, running)
    meanwhile(lambda: worker.finish(running))
    assert not another.recorder.give_up(lost, expired_by=None)
    assert job.get_status() == JobStatus.FINISHED
    assert is_nowhere(worker, job)


def test_alive_again_as_it_is_given_up(worker: Worker, connection: Redis) -> None:
    """A heartbeat that came meanwhile saves a job whose heartbeats had ceased."""
    enqueue(connection)
    running = worker.start()
    another = Worker(connection, "another")
    assert not another.recorder.give_up(another_view(another, running), expired_by=1.0)
    assert running.is_held(connection)
    # By one clock alone: its record, which Redis would have let expire, is there.
    entry = {running.execution.composite_key: 0.5}
    connection.zadd(worker.queue.started_job_registry.key, entry)
    assert not another.recorder.give_up(another_view(another, running), expired_by=1.0)
    assert running.is_held(connection)
    # By the other alone.
    connection.delete(running.execution.key)
    connection.zadd(worker.queue.started_job_registry.key, {running.execution.composite_key: 1.5})
    assert not another.recorder.give_up(another_view(another, running), expired_by=1.0)
    assert running.is_held(connection)


def test_two_give_up_the_same_job(worker: Worker, connection: Redis, meanwhile: Any) -> None:
    """It is queued once, and its application is told once."""
    job = enqueue(connection, retry=Retry(max=1))
    running = worker.start()
    one, other = Worker(connection, "one"), Worker(connection, "other")
    views = [another_view(it, running) for it in (one, other)]
    seconds: list[bool] = []
    meanwhile(lambda: seconds.append(other.recorder.give_up(views[1], expired_by=None)))
    first = one.recorder.give_up(views[0], expired_by=None)
    assert [first, *seconds] == [False, True]
    assert worker.queue.job_ids == [job.id]


@pytest.mark.parametrize("how", ["deleted", "expired", "cancelled"])
@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_gone_while_it_ran(worker: Worker, connection: Redis, how: str, outcome: Outcome) -> None:
    """A job that was deleted does not come back, one that was cancelled stays so."""
    job = enqueue(connection, retry=Retry(max=3))
    running = worker.start()
    match how:
        case "deleted":
            job.delete()
        case "expired":
            connection.delete(job.key)
        case _:
            job.cancel()
    worker.finish(running, outcome)
    assert is_nowhere(worker, job)
    assert results(job) == []
    if how != "cancelled":
        assert list(connection.scan_iter(f"*{job.id}*")) == []
    else:
        assert job.get_status() == JobStatus.CANCELED


def test_heartbeat_after_a_long_stop(worker: Worker, connection: Redis) -> None:
    """A job whose execution Redis let expire meanwhile goes on, and has its record."""
    job = enqueue(connection)
    running = worker.start()
    connection.delete(running.execution.key)
    with connection.pipeline() as pipeline:
        worker.recorder.keep_alive(running, pipeline)
        worker.recorder.was_kept(running, pipeline.execute())
    assert [it.id for it in job.get_executions()] == [running.execution.id]
    assert job.get_status() == JobStatus.STARTED


def test_deleted_job_with_a_heartbeat(worker: Worker, connection: Redis) -> None:
    """A heartbeat that comes late leaves nothing of it either."""
    job = enqueue(connection)
    running = worker.start()
    job.delete()
    with connection.pipeline() as pipeline:
        worker.recorder.keep_alive(running, pipeline)
        worker.recorder.was_kept(running, pipeline.execute())
    assert not connection.exists(job.key)
    assert not running.is_held(connection)


@pytest.mark.parametrize(
    ("outcome", "text", "options"),
    [
        ("success", "1", {}),
        ("success", "1", {"repeat": Repeat(times=1)}),
        ("success", "1", {"repeat": Repeat(times=1, interval=60)}),
        ("failure", "ValueError: no", {}),
        ("failure", "ValueError: no", {"retry": Retry(max=1)}),
        ("failure", "ValueError: no", {"retry": Retry(max=1, interval=60)}),
        ("retry", '{"max": 1, "intervals": [0], "at_front": false}', {}),
        ("retry", '{"max": 0, "intervals": [0], "at_front": false}', {}),
    ],
)
def test_meta_of_a_job(
    worker: Worker, connection: Redis, outcome: Outcome, text: str, options: dict[str, Any]
) -> None:
    """What its function has saved while it ran stays, whatever becomes of it."""
    job = enqueue(connection, meta={"old": 1}, **options)
    running = worker.start()
    theirs = Job.fetch(job.id, connection, JSONSerializer)
    theirs.meta["new"] = 2
    theirs.save_meta()  # type: ignore[no-untyped-call]  # rq's is not annotated
    worker.finish(running, outcome, text)
    assert job.get_meta() == {"old": 1, "new": 2}


@pytest.mark.parametrize(
    ("outcome", "options"),
    [
        ("success", {}),
        ("success", {"repeat": Repeat(times=1)}),
        ("failure", {}),
        ("failure", {"retry": Retry(max=1)}),
    ],
)
def test_times_of_a_job(
    worker: Worker, connection: Redis, outcome: Outcome, options: dict[str, Any]
) -> None:
    """It has ended when its report came, also one that repeats, and its worker has worked so long.

    What its record says of a former run does not count.
    """
    job = enqueue(connection, **options)
    connection.hset(job.key, "ended_at", "2020-01-01T00:00:00.000000Z")
    running = worker.start()
    worker.finish(running, outcome)
    ended = running.job.ended_at
    assert ended is not None
    assert running.job.started_at is not None
    assert ended >= running.job.started_at
    assert float(connection.hget(worker.rq.key, "total_working_time") or 0) > 0


@pytest.mark.parametrize(
    ("options", "outcome", "text", "runs", "status"),
    [
        ({}, "success", "1", 1, JobStatus.FINISHED),
        ({"repeat": Repeat(times=2)}, "success", "1", 3, JobStatus.FINISHED),
        ({}, "failure", "ValueError: no", 1, JobStatus.FAILED),
        ({"retry": Retry(max=2)}, "failure", "ValueError: no", 3, JobStatus.FAILED),
        ({}, "retry", '{"max": 0, "intervals": [0], "at_front": false}', 1, JobStatus.FAILED),
        ({}, "retry", '{"max": 2, "intervals": [0], "at_front": false}', 3, JobStatus.FAILED),
    ],
)
def test_how_often_a_job_runs(
    worker: Worker,
    connection: Redis,
    options: dict[str, Any],
    outcome: Outcome,
    text: str,
    runs: int,
    status: JobStatus,
) -> None:
    """Once, and as many times more as it is repeated, retried, or asks for itself."""
    job = enqueue(connection, **options)
    ran = 0
    while worker.queue.job_ids and ran < 9:
        worker.finish(worker.start(), outcome, text)
        ran += 1
    assert (ran, job.get_status()) == (runs, status)
    assert is_nowhere(worker, job)


def test_asking_again_after_more_runs_than_that_allows(worker: Worker, connection: Redis) -> None:
    """A job that ran again three times, and now returns a Retry of at most two, has failed."""
    job = enqueue(connection)
    connection.hset(job.key, "number_of_retries", 3)
    worker.finish(worker.start(), "retry", '{"max": 2, "intervals": [0], "at_front": false}')
    assert job.get_status() == JobStatus.FAILED
    assert is_nowhere(worker, job)


@pytest.mark.parametrize("at_front", [False, True])
def test_where_a_job_that_asks_again_is_queued(
    worker: Worker, connection: Redis, at_front: bool
) -> None:
    """Last, or first if it has asked for that."""
    job, later = enqueue(connection), enqueue(connection)
    text = json.dumps({"max": 1, "intervals": [0], "at_front": at_front})
    worker.finish(worker.start(), "retry", text)
    order = [job.id, later.id]
    assert worker.queue.job_ids == (order if at_front else order[::-1])


@pytest.mark.parametrize(
    ("outcome", "text", "action", "error"),
    [
        ("success", "1", "job_done", None),
        ("failure", "ValueError: no such folder", "job_failed", "ValueError"),
    ],
)
def test_log_of_an_outcome(
    worker: Worker,
    connection: Redis,
    caplog: pytest.LogCaptureFixture,
    outcome: Outcome,
    text: str,
    action: str,
    error: str | None,
) -> None:
    """It has the job, how long that took, and the kind of its error."""
    caplog.set_level("INFO")
    enqueue(connection)
    running = worker.start()
    running.job.started_at = now() - timedelta(seconds=100)
    worker.finish(running, outcome, text)
    (record,) = (it for it in caplog.records if getattr(it, "action", None) == action)
    fields = vars(record)
    assert fields["job"] == running.job.id
    assert 100 <= fields["seconds"] < 160
    assert fields.get("error") == error
    assert (error or "is done") in record.getMessage()


def test_log_of_a_job_without_a_beginning(
    worker: Worker, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Its record may have lost that: it took no time that is known."""
    enqueue(connection)
    running = worker.start()
    running.job.started_at = None
    worker.finish(running, "failure", "ValueError: no")
    (record,) = (it for it in caplog.records if getattr(it, "action", None) == "job_failed")
    assert vars(record)["seconds"] == 0


def test_repeat_without_a_result(worker: Worker, connection: Redis) -> None:
    """A job that leaves nothing is deleted after its last repeat, not before."""
    job = enqueue(connection, result_ttl=0, repeat=Repeat(times=1))
    worker.finish(worker.start())
    assert worker.queue.job_ids == [job.id]
    worker.finish(worker.start())
    assert not connection.exists(job.key)


def test_repeat_that_is_written_twice(worker: Worker, connection: Redis, meanwhile: Any) -> None:
    """Somebody writes to the job meanwhile, so its outcome is written anew: it repeats once."""
    job = enqueue(connection, repeat=Repeat(times=3, interval=[0, 60]))
    running = worker.start()
    meanwhile(lambda: connection.hset(job.key, "description", "changed"))
    worker.finish(running)
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert job.repeats_left == 2
    assert worker.queue.job_ids == [job.id]
    assert len(results(job)) == 1


def test_retry_that_is_written_twice(worker: Worker, connection: Redis, meanwhile: Any) -> None:
    """The same for a retry, of which there were three."""
    job = enqueue(connection, retry=Retry(max=3, interval=[60, 70, 80]))
    running = worker.start()
    meanwhile(lambda: connection.hset(job.key, "description", "changed"))
    worker.finish(running, "failure", "ValueError: no")
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert job.retries_left == 2
    assert job.get_status() == JobStatus.SCHEDULED
    assert job.id in worker.queue.scheduled_job_registry


def test_record_that_changes_for_ever(
    worker: Worker,
    connection: Redis,
    meanwhile: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After fifty attempts, with longer and longer rests between them, the outcome is written all
    the same, and that is said.
    """
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    job = enqueue(connection)
    running = worker.start()
    meanwhile(lambda: connection.hset(job.key, "description", "changed"), times=1000)
    worker.finish(running)
    assert rests == pytest.approx([0.02 * min(attempt, 10) for attempt in range(1, 51)])
    assert job.get_status() == JobStatus.FINISHED
    assert len(results(job)) == 1
    assert caplog.text.count("changes all the time") == 1


@pytest.mark.parametrize(
    "key", ["rq:finished:default", "rq:results:{id}", "rq:job:{id}:dependents"]
)
def test_key_of_another_kind_at_the_end(worker: Worker, connection: Redis, key: str) -> None:
    """It may cost the job its result, not more: the job has ended, and runs nowhere."""
    job = enqueue(connection)
    running = worker.start()
    connection.set(key.format(id=job.id), "x")
    worker.finish(running)
    assert is_nowhere(worker, job)
    assert job.get_status() in (JobStatus.FAILED, JobStatus.FINISHED)


def test_record_by_which_no_outcome_can_be_written(worker: Worker, connection: Redis) -> None:
    """Its job has failed, says so, and is listed as long as others that failed."""
    job = enqueue(connection, retry=Retry(max=1, interval=1))
    running = worker.start()
    running.job.retry_intervals = []
    worker.finish(running, "failure", "ValueError: no")
    assert is_nowhere(worker, job)
    assert job.get_status() == JobStatus.FAILED
    (told,) = results(job)
    assert "its outcome could not be recorded: IndexError" in str(told.exc_string)
    expires_at = connection.zscore(worker.queue.failed_job_registry.key, job.id)
    assert expires_at == pytest.approx(current_timestamp() + DEFAULT_FAILURE_TTL, abs=60)


def test_job_that_leaves_nothing(worker: Worker, connection: Redis) -> None:
    """Neither a record nor a result, nor a member of its group."""
    group = Group.create(connection)
    queue = Queue(connection=connection, serializer=JSONSerializer)
    data = Queue.prepare_data(FUNCTION, args=(["a"],), result_ttl=0)
    (job,) = group.enqueue_many(queue, [data])
    worker.finish(worker.start())
    assert list(connection.scan_iter(f"*{job.id}*")) == []
    assert connection.smembers(group.key) == set()


def test_intermediate_list_of_a_foreign_origin(worker: Worker, connection: Redis) -> None:
    """A job that says it came from elsewhere is listed where it was taken from."""
    job = enqueue(connection)
    connection.hset(job.key, "origin", "elsewhere")
    running = worker.start()
    assert worker.queue.intermediate_queue.get_job_ids() == []
    assert job.id in worker.queue.started_job_registry
    worker.finish(running)
    assert is_nowhere(worker, job)
    assert connection.zcard("rq:wip:elsewhere") == 0


def test_requeue(worker: Worker, connection: Redis) -> None:
    """A job is put back to the front, without having lost an attempt; a deleted one is not."""
    job = enqueue(connection, retry=Retry(max=1))
    later = enqueue(connection)
    running = worker.start()
    worker.recorder.requeue(running)
    assert not running.is_held(connection)
    assert list(connection.scan_iter(f"rq:execution*:{job.id}*")) == []
    assert worker.queue.job_ids == [job.id, later.id]
    assert job.get_status() == JobStatus.QUEUED
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert job.retries_left == 1
    running = worker.start()
    job.delete()
    worker.recorder.requeue(running)
    assert worker.queue.job_ids == [later.id]


def expire(worker: Worker, running: Running) -> None:
    """As if its heartbeats had ceased two minutes ago, on another machine."""
    redis = worker.rq.connection
    redis.zadd(worker.queue.started_job_registry.key, {running.execution.composite_key: 1})
    redis.delete(running.execution.key)


def test_recovery_of_an_expired_job(worker: Worker, connection: Redis) -> None:
    """It has failed, or is retried, and whoever recovers it is told."""
    failed, retried = enqueue(connection), enqueue(connection, retry=Retry(max=1))
    for _ in range(2):
        expire(worker, worker.start())
    another = Worker(connection, "another")
    another.recovery.run_if_due()
    assert failed.get_status() == JobStatus.FAILED
    assert retried.get_status() == JobStatus.QUEUED
    assert set(another.given_up) == {failed.id, retried.id}
    assert worker.queue.job_ids == [retried.id]


def test_recovery_that_rests(worker: Worker, connection: Redis) -> None:
    """After a sleep it concludes nothing from heartbeats that are missing."""
    job = enqueue(connection)
    running = worker.start()
    expire(worker, running)
    another = Worker(connection, "another")
    another.recovery.rest(60)
    another.recovery.run_if_due()
    assert running.is_held(connection)
    assert job.get_status() == JobStatus.STARTED


@pytest.mark.parametrize("has_slept", [False, True])
def test_job_in_between_and_a_sleep(
    worker: Worker, connection: Redis, monkeypatch: pytest.MonkeyPatch, has_slept: bool
) -> None:
    """Whoever was asleep as this process was gets the time to start a job that it has taken."""
    job = enqueue(connection)
    worker.take()
    clock = [1000.0]
    monkeypatch.setattr("warmclip.work.recovery.time.monotonic", lambda: clock[0])
    worker.recovery.run_if_due()
    clock[0] += 3600
    if has_slept:
        worker.recovery.rest(10)
    worker.recovery.run_if_due()
    assert worker.queue.job_ids == ([] if has_slept else [job.id])


def test_started_job_that_is_in_between(
    worker: Worker, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still runs is not queued beside that, whatever its record says meanwhile."""
    monkeypatch.setattr("warmclip.work.recovery._GRACE_S", 0.0)
    job = enqueue(connection)
    running = worker.start()
    connection.rpush(worker.queue.intermediate_queue.key, job.id)
    connection.hset(job.key, "status", "queued")
    worker.recovery.run_if_due()
    assert running.is_held(connection)
    assert worker.queue.job_ids == []


@pytest.mark.parametrize("horse_lives", [False, True])
def test_worker_of_this_machine_that_died(
    worker: Worker, connection: Redis, horse_lives: bool
) -> None:
    """Its job is given up at once, unless its horse is still at it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    horse = os.getpid() if horse_lives else ended.pid
    job = enqueue(connection)
    running = worker.start()
    here: dict[Any, Any] = {**worker_fields(horse, (), ""), "pid": ended.pid}
    connection.hset(worker.rq.key, mapping=here)
    Worker(connection, "another").recovery.run_if_due()
    assert running.is_held(connection) is horse_lives
    assert job.get_status() == (JobStatus.STARTED if horse_lives else JobStatus.FAILED)


@pytest.mark.parametrize("status", list(JobStatus))
def test_job_that_ended_and_whose_worker_died(
    worker: Worker, connection: Redis, status: JobStatus
) -> None:
    """A finished, stopped or cancelled job stays so; only one that ran fails, or is retried."""
    job = enqueue(connection, retry=Retry(max=1))
    running = worker.start()
    connection.hset(job.key, "status", status.value)
    connection.rpush(worker.queue.intermediate_queue.key, job.id)
    another = Worker(connection, "another")
    ran = status == JobStatus.STARTED
    assert another.recorder.give_up(another_view(another, running), expired_by=None) is ran
    assert job.get_status() == (JobStatus.QUEUED if ran else status)
    assert worker.queue.job_ids == ([job.id] if ran else [])
    assert not running.is_held(connection)
    if ran:
        assert worker.queue.intermediate_queue.get_job_ids() == []


@pytest.mark.parametrize("wrong", ["here", "there", "Redis"])
def test_clock_that_is_an_hour_off(
    worker: Worker, connection: Redis, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Whoever's it is, a job whose heartbeats come is not taken for lost."""
    enqueue(connection)
    running = worker.start()
    another = Worker(connection, "another")
    match wrong:
        case "here":
            monkeypatch.setattr(recovery, "current_timestamp", lambda: current_timestamp() + 3600)
        case "there":
            entry = {running.execution.composite_key: current_timestamp() - 3600}
            connection.zadd(worker.queue.started_job_registry.key, entry)
        case _:  # it has expired what was to live for 90 s
            connection.delete(running.execution.key)
    another.recovery.run_if_due()
    assert running.is_held(connection)
    assert another.given_up == []


def test_recovery_leaves_what_runs(worker: Worker, connection: Redis) -> None:
    """A job whose heartbeats come is nobody's to take, and a fresh one in between neither."""
    enqueue(connection)
    running = worker.start()
    enqueue(connection)
    between = worker.take()
    another = Worker(connection, "another")
    another.recovery.run_if_due()
    assert running.is_held(connection)
    assert worker.queue.intermediate_queue.get_job_ids() == [between.id]
    assert worker.queue.job_ids == another.given_up == []


@pytest.mark.parametrize(
    ("status", "comes_back"),
    [
        ("queued", True),
        ("created", True),
        ("started", False),
        ("finished", False),
        ("failed", False),
        ("canceled", False),
        ("stopped", False),
        ("scheduled", False),
        ("deferred", False),
        ("eaten", False),
    ],
)
def test_job_in_between(
    worker: Worker,
    connection: Redis,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    comes_back: bool,
) -> None:
    """A job that was taken, and never started, is the next one again if it still waits."""
    job, later = enqueue(connection), enqueue(connection)
    worker.take()
    connection.hset(job.key, "status", status)
    monkeypatch.setattr("warmclip.work.recovery._GRACE_S", 0.0)
    worker.recovery.run_if_due()
    assert worker.queue.job_ids == ([job.id, later.id] if comes_back else [later.id])
    assert worker.queue.intermediate_queue.get_job_ids() == []


@pytest.mark.parametrize(
    ("key", "member"),
    [
        ("rq:queues", b"\xff\xfe"),
        ("rq:workers", b"\xff\xfe"),
        ("rq:workers:default", b"\xff\xfe"),
        ("rq:groups", b"\xff\xfe"),
        ("rq:rate_limits", b"\xff\xfe"),
    ],
)
def test_foreign_members(worker: Worker, connection: Redis, key: str, member: bytes) -> None:
    """What is no worker, group or limit of RQ's does not keep lost jobs from being found."""
    connection.sadd(key, member, "evil")
    job = enqueue(connection)
    expire(worker, worker.start())
    worker.recovery.run_if_due()
    assert job.get_status() == JobStatus.FAILED


def test_hostile_record_among_the_started(worker: Worker, connection: Redis) -> None:
    """A lost job whose record RQ could not compute with has failed; the next one is found too."""
    hostile, innocent = enqueue(connection), enqueue(connection)
    for _ in range(2):
        expire(worker, worker.start())
    hurt: dict[Any, Any] = {"retries_left": "1", "retry_intervals": json.dumps([10**12])}
    connection.hset(hostile.key, mapping=hurt)
    worker.recovery.run_if_due()
    assert connection.hget(hostile.key, "status") == b"failed"
    assert innocent.get_status() == JobStatus.FAILED


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of whoever recovers, which stands still."""
    now = [1000.0]
    monkeypatch.setattr("warmclip.work.recovery.time.monotonic", lambda: now[0])
    return now


def test_how_often_lost_jobs_are_looked_for(
    worker: Worker, connection: Redis, clock: list[float]
) -> None:
    """Every two seconds, from the first moment on."""
    lost: list[Job] = []
    found = []
    for seconds in (0.0, 1.0, 0.9, 0.1, 1.9, 0.1):
        lost.append(enqueue(connection))
        expire(worker, worker.start())
        clock[0] += seconds
        worker.recovery.run_if_due()
        found.append(len(worker.given_up))
    assert found == [1, 1, 1, 4, 4, 6]


def test_how_long_a_rest_is(worker: Worker, connection: Redis, clock: list[float]) -> None:
    """So many seconds, and not one more."""
    enqueue(connection)
    expire(worker, worker.start())
    worker.recovery.rest(60)
    for seconds, given_up in ((0.0, 0), (59.5, 0), (2.5, 1)):
        clock[0] += seconds
        worker.recovery.run_if_due()
        assert len(worker.given_up) == given_up


def test_how_long_a_job_may_be_in_between(
    worker: Worker, connection: Redis, clock: list[float]
) -> None:
    """Three seconds since it was seen there first; then it is the next one again."""
    job = enqueue(connection)
    worker.take()
    for seconds, queued in ((0.0, 0), (2.0, 0), (2.0, 1)):
        clock[0] += seconds
        worker.recovery.run_if_due()
        assert worker.queue.job_ids == [job.id] * queued
    worker.take()  # it is there anew
    for seconds, queued in ((2.0, 0), (2.0, 0), (2.0, 1)):
        clock[0] += seconds
        worker.recovery.run_if_due()
        assert worker.queue.job_ids == [job.id] * queued


def test_jobs_in_between_of_two_queues(
    worker: Worker, connection: Redis, clock: list[float]
) -> None:
    """Each has its own three seconds, and all are put back, also one that is listed twice."""
    queues = [Queue(it, connection=connection, serializer=JSONSerializer) for it in ("a", "b")]
    recovery_of_both = OrphanRecovery(queues, worker.recorder, lambda _: None)
    jobs: list[list[str]] = []
    for queue in queues:
        jobs.append([queue.enqueue(FUNCTION, args=(["a"],)).id for _ in range(2)])
        for _ in jobs[-1]:
            Dequeuer(connection, [queue]).take()
        connection.rpush(queue.intermediate_queue.key, jobs[-1][0])
    for seconds, share in ((0.0, 0), (2.0, 0), (2.0, 2)):
        clock[0] += seconds
        recovery_of_both.run_if_due()
        for queue, ids in zip(queues, jobs, strict=True):
            assert sorted(queue.job_ids) == sorted(ids[:share])
    assert [queue.intermediate_queue.get_job_ids() for queue in queues] == [[], []]


def test_started_as_it_is_put_back(
    worker: Worker, connection: Redis, clock: list[float], meanwhile: Any
) -> None:
    """Whoever has taken it begins just then: it is left to them."""
    job = enqueue(connection)
    taken = worker.take()
    worker.recovery.run_if_due()
    clock[0] += 4.0
    another = Worker(connection, "another")
    meanwhile(lambda: another.recorder.start(taken, another.queue))
    worker.recovery.run_if_due()
    assert worker.queue.job_ids == []
    assert job.get_status() == JobStatus.STARTED


def test_when_registries_are_cleaned(worker: Worker, connection: Redis, clock: list[float]) -> None:
    """At first, then every ten minutes: what has expired in them is gone, what has not stays."""
    registries = [worker.queue.finished_job_registry.key, worker.queue.failed_job_registry.key]
    left = []
    for seconds in (0.0, 2.0, 597.0, 2.0):
        for key in registries:
            connection.zadd(key, {"expired": 1, "lasts": 4102444800})
        connection.sadd("rq:workers:default", "rq:worker:gone")
        clock[0] += seconds
        worker.recovery.run_if_due()
        gone = connection.sismember("rq:workers:default", "rq:worker:gone")
        left.append([*(connection.zcard(key) for key in registries), gone])
        assert not connection.exists("rq:queue:default:cleaning")
    assert left == [[1, 1, 0], [2, 2, 1], [2, 2, 1], [1, 1, 0]]


def test_groups_without_jobs(worker: Worker, connection: Redis) -> None:
    """They are cleaned with the registries, by one worker in a second less than ten minutes."""
    group = Group.create(connection)
    connection.sadd("rq:groups", group.name)
    worker.recovery.run_if_due()
    assert connection.smembers("rq:groups") == set()
    assert 590_000 < connection.pttl(Group.REDIS_GROUP_CLEANING_KEY) <= 599_000


def test_what_is_no_entry(worker: Worker, connection: Redis) -> None:
    """It is taken out of both lists; entries of jobs stay, but for those whose job is gone."""
    enqueue(connection)
    running = worker.start()
    between = enqueue(connection)
    worker.take()
    ours = running.execution.composite_key.encode()
    registry, intermediate = worker.queue.started_job_registry.key, worker.queue.intermediate_queue
    strange: list[Any] = [b"a:b:c", b"\xff\xfe:x", b"no-colon", b"gone:execution"]
    connection.zadd(registry, dict.fromkeys(strange[:3], 4102444800) | {strange[3]: 1})
    for entry in (b"a:b", b"\xff\xfe", b"c:d"):
        connection.rpush(intermediate.key, entry)
    worker.recovery.run_if_due()
    assert connection.zrange(registry, 0, -1) == [ours]
    assert connection.lrange(intermediate.key, 0, -1) == [between.id.encode()]
    assert worker.given_up == []


def test_key_of_another_kind_where_jobs_are_listed(
    worker: Worker, connection: Redis, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the other queues are looked after."""
    other = Queue("other", connection=connection, serializer=JSONSerializer)
    worker.recovery._queues = [other, worker.queue]
    connection.set(other.started_job_registry.key, "x")
    for _ in range(2):
        enqueue(connection)
        expire(worker, worker.start())
        clock[0] += 2.0
        worker.recovery.run_if_due()
    assert len(worker.given_up) == 2
    told = [it for it in caplog.messages if "the records of the queue 'other' are not RQ's" in it]
    assert len(told) == 1


def test_execution_of_another_kind(
    worker: Worker, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows whose it is: it is not taken for lost while its heartbeats come, nor later.

    Its queue is looked after as ever.
    """
    enqueue(connection)
    running = worker.start()
    connection.delete(running.execution.key)
    connection.set(running.execution.key, "x")
    worker.recovery.run_if_due()
    assert running.is_held(connection)
    assert "are not RQ's" not in caplog.text


def test_redis_that_refuses_to_be_looked_at(worker: Worker, connection: Redis) -> None:
    """That is the caller's: nothing is concluded from it."""
    with restricted(connection, "@read") as blind:
        queue = Queue(connection=blind, serializer=JSONSerializer)
        blind_recovery = OrphanRecovery([queue], worker.recorder, lambda _: None)
        with pytest.raises(NoPermissionError):
            blind_recovery.run_if_due()
