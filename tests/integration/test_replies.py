"""What is read from Redis while it refuses for a while: it is waited for, whoever reads."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from running import eventually
from standins.redis_server import RedisServer
from standins.refusals import ALL, PASSWORD, REFUSALS, order, refusing_redis
from warmclip.work.counters import CounterBuffer, read_counters
from warmclip.work.keys import WORKER_PREFIX, WORKERS
from warmclip.work.model_switch import ModelSwitch, announce, read_switches
from warmclip.work.patience import Patience
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles
from warmclip.work.queues import open_queue, read_states
from warmclip.work.replies import read_members, reply_of
from warmclip.work.status import failed_ids, read_status
from warmclip.work.workers import read_workers

pytestmark = pytest.mark.usefixtures("server_binary")

SWITCH = ModelSwitch(collection="images", former="a" * 64, now="b" * 64)
FILE = PoisonedFile.describe("/photos/a.png", "it kills", job="1", collection=None)

# Who reads -> what must come of what ``fill`` has written.
READERS: dict[str, tuple[Callable[[Redis], Any], Any]] = {
    "one command": (lambda redis: reply_of(redis, "GET", "greeting"), b"hello"),
    "a key of another type": (lambda redis: reply_of(redis, "HLEN", "greeting"), None),
    "switches": (read_switches, [SWITCH]),
    "how many are set aside": (lambda redis: PoisonedFiles(redis).count(), 1),
    "which are set aside": (lambda redis: PoisonedFiles(redis).all(), [FILE]),
    "counters": (read_counters, {"jobs": 3}),
    "members": (lambda redis: read_members(redis, WORKERS, WORKER_PREFIX), ["mine"]),
    "workers": (lambda redis: [it.pid for it in read_workers(redis)], [4711]),
    "states": (lambda redis: read_states(open_queue(redis), ["job", "none"]), ["failed", None]),
    "failed jobs": (lambda redis: failed_ids(open_queue(redis)), ["job"]),
    "status": (lambda redis: [it.failed for it in read_status(redis).queues], [1]),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that can be made to refuse, with something of everything in it."""
    with refusing_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def connection(server: RedisServer) -> Iterator[Redis]:
    """A worker's, with patience."""
    fill(server.admin)
    url = server.url("worker", PASSWORD)
    with Redis.from_url(url, retry=Patience(120.0)) as connection:
        yield connection


def fill(redis: Redis) -> None:
    """Write what the readers read."""
    redis.flushall()
    redis.set("greeting", "hello")
    announce(redis, SWITCH)
    PoisonedFiles(redis).add(FILE)
    redis.hset("rq:warmclip:totals", "jobs", 3)
    redis.sadd(WORKERS, f"{WORKER_PREFIX}mine")
    redis.hset(f"{WORKER_PREFIX}mine", mapping={"pid": 4711, "queues": "default"})
    queue = open_queue(redis)
    redis.sadd(queue.redis_queues_keys, queue.key)
    redis.hset("rq:job:job", "status", "failed")
    redis.zadd(queue.failed_job_registry.key, {"job": 2_000_000_000})


def while_refused(
    server: RedisServer,
    refused: str,
    act: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
) -> Any:
    """Begin this while Redis refuses; it must say that it waits, and be done afterwards."""
    done = threading.Event()

    def run() -> Any:
        try:
            return act()
        finally:
            done.set()

    caplog.set_level(logging.WARNING)
    with ThreadPoolExecutor(1) as pool:
        with REFUSALS[refused](server):
            begun = pool.submit(run)
            eventually(lambda: done.is_set() or "Redis refuses" in caplog.text)
            assert not done.is_set(), begun.exception() or "it was not refused"
        return begun.result()


@pytest.mark.parametrize("refused", ["NOPERM, by key", "MASTERDOWN"])
@pytest.mark.parametrize("reader", READERS)
def test_refused_for_a_while(
    server: RedisServer,
    connection: Redis,
    reader: str,
    refused: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever reads waits with the connection's patience, and then has the answer."""
    read, expected = READERS[reader]
    assert while_refused(server, refused, lambda: read(connection), caplog) == expected


@pytest.mark.parametrize("refused", ["OOM", "READONLY", "NOPERM, by key"])
def test_counts_are_added_once(
    server: RedisServer, connection: Redis, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However often they were sent."""
    counts = CounterBuffer()
    counts.add("jobs", 2)
    counts.keep_points("images", 7)
    while_refused(server, refused, lambda: counts.flush(connection), caplog)
    assert read_counters(connection) == {"jobs": 5, "points:images": 7}


def test_a_part_is_refused(
    server: RedisServer, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts that Redis would take are not added as often as others are refused."""
    counts = CounterBuffer()
    counts.add("jobs", 2)
    counts.keep_points("images", 7)

    def permit() -> None:
        eventually(lambda: "Redis refuses" in caplog.text)
        order(server, f"ACL SETUSER worker {ALL}")

    order(server, "ACL SETUSER worker -hset")
    with ThreadPoolExecutor(1) as pool:
        permitted = pool.submit(permit)
        counts.flush(connection)
        permitted.result()
    assert read_counters(connection) == {"jobs": 5, "points:images": 7}


def test_without_patience(server: RedisServer) -> None:
    """A refusal is told at once to those who ask for people, and so is what is no refusal."""
    fill(server.admin)
    with Redis.from_url(server.url("worker", PASSWORD)) as connection:
        with REFUSALS["NOPERM, by key"](server), pytest.raises(NoPermissionError):
            read_switches(connection)
        with pytest.raises(ResponseError, match="unknown command"):
            reply_of(connection, "NOSUCHCOMMAND")
