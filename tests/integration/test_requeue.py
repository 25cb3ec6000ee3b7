"""Another chance for pictures that were set aside and jobs that failed, on a real Redis."""

from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from simulating import SimulatedWorker, before_next_write, failed_job
from warmclip.inference.reading import digest_name
from warmclip.settings import Settings
from warmclip.work import requeue
from warmclip.work.poisoned_files import KnownPoisonedFiles, PoisonedFile, PoisonedFiles
from warmclip.work.queues import open_queue
from warmclip.work.requeue import requeue_failed, requeue_poisoned

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


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


def fail(
    connection: Redis, name: str, *, queue: str = "default", function: str = "index_images"
) -> None:
    """A job on one picture that failed."""
    failed_job(
        open_queue(connection, queue),
        f"warmclip.work.jobs.{function}",
        name,
        args=([f"/{name}.png"], "images"),
    )


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


@pytest.mark.parametrize("function", ["forget_images", "search_many"])
def test_failed_job_that_indexes_nothing(connection: Redis, function: str) -> None:
    """It is queued again as well, and its list is none of pictures to index."""
    fail(connection, "a", function=function)
    assert requeue_failed(connection) == (["a"], 0)


def test_failed_job_of_nothing(connection: Redis) -> None:
    """It is queued again as well, for a worker to refuse it."""
    failed_job(open_queue(connection), "warmclip.work.jobs.index_images", "a")
    assert requeue_failed(connection) == (["a"], 0)


def test_failed_job_that_two_queue_again(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is queued once."""
    fail(connection, "a")
    with before_next_write(monkeypatch, lambda: requeue_failed(connection)):
        assert requeue_failed(connection) == ([], 0)
    assert connection.lrange("rq:queue:default", 0, -1) == [b"a"]


@pytest.mark.parametrize("tries", [1, 2])
def test_another_job_fails_meanwhile(
    connection: Redis, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """It is tried again; a job that is told of as queued is queued, and any other has failed."""
    monkeypatch.setattr(requeue, "_MOST_TRIES", tries)
    fail(connection, "a")
    with before_next_write(monkeypatch, lambda: fail(connection, "b")):
        told, _ = requeue_failed(connection)
    assert told == (["a"] if tries > 1 else [])
    assert connection.lrange("rq:queue:default", 0, -1) == [name.encode() for name in told]
    assert connection.zcard("rq:failed:default") == 2 - len(told)
