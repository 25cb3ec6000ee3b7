"""How long clients wait for workers that are there and do not answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from simulating import register
from standins.clock import Clock
from standins.redis_server import redis_server
from warmclip.errors import QueueUnreachable
from warmclip.work import worker_watch
from warmclip.work.keys import WORKER_PREFIX, WORKERS, workers_key
from warmclip.work.model_switch import Turn
from warmclip.work.worker_watch import WorkerWatch, require_worker, wait_for_start

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]

_RECORD: dict[Any, Any] = {"pid": 4711, "queues": "high", "state": "starting"}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Redis]:
    """To a Redis with the record of a worker that says it is starting, and does nothing else."""
    with redis_server(tmp_path) as server, Redis.from_url(server.url()) as connection:
        key = f"{WORKER_PREFIX}mine"
        connection.sadd(WORKERS, key)
        connection.sadd(workers_key("high"), key)
        tell_stage(connection, 0)
        yield connection


def tell_stage(connection: Redis, done: int) -> None:
    """Have the worker tell how far its start is."""
    at = json.dumps(["starting", done, 4, "loading"])
    connection.hset(f"{WORKER_PREFIX}mine", mapping=_RECORD | {"at": at})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of whoever waits."""
    clock = Clock()
    monkeypatch.setattr(worker_watch, "time", clock)
    return clock


def test_start_without_end(
    connection: Redis,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever waits is told so, once and not at the very beginning, and not held for ever."""
    monkeypatch.setattr(worker_watch, "LONGEST_STAGE_S", 90.0)
    began = clock.now
    with pytest.raises(QueueUnreachable, match=r"starting: loading, 1 of 4, .*nothing new.*log"):
        wait_for_start(connection, "high")
    assert 90 < clock.now - began < 92
    (record,) = caplog.records
    assert record.getMessage() == "waiting: a worker is starting: loading, 1 of 4"


def test_start_that_takes_a_moment(
    connection: Redis, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said of it."""
    clock.on_sleep = lambda: connection.hset(f"{WORKER_PREFIX}mine", "state", "idle")
    wait_for_start(connection, "high")
    assert caplog.records == []
    assert len(clock.slept) == 1


def test_longest_start(connection: Redis, clock: Clock) -> None:
    """The error says how long nothing new was told."""
    watch = WorkerWatch(connection, "high", 60.0)
    for wait_s in (10.0, 1799.0):
        clock.now += wait_s
        watch.check()
    clock.now += 3.0
    with pytest.raises(QueueUnreachable, match=r"nothing new for 30 minutes"):
        watch.check()


def test_nobody_listens(connection: Redis, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and is an error after the time that was given; a worker ends that time."""
    watch = WorkerWatch(connection, "low", 60.0)
    watch.check()
    assert caplog.records == []  # it looks every two seconds
    for wait_s in (2.0, 30.0, 29.9):
        clock.now += wait_s
        watch.check()
    (record,) = caplog.records
    assert record.getMessage() == (
        "no worker is listening on the queue 'low': the workers that are there listen on high "
        "(--queues); start one with `warmclip worker` (waiting 60 s)"
    )
    register(connection, "late", "low")
    clock.now += 2.0
    watch.check()
    connection.delete(f"{WORKER_PREFIX}late")
    for wait_s in (50.0, 59.9):
        clock.now += wait_s
        watch.check()
    assert len(caplog.records) == 2
    clock.now += 2.0
    with pytest.raises(QueueUnreachable, match="The jobs stay queued"):
        watch.check()


def test_workers_whose_records_expired(connection: Redis, clock: Clock) -> None:
    """They get the time to register again, once; with none that ever listened, nobody waits."""
    with pytest.raises(QueueUnreachable, match=r"'low': .* listen on high"):
        require_worker(connection, "low")
    assert clock.slept == []
    connection.delete(f"{WORKER_PREFIX}mine")
    began = clock.now
    with pytest.raises(QueueUnreachable, match="no worker is listening on the queue 'high'; run"):
        require_worker(connection, "high")
    assert clock.now - began == pytest.approx(8.0, abs=0.25)
    assert connection.smembers(workers_key("high")) == set()
    connection.sadd(workers_key("high"), f"{WORKER_PREFIX}mine")
    clock.on_sleep = lambda: tell_stage(connection, 0)
    assert require_worker(connection, "high") == 1


def test_start_that_goes_on(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new stage has its own time, and so has each job that ended; then nobody waits."""
    watch = WorkerWatch(connection, "high", 60.0)
    monkeypatch.setattr(worker_watch, "_CHECK_S", 0.0)
    watch.reset()
    watch.check()
    monkeypatch.setattr(worker_watch, "LONGEST_STAGE_S", 0.0)
    for done in (1, 2):
        tell_stage(connection, done)
        watch.check()
        assert watch.start == f"a worker is starting: loading, {done + 1} of 4"
    watch.reset()
    watch.check()
    with pytest.raises(QueueUnreachable, match="nothing new"):
        watch.check()
    connection.hset(f"{WORKER_PREFIX}mine", "state", "idle")
    watch.check()
    assert watch.start is None


@pytest.mark.parametrize("lifetime_s", [None, 10**9])
def test_turn_of_nobody(connection: Redis, lifetime_s: int | None) -> None:
    """A turn to load a model ends, whoever has written that it is somebody's."""
    connection.set("rq:warmclip:loading", "nobody", ex=lifetime_s)
    assert not Turn(connection, "mine").take()
    assert 0 < connection.ttl("rq:warmclip:loading") <= 60
