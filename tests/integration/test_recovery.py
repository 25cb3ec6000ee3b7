"""What recovery does with jobs whose worker is gone, and with what is no job: on a real Redis."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from rq.group import Group
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp

from simulating import before_next_write
from standins.recording_worker import FUNCTION, Worker, enqueue
from standins.redis_server import restricted
from warmclip.work import recovery
from warmclip.work.dequeue import Dequeuer
from warmclip.work.liveness import worker_fields
from warmclip.work.recorder import Running
from warmclip.work.recovery import OrphanRecovery

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture
def worker(connection: Redis) -> Worker:
    """The one that runs the job."""
    return Worker(connection, "mine")


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
    worker: Worker, connection: Redis, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has taken it begins just then: it is left to them."""
    job = enqueue(connection)
    taken = worker.take()
    worker.recovery.run_if_due()
    clock[0] += 4.0
    another = Worker(connection, "another")
    with before_next_write(monkeypatch, lambda: another.recorder.start(taken, another.queue)):
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
