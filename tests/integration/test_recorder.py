"""What becomes of jobs in Redis, where answers are lost and others write at the same moment.

Each race is forced: something happens between what a transaction reads and what it writes.
"""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.group import Group
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.repeat import Repeat
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp, now

from standins.recording_worker import FUNCTION, Worker, enqueue, is_nowhere, results
from warmclip.work import recovery
from warmclip.work.allowlist import AllowedJob
from warmclip.work.horse.report import Outcome
from warmclip.work.recorder import Running
from warmclip.work.rq_worker import LIFE_S

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture
def worker(connection: Redis) -> Worker:
    """The one that runs the job."""
    return Worker(connection, "mine")


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


@pytest.mark.parametrize("value", [None, 1, "a", "null", [1], {"a": None}, True, False])
def test_return_value(worker: Worker, connection: Redis, value: Any) -> None:
    """It is what the job returned, whatever JSON that is."""
    job = enqueue(connection)
    worker.finish(worker.start(), text=json.dumps(value))
    assert job.return_value() == value


def test_fewer_repeats_than_none(worker: Worker, connection: Redis) -> None:
    """A record that says so repeats nothing."""
    job = enqueue(connection, repeat=Repeat(times=1))
    running = worker.start()
    running.job.repeats_left = -1
    worker.finish(running)
    assert is_nowhere(worker, job)
    assert job.get_status() == JobStatus.FINISHED


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
