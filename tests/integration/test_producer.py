"""Queueing index jobs, again and again, on a real Redis without workers."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from rq.job import JobStatus
from rq.results import Result

from simulating import SimulatedWorker
from warmclip.errors import QueueUnreachable
from warmclip.indexing.report import IndexReport
from warmclip.settings import Settings
from warmclip.work.producer import (
    IndexRun,
    clear_ended,
    cut_into_jobs,
    job_id,
    jobs_over,
    report_of,
    submit_files,
    submit_index,
    watch,
)
from warmclip.work.queues import fetch_jobs, open_queue

JOB_ID = "index-my_photos-386f510b4cba37469ea29509c2d0f83a"

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


@pytest.fixture
def settings(demo_bundle: Path) -> Settings:
    """A client's."""
    return Settings(bundle=demo_bundle)


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


def test_jobs_of_a_folder(connection: Redis, settings: Settings, tmp_path: Path) -> None:
    """They are those of its pictures, in the collection; what was not found is told."""
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png", "e.xyz"):
        (tmp_path / "pictures" / name).write_bytes(b"x")
    few = replace(settings, limits=replace(settings.limits, job_items=2), collection="mine")
    missing = str(tmp_path / "missing")
    paths: list[str | Path] = [tmp_path / "pictures", missing]
    run = submit_index(connection, few, paths, exclude=["d.*"], retry_unreadable=True)
    whole = [str(tmp_path / "pictures" / name) for name in ("a.png", "b.png", "c.png")]
    assert (run.collection, run.images, list(run.problems)) == ("mine", 3, [missing])
    assert list(run.chunks.values()) == [tuple(whole[:2]), tuple(whole[2:])]
    assert run.ignored == {"excluded": 1, ".xyz": 1}
    assert open_queue(connection).job_ids == run.job_ids
    job = fetch_jobs(connection, run.job_ids)[run.job_ids[0]]
    assert (job.func_name, job.args) == ("warmclip.work.jobs.index_images", [whole[:2], "mine"])
    assert job.kwargs == {"retry_unreadable": True}
    assert job.description == "index 2 images into mine"
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (900, 86_400, 604_800)
    assert (job.retries_left, job.get_status()) == (2, JobStatus.QUEUED)
    other = submit_index(connection, few, paths[:1], collection="other", chunk=1)
    assert (other.collection, len(other.job_ids)) == ("other", 4)
    assert fetch_jobs(connection, other.job_ids)[other.job_ids[0]].kwargs == {}


def test_cutting(settings: Settings) -> None:
    """Each file is in one job, by its whole path; the job's id follows from them, for ever."""
    files = ["/a.png", "/b.png", "/a.png", "c.png", "/x/../d.png"]
    chunks = cut_into_jobs(settings, files, "my.photos", 3)
    here = str(Path("c.png").absolute())
    assert list(chunks.values()) == [("/a.png", "/b.png", here), ("/d.png",)]
    assert list(chunks) == [job_id("my.photos", part) for part in chunks.values()]
    # A producer of another version must not queue the same work beside it.
    assert job_id("my.photos", ["/b.png", "/a.png"]) == JOB_ID
    assert cut_into_jobs(settings, [], "c", 3) == {}


@pytest.mark.parametrize(
    ("status", "place", "is_fresh"),
    [
        ("queued", "listed", False),
        ("queued", "between", False),
        ("queued", "nowhere", True),
        ("started", "nowhere", False),
        ("deferred", "nowhere", False),
        ("scheduled", "nowhere", False),
        ("finished", "listed", True),
        ("failed", "nowhere", True),
        ("stopped", "nowhere", True),
        ("canceled", "nowhere", True),
    ],
)
def test_job_that_is_there(
    connection: Redis, settings: Settings, status: str, place: str, is_fresh: bool
) -> None:
    """It is left alone if it will still run; else its record is deleted, and it is queued again."""
    submit_files(connection, settings, ["/a.png"])
    queue = open_queue(connection)
    (id_,) = queue.job_ids
    if place != "listed":
        connection.delete(queue.key)
    if place == "between":
        connection.rpush(queue.intermediate_queue.key, id_)
    connection.hset(f"rq:job:{id_}", "status", status)
    fresh = clear_ended(queue, {id_: ("/a.png",), "none": ()})
    assert fresh == ({id_: ("/a.png",)} if is_fresh else {}) | {"none": ()}
    assert connection.exists(f"rq:job:{id_}") == (not is_fresh)


def test_waiting_for_a_run(connection: Redis, settings: Settings) -> None:
    """The reports are added up as jobs end, whatever became of them."""
    few = replace(settings, limits=replace(settings.limits, job_items=1))
    run = replace(
        submit_files(connection, few, ["/a.png", "/b.png", "/c.png"]),
        problems={"/missing": "is not there"},
        closed={"/closed": "nobody is let in"},
        ignored={".txt": 4},
    )
    worker = SimulatedWorker(connection)
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, stage: str) -> None:
        told.append((done, total, stage))
        if len(told) == 1:
            worker.run_one()
            connection.delete(f"rq:job:{run.job_ids[1]}")
        elif done == 2:
            worker.run_all()

    report = watch(connection, run, progress=progress)
    gone = "its job failed: it is gone from Redis"
    assert replace(report, seconds=0.0) == IndexReport(
        collection=settings.collection,
        indexed=2,
        skipped={"/missing": "is not there", "/b.png": gone},
        unreadable={"/closed": "nobody is let in"},
        ignored={".txt": 4},
    )
    assert 0.05 < report.seconds < 600
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert (told[0], told[-1]) == ((0, 3, "indexing"), (3, 3, "indexing"))
    began = time.monotonic()
    nothing = watch(connection, replace(run, chunks={}))
    assert 0 <= nothing.seconds <= time.monotonic() - began


def test_nobody_who_works(connection: Redis, settings: Settings) -> None:
    """Whoever waits is told so, in the time that was asked for."""
    run = submit_files(connection, settings, ["/a.png"])
    with pytest.raises(QueueUnreachable):
        watch(connection, run, worker_wait_s=0.2)


def test_jobs_that_are_over(connection: Redis, settings: Settings) -> None:
    """Those that have ended, and those that are gone."""
    few = replace(settings, limits=replace(settings.limits, job_items=1))
    ids = submit_files(connection, few, ["/a.png", "/b.png", "/c.png"]).job_ids
    SimulatedWorker(connection).run_one()
    connection.delete(f"rq:job:{ids[2]}")
    assert jobs_over(open_queue(connection), ids) == [ids[0], ids[2]]


def test_job_without_a_report(connection: Redis, settings: Settings) -> None:
    """Its pictures are skipped, with what is known as the reason."""
    run: IndexRun = submit_files(connection, settings, ["/a.png", "/b.png"])
    ((id_, paths),) = run.chunks.items()

    def reason() -> str:
        report = report_of("images", paths, fetch_jobs(connection, [id_]).get(id_))
        assert (report.collection, list(report.skipped)) == ("images", list(paths))
        assert report.indexed == 0
        (told,) = set(report.skipped.values())
        return told.removeprefix("its job failed: ")

    job = fetch_jobs(connection, [id_])[id_]
    job.set_status(JobStatus.STOPPED)
    assert reason() == "it was stopped, and left no result"
    Result.create(job, Result.Type.FAILED, 60, exc_string="x.StoreError: full")
    assert reason() == "StoreError: full"
    Result.create(job, Result.Type.SUCCESSFUL, 60, return_value={"indexed": 3})
    assert reason() == "its result in Redis is no report of these pictures"
    connection.delete(job.key)
    assert reason() == "it is gone from Redis"


def test_whole_report(connection: Redis, settings: Settings) -> None:
    """Each figure is taken as it is; the pictures of an unknown list are not counted."""
    ((id_, paths),) = submit_files(
        connection, settings, [f"/{number}.png" for number in range(9)]
    ).chunks.items()
    job = fetch_jobs(connection, [id_])[id_]
    raw = {"indexed": 1, "reused": 2, "unchanged": 3, "skipped": {"/0.png": "a"}}
    raw |= {"unreadable": {"/1.png": "b", "/2.png": "c"}}
    Result.create(job, Result.Type.SUCCESSFUL, 60, return_value=raw)
    report = report_of("images", paths, job)
    assert (report.indexed, report.reused, report.unchanged) == (1, 2, 3)
    assert report.skipped == {"/0.png": "a"}
    assert report.unreadable == {"/1.png": "b", "/2.png": "c"}
    assert report_of("images", (), job).indexed == 1
    assert report_of("images", paths[:8], job).indexed == 0
