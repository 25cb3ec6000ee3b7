"""How long clients wait for workers that are there and do not answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from standins.redis_server import redis_server
from warmclip.errors import QueueUnreachable
from warmclip.work import worker_watch
from warmclip.work.keys import WORKER_PREFIX, WORKERS, workers_key
from warmclip.work.model_switch import Turn
from warmclip.work.worker_watch import WorkerWatch, wait_for_start

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


def test_start_without_end(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it is told, and not held for ever."""
    monkeypatch.setattr(worker_watch, "LONGEST_STAGE_S", 1.0)
    with pytest.raises(QueueUnreachable, match=r"starting: loading, 1 of 4, .*nothing new.*log"):
        wait_for_start(connection, "high")


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
