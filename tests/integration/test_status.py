"""What is read of queues and workers, whatever others write to the same Redis."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from rq.results import Result

from simulating import SimulatedWorker, failed_job, register
from standins.redis_server import RedisServer, redis_server
from warmclip.errors import JobFailed, QueueUnreachable
from warmclip.settings import Settings
from warmclip.work import call as calling
from warmclip.work.counters import increment, read_counters
from warmclip.work.producer import submit_files, watch
from warmclip.work.queues import fetch_jobs, open_queue
from warmclip.work.replies import warn_once
from warmclip.work.status import read_status
from warmclip.work.worker_watch import require_worker
from warmclip.work.workers import listening

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One of the test's own."""
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def connection(server: RedisServer) -> Redis:
    """An administrator's."""
    warn_once.cache_clear()
    return server.admin


STRANGERS: tuple[Any, ...] = ("evil", b"\xff\xfe", "rq:queue:\x1b[2J", "", "rq:worker:")


def test_strangers_in_the_sets(connection: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """They are passed by, said once, and what is RQ's is told as ever."""
    for key in ("rq:queues", "rq:workers", "rq:workers:default"):
        connection.sadd(key, *STRANGERS)
    open_queue(connection).enqueue("warmclip.work.jobs.canary")
    register(connection, "good")
    register(connection, "forged", pid="zz")
    register(connection, "digits", pid="9" * 5000)
    register(connection, "odd", last_heartbeat="yesterday", state="\x1b[2J")
    connection.sadd("rq:workers", "rq:worker:string", "rq:worker:gone")
    connection.set("rq:worker:string", "x")
    connection.sadd("rq:worker:good:executions", "evil", b"\xff", "a:b:c", "job:gone")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            status = read_status(connection)
    assert {queue.name: queue.queued for queue in status.queues} == {"default": 1}
    assert [(it.name, it.job, it.pid) for it in status.workers] == [
        ("good", None, 7),
        ("odd", None, 7),
    ]
    assert listening(connection, "default")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said))
    assert any("evil" in text for text in said)
    assert connection.scard("rq:workers") == 4 + len(STRANGERS) + 2


@pytest.mark.parametrize("key", ["rq:queues", "rq:workers", "rq:wip:default", "rq:failed:default"])
def test_key_of_another_kind(key: str, connection: Redis) -> None:
    """What it should hold is not told; the rest is."""
    open_queue(connection).enqueue("warmclip.work.jobs.canary")
    register(connection, "good")
    connection.delete(key)
    connection.set(key, "x")
    status = read_status(connection)
    assert len(status.queues) == (key != "rq:queues")
    assert len(status.workers) == (key != "rq:workers")


def test_failures_of_somebody_else(connection: Redis) -> None:
    """Their results and ids may be anything."""
    queue = open_queue(connection)
    job = failed_job(queue, "warmclip.work.jobs.canary", "failed")
    for member in (b"\xff", b"gone", b"a b"):
        connection.zadd(queue.failed_job_registry.key, {member: 5e9})
    connection.set(f"rq:results:{job.id}", "x")
    (failure,) = read_status(connection).failures
    assert "its result in Redis cannot be used" in failure.reason


def test_counting_changes_nothing(connection: Redis, server: RedisServer) -> None:
    """A job whose heartbeats have ceased stays where it is, as does a worker without a record:
    whoever cleans up is a worker. One who may only read is answered.
    """
    queue, worker = open_queue(connection), SimulatedWorker(connection)
    queue.enqueue("warmclip.work.jobs.canary", job_id="slept")
    worker.start(worker.take_one())
    connection.zadd(queue.started_job_registry.key, {"slept:e": 1})
    connection.zadd(queue.finished_job_registry.key, {"old": 1})
    connection.sadd("rq:workers", "rq:worker:gone")
    connection.acl_setuser(
        "reader", enabled=True, nopass=True, keys=["rq:*"], categories=["+@read", "+@connection"]
    )
    with Redis.from_url(server.url("reader", "x")) as reader:
        (counts,) = read_status(reader).queues
        assert not listening(reader, "default")
        assert read_counters(reader) == {}
    assert (counts.started, counts.finished) == (1, 1)
    assert connection.hget("rq:job:slept", "status") == b"started"
    assert connection.zscore(queue.started_job_registry.key, "slept:e") == 1
    assert connection.sismember("rq:workers", "rq:worker:gone")


def test_counts(connection: Redis) -> None:
    """What is no count is left out, and cannot be added to."""
    increment(connection, "jobs", 2)
    connection.hset("rq:warmclip:totals", mapping={"indexed": "9" * 5000, b"\xff": "x", "a": "-1"})
    increment(connection, "indexed")
    increment(connection, "jobs", 3)
    assert read_counters(connection) == {"jobs": 5}
    connection.set("rq:warmclip:totals", "x")
    increment(connection, "jobs")
    assert read_counters(connection) == {}


# No worker


def test_workers_that_listen_elsewhere(connection: Redis) -> None:
    """The error knows that they are there, and where."""
    register(connection, "w", "default", "slow")
    with pytest.raises(QueueUnreachable, match=r"'high': .* listen on default, slow \(--queues\)"):
        calling.call(connection, "canary", {})
    assert connection.llen("rq:queue:high") == 0


def test_redis_that_refuses_writes(connection: Redis) -> None:
    """It is that, and not a worker that is missing: no worker can register."""
    connection.config_set("maxmemory", "1")
    with pytest.raises(OutOfMemoryError):
        calling.call(connection, "canary", {})
    connection.config_set("maxmemory", "0")
    run = submit_files(connection, Settings(bundle=Path("x")), ["/a.png"])
    connection.config_set("maxmemory", "1")
    with pytest.raises(OutOfMemoryError):
        watch(connection, run, worker_wait_s=0)


def test_worker_that_registers_again(connection: Redis) -> None:
    """After Redis was frozen for longer than records live, workers get a heartbeat's time."""
    register(connection, "w")
    connection.delete("rq:worker:w")

    def come_back(_seconds: float) -> None:
        register(connection, "w")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", come_back)
        require_worker(connection, "default")


def test_worker_that_does_not_come_back(connection: Redis) -> None:
    """It is waited for once; then it is forgotten, and the next one is told at once."""
    register(connection, "w")
    connection.delete("rq:worker:w")
    for _ in range(2):
        with pytest.raises(
            QueueUnreachable, match="no worker is listening on the queue 'default'; run"
        ):
            require_worker(connection, "default", return_s=0.3)
        assert connection.smembers("rq:workers") == set()


def test_answer_of_somebody_else(connection: Redis) -> None:
    """What is no answer of ours is an error that says so."""
    register(connection, "w")
    sent = calling.send_call(connection, "canary", {}, timeout_s=60)
    (job,) = fetch_jobs(connection, [sent.id]).values()
    Result.create(job, Result.Type.SUCCESSFUL, 60, return_value=["x"])
    with pytest.raises(JobFailed, match="of one warmclip"):
        sent.wait()
