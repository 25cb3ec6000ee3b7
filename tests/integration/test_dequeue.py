"""How jobs are taken out of queues, in a real Redis to which others write."""

import time

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq.queue import Queue

from standins.redis_server import restricted
from warmclip.work.dequeue import Dequeuer
from warmclip.work.queues import open_queue

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

FUNCTION = "warmclip.work.jobs.embed_texts"


@pytest.fixture
def queues(connection: Redis) -> list[Queue]:
    """The more urgent one first."""
    return [open_queue(connection, "high"), open_queue(connection)]


def take(dequeuer: Dequeuer) -> tuple[str, str] | None:
    """The next job and its queue."""
    taken = dequeuer.take()
    return None if taken is None else (taken[0].id, taken[1].name)


def between(queue: Queue) -> list[str]:
    """The jobs that were taken, and have not begun."""
    ids: list[str] = queue.intermediate_queue.get_job_ids()
    return ids


def test_order(connection: Redis, queues: list[Queue]) -> None:
    """The urgent queue first, each from its head; a job that was taken is not lost."""
    high, default = queues
    for queue, id_ in ((default, "c"), (high, "a"), (high, "b")):
        queue.enqueue(FUNCTION, args=(["a"],), job_id=id_)
    dequeuer = Dequeuer(connection, queues)
    assert [take(dequeuer) for _ in range(4)] == [
        ("a", "high"),
        ("b", "high"),
        ("c", "default"),
        None,
    ]
    assert (between(high), between(default)) == (["a", "b"], ["c"])
    assert (high.job_ids, default.job_ids) == ([], [])


def test_id_of_no_job(connection: Redis, queues: list[Queue]) -> None:
    """It is dropped for good, and the next one is taken."""
    high, _ = queues
    connection.rpush(high.key, "expired", b"\xff")
    high.enqueue(FUNCTION, args=(["a"],), job_id="a")
    assert take(Dequeuer(connection, queues)) == ("a", "high")
    assert between(high) == ["a"]


def test_same_id_in_between(connection: Redis, queues: list[Queue]) -> None:
    """Dropping one that expired leaves the entry of whoever took it before to recovery."""
    high, _ = queues
    connection.rpush(high.intermediate_queue.key, "expired", "other")
    connection.rpush(high.key, "expired")
    assert take(Dequeuer(connection, queues)) is None
    assert sorted(between(high)) == ["expired", "other"]


def test_key_that_is_no_queue(
    connection: Redis, queues: list[Queue], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are read; it is said once, and again if it becomes none once more."""
    high, default = queues
    dequeuer = Dequeuer(connection, queues)
    for number in (1, 2):
        connection.set(high.key, "x")
        for id_ in ("a", "b"):
            default.enqueue(FUNCTION, args=(["a"],), job_id=id_)
            assert take(dequeuer) == (id_, "default")
        assert caplog.text.count("is no queue") == number
        connection.delete(high.key)
        assert take(dequeuer) is None


def test_wait(connection: Redis, queues: list[Queue]) -> None:
    """Without a job, a worker looks about every half second, not all the time."""
    began = time.monotonic()
    Dequeuer(connection, queues).wait()
    assert time.monotonic() - began >= 0.5


def test_refusal(connection: Redis, queues: list[Queue]) -> None:
    """What Redis refuses otherwise is the caller's, and no reason to pass a queue by."""
    with restricted(connection, "lmove") as reader:
        theirs = [open_queue(reader, queue.name) for queue in queues]
        with pytest.raises(ResponseError, match="lmove"):
            Dequeuer(reader, theirs).take()
