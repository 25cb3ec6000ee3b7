"""Queueing index jobs, again and again, on a real Redis without workers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from rq.job import JobStatus

from simulating import SimulatedWorker, before_next_write
from standins.redis_server import redis_server
from warmclip.inference.reading import digest_name
from warmclip.settings import Settings
from warmclip.work.poisoned_files import KnownPoisonedFiles, PoisonedFile, PoisonedFiles
from warmclip.work.producer import submit_files
from warmclip.work.queues import open_queue
from warmclip.work.requeue import requeue_failed, requeue_poisoned

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Redis]:
    """A server of the test's own."""
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        yield server.admin


@pytest.fixture
def settings(demo_bundle: Path) -> Settings:
    """A client's."""
    return Settings(bundle=demo_bundle)


def test_uploads_that_killed(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the latest are remembered, they push out no file, and another chance forgets them."""
    monkeypatch.setattr("warmclip.work.poisoned_files._MOST_SENT", 20)
    poisoned, told = PoisonedFiles(connection), KnownPoisonedFiles()
    file = PoisonedFile.describe("/a.png", "it killed", job="j", collection="c")
    poisoned.add(file)
    names = [digest_name(bytes([number])) for number in range(50)]
    for number, name in enumerate(names):
        sent = PoisonedFile.describe(name, "it killed", job="j", collection=None)
        day = f"2026-11-{number // 24 + 1:02}T{number % 24:02}:00:00+00:00"
        assert poisoned.add(replace(sent, at=day))
    kept = [each.path for each in poisoned.known()]
    assert 18 <= len(kept) - 1 <= 20
    assert set(kept) == {"/a.png", *names[50 - len(kept) + 1 :]}
    told.replace(each.to_dict() for each in poisoned.known())
    assert "was set aside: it killed" in str(told.reason(names[-1]))
    assert told.reason(names[0]) is None
    poisoned.remove(kept)
    assert poisoned.count() == 0


def test_requeue_that_is_cut_short(
    connection: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it, a picture is set aside or queued: it is never in neither place."""
    poisoned, queue = PoisonedFiles(connection), open_queue(connection)
    for number in range(3):
        poisoned.add(
            PoisonedFile.describe(
                f"/{number}.png", "it killed", job="j", collection=f"c{number % 2}"
            )
        )
    poisoned.add(PoisonedFile.describe("/query.png", "it killed", job="j", collection=None))

    def die() -> None:
        raise KeyboardInterrupt

    with (
        before_next_write(monkeypatch, die, watched=False),
        pytest.raises(KeyboardInterrupt),
    ):
        requeue_poisoned(connection, settings)
    assert (poisoned.count(), queue.count) == (4, 0)
    jobs, images = requeue_poisoned(connection, settings)
    assert (len(jobs), images) == (2, 3)
    assert (poisoned.count(), queue.count) == (0, 2)


def test_same_work_is_not_queued_twice(connection: Redis, settings: Settings) -> None:
    """A job that waits or runs is left alone; one that has ended is queued again."""
    queue, worker = open_queue(connection), SimulatedWorker(connection)
    for _ in range(2):
        assert submit_files(connection, settings, ["/a.png"]).images == 1
        assert queue.count == 1
    job = worker.take_one()
    submit_files(connection, settings, ["/a.png"])
    worker.start(job)
    submit_files(connection, settings, ["/a.png"])
    assert queue.count == 0
    worker.finish(job)
    submit_files(connection, settings, ["/a.png"])
    assert queue.count == 1


def fail(connection: Redis, name: str, *, queue: str = "default") -> str:
    """A job that failed for good, as RQ records it; returns its id."""
    job = open_queue(connection, queue).enqueue(
        "warmclip.work.jobs.index_images", args=([f"/{name}.png"], "images"), job_id=name
    )
    connection.lrem(open_queue(connection, queue).key, 1, job.id)
    job.set_status(JobStatus.FAILED)
    open_queue(connection, queue).failed_job_registry.add(job, ttl=3600)
    connection.expire(job.key, 3600)
    return name


def test_failed_jobs_are_queued_again(connection: Redis) -> None:
    """Each in its own queue, once; what is no job is passed by and left where it is."""
    fail(connection, "a")
    fail(connection, "b", queue="other")
    connection.zadd("rq:failed:default", {b"\xff": 1, b"gone": 1})
    assert requeue_failed(connection) == (["a", "b"], 2)
    assert requeue_failed(connection) == ([], 0)
    assert connection.lrange("rq:queue:default", 0, -1) == [b"a"]
    assert connection.lrange("rq:queue:other", 0, -1) == [b"b"]
    assert (connection.hget("rq:job:a", "status"), connection.ttl("rq:job:a")) == (b"queued", -1)
    assert connection.zcard("rq:failed:default") == 2
    assert SimulatedWorker(connection).run_all() == 1


def test_failed_job_that_two_queue_again(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is queued once."""
    fail(connection, "a")
    with before_next_write(monkeypatch, lambda: requeue_failed(connection)):
        assert requeue_failed(connection) == ([], 0)
    assert connection.lrange("rq:queue:default", 0, -1) == [b"a"]
