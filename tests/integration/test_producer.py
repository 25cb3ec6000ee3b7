"""Queueing index jobs, again and again, on a real Redis without workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from simulating import SimulatedWorker, before_next_write
from standins.redis_server import redis_server
from warmclip.settings import Settings
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles
from warmclip.work.producer import requeue_dead, submit_files
from warmclip.work.queues import open_queue

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


def test_requeue_that_is_cut_short(
    connection: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it, a picture is set aside or queued: it is never in neither place."""
    poisoned, queue = PoisonedFiles(connection), open_queue(connection)
    for number in range(3):
        poisoned.add(
            PoisonedFile.write(f"/{number}.png", "it killed", job="j", collection=f"c{number % 2}")
        )
    poisoned.add(PoisonedFile.write("/query.png", "it killed", job="j", collection=None))

    def die() -> None:
        raise KeyboardInterrupt

    with (
        before_next_write(monkeypatch, die, watched=False),
        pytest.raises(KeyboardInterrupt),
    ):
        requeue_dead(connection, settings)
    assert (poisoned.count(), queue.count) == (4, 0)
    jobs, images = requeue_dead(connection, settings)
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
