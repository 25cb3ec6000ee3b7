"""A worker waits for all of its queues at once, and loses nothing by it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from running import eventually
from standins.redis_server import RedisServer, redis_server, restricted
from warmclip.work.patience import Patience
from warmclip.work.queue_watch import QueueWatch

pytestmark = pytest.mark.quick

KEYS = ["rq:queue:high", "rq:queue:default", "rq:queue:low"]
_NEVER_S = 600.0  # a wait that lasts so long has missed its job


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all."""
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    """A worker's connection to an empty Redis, with little patience."""
    server.admin.flushall()
    with Redis(port=server.port, retry=Patience(1.0)) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _answers_for_jobs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis never answers that there was no job, however slow the machine is."""
    monkeypatch.setattr("warmclip.work.queue_watch._ANSWER_S", 600)


@contextmanager
def waiting(watch: QueueWatch, redis: Redis, watched: int = len(KEYS)) -> Iterator[None]:
    """Wait on a thread, and begin the block when so many queues are watched in all.

    The wait has to end with the block.
    """
    thread = threading.Thread(target=watch.wait, args=(_NEVER_S,), daemon=True)
    thread.start()
    eventually(lambda: _blocked(redis) == watched)
    yield
    thread.join(60)
    assert not thread.is_alive()


def test_watch_that_ends(redis: Redis) -> None:
    """Redis waits for nobody any more, and the connections serve again."""
    watch = QueueWatch(redis, KEYS)
    for _ in range(3):
        watch.wait(0.01)
        assert _blocked(redis) == len(KEYS)
        watch.close()
        eventually(lambda: _blocked(redis) == 0, 20)
    clients = redis.info("clients")["connected_clients"]
    assert clients <= 1 + len(KEYS)


@pytest.mark.parametrize("longest_s", [0.4, 1.5])
def test_no_job_comes(redis: Redis, longest_s: float) -> None:
    """The wait ends when its time has passed, and not before."""
    watch = QueueWatch(redis, KEYS)
    ended: list[float] = []

    def wait() -> None:
        began = time.monotonic()
        watch.wait(longest_s)
        ended.append(time.monotonic() - began)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(10)
    assert ended
    assert ended[0] >= longest_s


def _blocked(redis: Redis) -> int:
    return int(redis.info("clients")["blocked_clients"])


@pytest.mark.parametrize("key", KEYS)
def test_a_job_in_any_queue_ends_the_wait(redis: Redis, key: str) -> None:
    """Not only in the first: and it stays where it is, for whoever takes it."""
    with waiting(QueueWatch(redis, KEYS), redis):
        redis.rpush(key, "one", "two")
    assert redis.lrange(key, 0, -1) == [b"one", b"two"]


def test_every_worker_hears_of_a_job(redis: Redis) -> None:
    """The one that is told may be about to leave."""
    with waiting(QueueWatch(redis, KEYS), redis), waiting(QueueWatch(redis, KEYS), redis, 6):
        redis.rpush(KEYS[1], "one")


def test_a_job_that_came_while_nobody_waited_does_not_hide_the_next(redis: Redis) -> None:
    """The first wait has asked; the answer of the second queue is read by a later one."""
    watch = QueueWatch(redis, KEYS)
    with waiting(watch, redis):
        redis.rpush(KEYS[0], "one")
    redis.delete(KEYS[0])
    redis.rpush(KEYS[1], "two")
    eventually(lambda: _blocked(redis) == 1)
    redis.delete(KEYS[1])
    watch.wait(_NEVER_S)
    with waiting(watch, redis):
        redis.rpush(KEYS[1], "three")


def test_a_key_that_is_no_queue_is_not_asked_again_and_again(redis: Redis) -> None:
    """The others are waited for all the same."""
    redis.set(KEYS[0], "not a list")
    redis.config_resetstat()
    with waiting(QueueWatch(redis, KEYS), redis, 2):
        redis.rpush(KEYS[2], "one")
    # Redis counts what it has answered: the third, and the first once.
    assert redis.info("commandstats")["cmdstat_blmove"]["calls"] == 2


def test_lost_connections_end_the_wait_and_the_next_has_new_ones(redis: Redis) -> None:
    """A restart of Redis is met by the commands of the worker, not here."""
    watch = QueueWatch(redis, KEYS)
    with waiting(watch, redis):
        redis.client_kill_filter(_type="normal", skipme=True)
    with waiting(watch, redis):
        redis.rpush(KEYS[1], "one")


def test_refused(redis: Redis) -> None:
    """It waits for its rights with patience, and says so when they do not come."""
    with (
        restricted(redis, "blmove", retry=Patience(0.2)) as careful,
        pytest.raises(NoPermissionError, match="blmove"),
    ):
        QueueWatch(careful, KEYS).wait(_NEVER_S)


def test_refused_for_a_while(redis: Redis) -> None:
    """Once it may watch, it does."""
    redis.acl_log_reset()
    with restricted(redis, "blmove", retry=Patience(60.0)) as careful:
        watch = QueueWatch(careful, KEYS)
        thread = threading.Thread(target=watch.wait, args=(_NEVER_S,), daemon=True)
        thread.start()
        eventually(redis.acl_log)
        restricted(redis)  # the same user, who may do all again
        eventually(lambda: _blocked(redis) == len(KEYS))
        redis.rpush(KEYS[2], "one")
        thread.join(60)
        assert not thread.is_alive()
        watch.close()
