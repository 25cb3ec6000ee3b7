"""What is read of queues, jobs and workers as RQ and our workers have recorded them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq.executions import ExecutionRegistry
from rq.results import Result
from rq.utils import utcformat

from simulating import failed_job, register
from warmclip.work.liveness import STARTING
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles
from warmclip.work.queues import all_queues, fetch_jobs, forget_jobs, open_queue, read_states
from warmclip.work.replies import passing_wrong_types, read_members, reply_of, warn_once
from warmclip.work.status import failed_ids, read_status
from warmclip.work.worker_watch import describe_absence, describe_start, require_worker
from warmclip.work.workers import expired_workers, listening, read_workers, unregister

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

CANARY = "warmclip.work.jobs.canary"
START = datetime(2026, 11, 30, tzinfo=UTC)
MODELS = ["a" * 64, "b" * 64]


def test_members_of_a_set(connection: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """In order; what is no name of RQ's is passed by, and three of such are shown, cut short."""
    warn_once.cache_clear()
    connection.sadd("s", "p:b", "p:a", "p:\x1b[2J", b"p:\xff", "a", "z" * 99, "zz")
    for _ in range(2):
        assert read_members(connection, "s", "p:") == ["a", "b"]
    (record,) = caplog.records
    shown = record.getMessage().partition("passed by: ")[2].split(", ")
    assert shown == ["'a'", repr("p:\x1b[2J"), repr("p:\N{REPLACEMENT CHARACTER}")]
    connection.srem("s", "a", "p:\x1b[2J")
    read_members(connection, "s", "p:")
    assert caplog.records[-1].getMessage().endswith(f", '{'z' * 50}'")
    caplog.clear()
    connection.delete("s")
    assert read_members(connection, "s", "p:") == []
    assert caplog.records == []


def test_transaction_with_a_key_of_another_kind(connection: Redis) -> None:
    """RQ's own transactions pass it by; any other refusal is an error."""
    connection.set("s", "x")
    with passing_wrong_types(), connection.pipeline() as pipeline:
        pipeline.sadd("s", "a")
        pipeline.set("t", "y")
        pipeline.execute()
    assert connection.get("t") == b"y"
    with pytest.raises(ResponseError, match="unknown command"), passing_wrong_types():
        reply_of(connection, "NOSUCHCOMMAND")


def fail(connection: Redis, number: int, queue: str = "default") -> None:
    """A job that failed at this second, in RQ's registry for as long as it was told."""
    job = failed_job(
        open_queue(connection, queue), CANARY, f"{queue}-{number}", ttl_s=10_000 + number
    )
    connection.hset(job.key, "ended_at", utcformat(START + timedelta(seconds=number)))
    Result.create(job, Result.Type.FAILED, 60, exc_string=f"ValueError: {number}")


def test_queues_and_their_jobs(connection: Redis) -> None:
    """By name, with how many jobs are in each state and how long the next one has waited."""
    assert read_status(connection).queues == ()
    high, default = open_queue(connection, "high"), open_queue(connection)
    for number in range(3):
        high.enqueue(CANARY, job_id=str(number))
    connection.hset("rq:job:0", "enqueued_at", utcformat(datetime.now(UTC) - timedelta(hours=1)))
    for registry, count in (
        (default.started_job_registry, 1),
        (default.finished_job_registry, 2),
        (default.failed_job_registry, 4),
    ):
        connection.zadd(registry.key, {str(number): 5e9 for number in range(count)})
    connection.sadd("rq:queues", default.key)
    found = {it.name: it for it in read_status(connection).queues}
    assert list(found) == ["default", "high"]
    first, second = found["default"], found["high"]
    assert (first.queued, first.started, first.finished, first.failed) == (0, 1, 2, 4)
    assert (second.queued, second.started, second.finished, second.failed) == (3, 0, 0, 0)
    assert first.oldest_s is None
    assert second.oldest_s is not None
    assert 3600 <= second.oldest_s < 3660
    connection.hset("rq:job:0", "enqueued_at", utcformat(datetime.now(UTC) + timedelta(hours=1)))
    assert [it.oldest_s for it in read_status(connection).queues] == [None, 0.0]
    connection.hdel("rq:job:0", "enqueued_at")
    assert [it.oldest_s for it in read_status(connection).queues] == [None, None]
    assert [it.name for it in all_queues(connection)] == ["default", "high"]


def test_latest_failures(connection: Redis) -> None:
    """The latest twenty of all queues, each with its reason."""
    for number in range(15):
        fail(connection, 2 * number, "default")
        fail(connection, 2 * number + 1, "other")
    found = read_status(connection).failures
    assert [it.reason for it in found] == [f"ValueError: {number}" for number in range(29, 9, -1)]
    assert (found[0].job, found[0].queue, found[0].function) == ("other-29", "other", CANARY)
    assert found[0].ended_at == (START + timedelta(seconds=29)).isoformat()


def test_failure_without_a_record_of_its_own(connection: Redis) -> None:
    """One that has no end, no reason, or is not in JSON is told as far as it goes, and last."""
    fail(connection, 5)
    fail(connection, 9)
    connection.hdel("rq:job:default-9", "ended_at")
    connection.hset("rq:job:default-9", "data", b"no JSON")
    connection.delete("rq:results:default-9")
    with_reason, without = read_status(connection).failures
    assert with_reason.job == "default-5"
    assert (without.function, without.reason, without.ended_at) == (
        "(not in JSON)",
        "no reason was recorded",
        None,
    )


def test_ids_of_failed_jobs(connection: Redis) -> None:
    """The latest first, so many; what can be no id is left out."""
    queue = open_queue(connection)
    ids = {"a": 1, "b-2": 2, "c_3": 3, "evil one": 4}
    connection.zadd(queue.failed_job_registry.key, ids)
    assert failed_ids(queue) == ["c_3", "b-2", "a"]
    assert failed_ids(queue, 0) == ["c_3", "b-2", "a"]
    assert failed_ids(queue, 1) == []
    assert failed_ids(queue, 2) == ["c_3"]
    assert failed_ids(queue, 4) == ["c_3", "b-2", "a"]


def test_pictures_that_were_set_aside(connection: Redis) -> None:
    """They are counted."""
    for name in ("/a.png", "/b.png"):
        file = PoisonedFile.describe(name, "it kills", job="j", collection=None)
        PoisonedFiles(connection).add(file)
    status = read_status(connection)
    assert status.dead == 2
    assert status.to_dict() == {"queues": (), "workers": (), "failures": (), "dead": 2}


def test_states_of_many_jobs(connection: Redis) -> None:
    """In the order in which they were asked for."""
    ids = [f"j{number}" for number in range(600)]
    for number in (0, 255, 256, 511, 512, 599):
        connection.hset(f"rq:job:j{number}", "status", f"s{number}")
    connection.set("rq:job:j1", "x")
    states = read_states(open_queue(connection), ids)
    assert len(states) == 600
    assert {n: state for n, state in enumerate(states) if state is not None} == {
        number: f"s{number}" for number in (0, 255, 256, 511, 512, 599)
    }
    assert read_states(open_queue(connection), []) == []


def test_forgotten_jobs(connection: Redis) -> None:
    """Nothing of them is left; others stay."""
    for number in range(2):
        fail(connection, number)
    queue = open_queue(connection)
    connection.zadd(queue.finished_job_registry.key, {"default-0": 5e9, "default-1": 5e9})
    executions = ExecutionRegistry("default-0", connection).key
    connection.zadd(executions, {"e": 5e9})
    with connection.pipeline() as pipeline:
        forget_jobs(pipeline, queue, ["default-0"])
        pipeline.execute()
    assert list(connection.scan_iter("*default-0*")) == []
    assert list(fetch_jobs(connection, ["default-0", "default-1"])) == ["default-1"]
    for registry in (queue.failed_job_registry, queue.finished_job_registry):
        assert connection.zrange(registry.key, 0, -1) == [b"default-1"]


def run(connection: Redis, worker: str, entry: str, *, is_alive: bool = True) -> None:
    """Have a worker run a job, as RQ records it."""
    connection.sadd(f"rq:worker:{worker}:executions", entry)
    if is_alive:
        connection.hset(f"rq:execution:{entry}", "id", "x")


def test_worker(connection: Redis) -> None:
    """What its record says of it, and the job that it runs."""
    at = json.dumps(["job", 3, 9, "decode"])
    models = ",".join(["", MODELS[0], "x", MODELS[1]])
    register(connection, "b", "high", "", "low", at=at, models=models, trouble="t" * 2000)
    register(connection, "a", last_heartbeat="2026-11-30T00:00:00Z", state="busy", pid="123456789")
    run(connection, "b", "gone:e", is_alive=False)
    run(connection, "b", "job:e")
    run(connection, "b", "odd:e:e")
    run(connection, "b", "odd")
    first, second = read_workers(connection)
    assert (first.name, first.state, first.pid, first.job) == ("a", "busy", 123456789, None)
    assert (first.at, first.models, first.trouble) == (None, (), "")
    assert first.last_heartbeat == "2026-11-30T00:00:00+00:00"
    assert (second.name, second.hostname, second.queues) == ("b", "elsewhere", ("high", "low"))
    assert (second.job, second.at) == ("job", (3, 9, "decode"))
    assert second.models == tuple(MODELS)
    assert second.trouble == "t" * 1000


@pytest.mark.parametrize(
    ("state", "job", "at", "expected"),
    [
        ("busy", "j", ["j", 1, 2, "s"], (1, 2, "s")),
        ("busy", "k", ["j", 1, 2, "s"], None),  # of the job before
        ("idle", "", ["j", 1, 2, "s"], None),
        (STARTING, "", [STARTING, 1, 2, "s"], (1, 2, "s")),
        ("idle", "", [STARTING, 1, 2, "s"], None),
        (STARTING, "j", ["j", 1, 2, "s"], None),
        ("busy", "j", ["j", 1, 2], None),
        ("busy", "j", ["j", "x", 2, "s"], None),
        ("busy", "j", 7, None),
    ],
)
def test_how_far_a_job_is(
    connection: Redis, state: str, job: str, at: Any, expected: tuple[int, int, str] | None
) -> None:
    """What was told of this very job, or of the start of a worker that starts."""
    register(connection, "w", state=state, at=json.dumps(at))
    if job:
        run(connection, "w", f"{job}:e")
    (worker,) = read_workers(connection)
    assert worker.at == expected


@pytest.mark.parametrize("pid", ["0", "", "x", "1234567890", "\u0663"])
def test_record_that_is_no_workers(connection: Redis, pid: str) -> None:
    """Without the number of a process it is none."""
    register(connection, "w", pid=pid)
    assert read_workers(connection) == []
    assert not listening(connection, "default")


@pytest.mark.parametrize("beat", ["", "yesterday", "2026-13-01"])
def test_heartbeat_that_is_no_time(connection: Redis, beat: str) -> None:
    """The worker is told, without one."""
    register(connection, "a", last_heartbeat=beat, state="busy", pid="123456789")
    assert [it.last_heartbeat for it in read_workers(connection)] == [None]


def test_who_listens(connection: Redis) -> None:
    """Workers of that queue; those without a record have to be forgotten."""
    register(connection, "a", "default")
    register(connection, "b", "high", "default")
    register(connection, "c", "high")
    assert [it.name for it in read_workers(connection, "default")] == ["a", "b"]
    assert require_worker(connection, "high") == 2
    assert not listening(connection, "low")
    assert describe_absence(connection, "low").endswith("listen on default, high (--queues)")
    connection.delete("rq:worker:b")
    assert expired_workers(connection, "default") == ["b"]
    unregister(connection, "default", ["b"])
    unregister(connection, "high", [])
    assert connection.smembers("rq:workers") == {b"rq:worker:a", b"rq:worker:c"}
    assert connection.smembers("rq:workers:default") == {b"rq:worker:a"}
    assert connection.smembers("rq:workers:high") == {b"rq:worker:b", b"rq:worker:c"}


def test_workers_that_start(connection: Redis) -> None:
    """It is a start while none of them has its model; the first that tells how far is told."""
    assert describe_start([]) is None
    register(connection, "a", state=STARTING)
    assert describe_start(read_workers(connection)) == "a worker is starting"
    register(connection, "b", state=STARTING, at=json.dumps([STARTING, 0, 4, "loading"]))
    told = "a worker is starting: loading, 1 of 4"
    assert describe_start(read_workers(connection)) == told
    register(connection, "c", state="busy")
    assert describe_start(read_workers(connection)) is None
