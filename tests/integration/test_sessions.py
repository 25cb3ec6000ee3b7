"""Sessions on a real Redis, step by step: each race is forced, workers are simulated.

By hand, in hours, with ``SESSION_SEQUENCES=200 SESSION_JOBS=5000``.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq.results import Result

from simulating import (
    SimulatedWorker,
    before_next_write,
    draw_session,
    dying_before,
    jobs_of,
    keys_of,
    register,
)
from standins.redis_server import redis_server
from warmclip.errors import Overloaded, SessionOver
from warmclip.indexing.exclusion import Exclusion
from warmclip.indexing.report import IndexReport
from warmclip.indexing.walk import Walk
from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles
from warmclip.work.queues import open_queue
from warmclip.work.sessions import scanner as scanning
from warmclip.work.sessions import scheduler as scheduling
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.leases import ScanLeases
from warmclip.work.sessions.progress import ChunkOutcome, SessionProgress, StepPlan, plan_step
from warmclip.work.sessions.scanner import Scan, Scanner, ScanResults
from warmclip.work.sessions.scheduler import SessionScheduler
from warmclip.work.sessions.session import Session
from warmclip.work.sessions.store import KEPT_PARTS, folder_key, session_key

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]

PENDING = "rq:queue:default"

SEQUENCES = int(os.environ.get("SESSION_SEQUENCES", "4"))
JOBS = int(os.environ.get("SESSION_JOBS", "150"))


@pytest.fixture(scope="module")
def redis(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Redis]:
    """One server for all of them."""
    request.getfixturevalue("server_binary")
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.admin


@pytest.fixture
def connection(redis: Redis) -> Redis:
    """The server, empty."""
    redis.flushall()
    return redis


@pytest.fixture
def commands(connection: Redis) -> SessionCommands:
    """What people do."""
    return SessionCommands(connection)


@pytest.fixture
def settings(tmp_path: Path, demo_bundle: Path) -> Settings:
    """A server's, whose root is a folder of the test's."""
    (tmp_path / "pictures").mkdir()
    return Settings.from_env(
        {
            "WARMCLIP_HOME": str(tmp_path / "home"),
            "WARMCLIP_BUNDLE": str(demo_bundle),
            "WARMCLIP_ROOTS": str(tmp_path / "pictures"),
        }
    )


@pytest.fixture
def scheduler(connection: Redis, settings: Settings) -> SessionScheduler:
    """One that takes steps only when it is told to."""
    return SessionScheduler(connection, settings)


def now(connection: Redis, session: Session) -> Session:
    """A session as it is by now."""
    found = SessionProgress(connection).get(session.id)
    assert found is not None
    return found


def advance(scheduler: SessionScheduler, times: int = 3) -> None:
    """A few passes: what one begins, the next may end."""
    for _ in range(times):
        scheduler.advance_all()


def run_to_end(connection: Redis, scheduler: SessionScheduler, session: Session) -> Session:
    """Have all its jobs run."""
    worker = SimulatedWorker(connection)
    for _ in range(10_000):
        scheduler.advance_all()
        if not worker.run_all() and now(connection, session).is_over:
            break
    return now(connection, session)


# The queue is a function of the record


def test_jobs_in_the_queue_are_few(connection: Redis, scheduler: SessionScheduler) -> None:
    """Of a large session at most a hundred jobs are in RQ; the others wait in its own list."""
    session = draw_session(connection, 400)
    advance(scheduler)
    assert connection.llen(PENDING) == len(jobs_of(connection, session)) == 96
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed) == ("finished", 400)


def test_two_large_sessions_get_their_turns(connection: Redis, scheduler: SessionScheduler) -> None:
    """One that comes later does not wait until the first is done: they advance side by side."""
    first = draw_session(connection, 400, directory="/a")
    advance(scheduler)
    second = draw_session(connection, 400, directory="/b")
    worker = SimulatedWorker(connection)
    for _ in range(80):
        scheduler.advance_all()
        assert connection.llen(PENDING) <= 96 + 48
        for _ in range(6):
            worker.run_one()
    done = [sum(each.id in job for job in worker.ran) for each in (first, second)]
    assert done[0] + done[1] == 480
    assert abs(done[0] - done[1]) <= 96


def test_pause_takes_back_what_waits(
    connection: Redis, scheduler: SessionScheduler, commands: SessionCommands
) -> None:
    """What runs is finished and counted; nothing else of the session is left in RQ."""
    session = draw_session(connection, 300)
    advance(scheduler)
    worker = SimulatedWorker(connection)
    running, taken = worker.take_one(), worker.take_one()
    worker.start(running)
    commands.pause(session.id)
    advance(scheduler)
    assert connection.llen(PENDING) == 0
    assert set(jobs_of(connection, session)) == {running.id, taken.id}
    worker.start(taken)
    for job in (running, taken):
        worker.finish(job)
    advance(scheduler)
    assert jobs_of(connection, session) == {}
    assert now(connection, session).done == 2
    commands.resume(session.id)
    assert run_to_end(connection, scheduler, session).indexed == 300


def test_cancel_leaves_nothing(
    connection: Redis, scheduler: SessionScheduler, commands: SessionCommands
) -> None:
    """What runs is counted; then only the record is left, and the folder is free at once."""
    session = draw_session(connection, 300)
    advance(scheduler)
    worker = SimulatedWorker(connection)
    running = worker.take_one()
    worker.start(running)
    commands.cancel(session.id)
    other, joined = commands.start("/pictures", "images")
    assert not joined
    commands.cancel(other.id)
    advance(scheduler)
    worker.finish(running)
    advance(scheduler)
    ended = now(connection, session)
    assert (ended.state, ended.indexed) == ("cancelled", 1)
    kept = {session_key(it.id, part) for it in (session, other) for part in ("", "known")}
    assert keys_of(connection) <= kept


def test_lost_jobs_are_listed_again(connection: Redis, scheduler: SessionScheduler) -> None:
    """A scheduler that is new, or whose session stalls, finds jobs that are in no list."""
    session = draw_session(connection, 10)
    advance(scheduler)
    connection.ltrim(PENDING, 0, 3)  # as `rq empty` would, or a server that died half-way
    advance(scheduler)
    assert connection.llen(PENDING) == 4
    scheduler._moved[session.id] -= scheduling._STALLED_S + 1
    advance(scheduler)
    assert connection.llen(PENDING) == 10
    assert run_to_end(connection, scheduler, session).indexed == 10


def test_stalled_session_keeps_its_place(connection: Redis, scheduler: SessionScheduler) -> None:
    """Jobs that only wait for a worker stay where they are in the queue."""
    session = draw_session(connection, 5)
    advance(scheduler)
    connection.rpush(PENDING, "of-somebody-else")
    scheduler._moved[session.id] -= scheduling._STALLED_S + 1
    before = connection.lrange(PENDING, 0, -1)
    advance(scheduler)
    assert connection.lrange(PENDING, 0, -1) == before


def test_deleted_job_is_a_skipped_picture(connection: Redis, scheduler: SessionScheduler) -> None:
    """A job that somebody deleted is no reason to wait for ever."""
    session = draw_session(connection, 3)
    advance(scheduler)
    (first, *_) = sorted(jobs_of(connection, session))
    connection.delete(f"rq:job:{first}")
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed, ended.skipped) == ("finished", 2, 1)
    ((_, reason),) = scheduler._progress.skipped(session.id, 0, 10)
    assert "gone from Redis" in reason


# Races, forced


def test_pause_after_a_step_was_planned(connection: Redis, commands: SessionCommands) -> None:
    """The step does nothing: its session is another one by now."""
    session = draw_session(connection, 10)
    plan = plan_step(session, {}, pending=10, most=96)
    commands.pause(session.id)
    progress = SessionProgress(connection)
    progress.take_step(session, plan)
    assert connection.llen(PENDING) == 0
    commands.resume(session.id)
    progress.take_step(session, plan)  # it runs again, and is still not that one
    assert connection.llen(PENDING) == 0
    progress.take_step(now(connection, session), plan)
    assert connection.llen(PENDING) == 10


def test_pause_while_jobs_are_queued(
    connection: Redis, commands: SessionCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what a step reads and what it writes, a pause makes the step void."""
    session = draw_session(connection, 10)
    plan = plan_step(session, {}, pending=10, most=96)
    with before_next_write(monkeypatch, lambda: commands.pause(session.id)):
        SessionProgress(connection).take_step(session, plan)
    assert connection.llen(PENDING) == 0
    assert jobs_of(connection, session) == {}


def test_resume_while_jobs_are_taken_back(
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever comes first, the session runs and its jobs are queued once each."""
    session = draw_session(connection, 10)
    advance(scheduler)
    commands.pause(session.id)
    with before_next_write(monkeypatch, lambda: commands.resume(session.id)):
        scheduler.advance_all()
    advance(scheduler)
    listed = connection.lrange(PENDING, 0, -1)
    assert len(listed) == len(set(listed)) == len(jobs_of(connection, session)) == 10


@pytest.mark.parametrize("has_started", [False, True])
def test_worker_takes_a_job_that_is_taken_back(
    has_started: bool,
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker has it: it is not deleted under it, and its outcome is counted."""
    session = draw_session(connection, 4)
    advance(scheduler)
    commands.pause(session.id)
    worker = SimulatedWorker(connection)
    taken: list[AllowedJob] = []

    def take() -> None:
        taken.append(worker.take_one())
        if has_started:
            worker.start(taken[0])

    with before_next_write(monkeypatch, take):
        scheduler.advance_all()
    advance(scheduler)
    assert list(jobs_of(connection, session)) == [taken[0].id]
    assert connection.llen(PENDING) == 0
    worker.start(taken[0])
    worker.finish(taken[0])
    advance(scheduler)
    assert now(connection, session).indexed == 1


def test_scheduler_that_dies_before_a_write(
    connection: Redis,
    settings: Settings,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever write that is, the next scheduler goes on from there: each picture counts once, and
    none as skipped.
    """
    has_died, writes = True, 0
    while has_died:
        connection.flushall()
        session = draw_session(connection, 4)
        advance(SessionScheduler(connection, settings))
        assert SimulatedWorker(connection).run_one()
        commands.pause(session.id)
        with dying_before(monkeypatch, writes) as deaths:
            advance(SessionScheduler(connection, settings))
        commands.resume(session.id)
        ended = run_to_end(connection, SessionScheduler(connection, settings), session)
        assert (ended.state, ended.indexed, ended.skipped) == ("finished", 4, 0)
        has_died, writes = bool(deaths), writes + 1
    assert writes > 1


def test_two_schedulers(connection: Redis, settings: Settings) -> None:
    """Of two that plan the same step one takes it; a chunk's outcome is counted once."""
    session = draw_session(connection, 20)
    one, two = (SessionProgress(connection) for _ in range(2))
    plan = plan_step(session, {}, pending=20, most=96)
    for each in (one, two):
        each.take_step(session, plan)
    assert connection.llen(PENDING) == 20
    SimulatedWorker(connection).run_all()
    schedulers = [SessionScheduler(connection, settings) for _ in range(4)]
    threads = [threading.Thread(target=advance, args=(each,)) for each in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = now(connection, session)
    assert (ended.state, ended.indexed, ended.done) == ("finished", 20, 20)


def test_folder_is_posted_while_its_session_ends(
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Either the session goes on and searches again, or a new one begins; never neither."""
    session = draw_session(connection, 1)
    advance(scheduler)
    SimulatedWorker(connection).run_all()
    scheduler.advance_all()
    joined = []
    with before_next_write(
        monkeypatch, lambda: joined.append(commands.start("/pictures", "images"))
    ):
        scheduler.advance_all()
    (answer,) = joined
    assert answer[1]
    assert (now(connection, session).state, now(connection, session).needs_scan) == (
        "running",
        True,
    )
    ended = draw_session(connection, 1, directory="/b")
    advance(scheduler)
    SimulatedWorker(connection).run_all()
    with before_next_write(monkeypatch, lambda: advance(scheduler)):
        again, was_there = commands.start("/b", "images")
    assert not was_there
    assert again.id != ended.id
    assert now(connection, ended).state == "finished"


def test_retry_while_the_folder_is_posted(
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the two has the folder; the other is told."""
    session = draw_session(connection, 2)
    advance(scheduler)
    worker = SimulatedWorker(connection)
    while worker.run_one(skip=1):
        pass
    advance(scheduler)
    assert now(connection, session).state == "finished"
    with (
        before_next_write(monkeypatch, lambda: commands.start("/pictures", "images")),
        pytest.raises(SessionOver, match="at the same folder"),
    ):
        commands.retry(session.id, 8)
    assert now(connection, session).state == "finished"


def test_cancelled_session_leaves_the_next_its_folder(
    connection: Redis, scheduler: SessionScheduler, commands: SessionCommands
) -> None:
    """It ends only when its last job has; by then another one may be at the folder."""
    session = draw_session(connection, 2)
    advance(scheduler)
    worker = SimulatedWorker(connection)
    job = worker.take_one()
    worker.start(job)
    commands.cancel(session.id)
    other, _ = commands.start("/pictures", "images")
    worker.finish(job)
    advance(scheduler)
    assert connection.get(folder_key("/pictures", "images")) == other.id.encode()
    assert commands.start("/pictures", "images") == (commands.get(other.id), True)


def test_record_that_changes_for_ever(
    connection: Redis, commands: SessionCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a hundred tries people are told, and nothing was changed."""
    session = draw_session(connection, 1)
    tries = 0
    watch = SessionCommands.try_transact

    def try_transact(self: SessionCommands, write: object, *keys: str) -> object:
        def disturbed(pipe: object) -> object:
            nonlocal tries
            answer = write(pipe)  # type: ignore[operator]  # what is passed on
            tries += 1
            connection.hset(session_key(session.id), "touched", tries)
            return answer

        return watch(self, disturbed, *keys)

    monkeypatch.setattr(SessionCommands, "try_transact", try_transact)
    with pytest.raises(Overloaded, match="changed by somebody else during each of 100"):
        commands.pause(session.id)
    assert tries == 100
    assert now(connection, session).state == "running"


# Scanners


def scanner_of(connection: Redis, settings: Settings, *, lost_after_s: float = 15.0) -> Scanner:
    """A scanner that lives, of a server with these settings."""
    leases = ScanLeases(connection, lost_after_s=lost_after_s)
    leases.beat()
    return Scanner(connection, leases, settings)


def write_pictures(folder: Path, *names: str) -> None:
    """Files with the names of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def test_pictures_that_are_excluded(
    connection: Redis, commands: SessionCommands, settings: Settings
) -> None:
    """By the request or a file: they are no pictures of the session, and are counted."""
    folder = settings.roots[0].folder / "some"
    write_pictures(folder / "raw", "a.png")
    write_pictures(folder, "b.png", "c-small.png", "d.mov")
    (folder / ".warmclipignore").write_text("*-small.png")
    session, _ = commands.start(str(folder), "images", ["raw/"])
    scanner_of(connection, settings).scan_all()
    found = now(connection, session)
    assert (found.images, found.exclude) == (1, ("raw/",))
    assert found.ignored == {"excluded": 2, ".mov": 1, "hidden": 1}
    assert commands.start(str(folder), "images", ["raw/"]) == (now(connection, session), True)
    other, joined = commands.start(str(folder), "images")
    assert (other.id != session.id, joined) == (True, False)
    scanner_of(connection, settings).scan_all()
    assert now(connection, other).images == 2


def test_ignore_file_that_cannot_be_used(
    connection: Redis, commands: SessionCommands, settings: Settings
) -> None:
    """The session fails with a sentence; in a folder further down, that one is not searched."""
    folder = settings.roots[0].folder / "some"
    write_pictures(folder / "below", "a.png")
    write_pictures(folder, "b.png")
    (folder / "below" / ".warmclipignore").write_bytes(b"\xff")
    session, _ = commands.start(str(folder), "images")
    scanner = scanner_of(connection, settings)
    scanner.scan_all()
    assert (now(connection, session).images, now(connection, session).unreadable_folders) == (1, 1)
    ((where, reason),) = commands.unreadable_folders(session.id, 0, 10)
    assert (where, "not UTF-8" in reason) == (str(folder / "below"), True)
    below, _ = commands.start(str(folder / "below"), "images")
    scanner.scan_all()
    assert now(connection, below).state == "failed"
    assert "not UTF-8" in str(now(connection, below).error)


def test_posting_again_finds_what_was_added(
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    settings: Settings,
) -> None:
    """A session that has searched its folder searches again: files that are new, or have changed
    since, are indexed, the others are not counted twice.
    """
    folder = settings.roots[0].folder
    write_pictures(folder, "a.png", "b.png")
    session, _ = commands.start(str(folder), "images")
    scanner = scanner_of(connection, settings)
    scanner.scan_all()
    assert now(connection, session).images == 2
    scheduler.advance_all()
    SimulatedWorker(connection).run_all()
    write_pictures(folder / "new", "c.png")
    (folder / "b.png").write_bytes(b"longer than it was")
    assert commands.start(str(folder), "images")[1]
    advance(scheduler)
    assert now(connection, session).state == "running"  # not finished: somebody waits for c.png
    scanner.scan_all()
    assert now(connection, session).images == 4
    queued = connection.hvals(session_key(session.id, "chunks"))
    assert [sorted(Path(path).name for path in json.loads(it)) for it in queued] == [
        ["b.png", "c.png"]
    ]
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.images, ended.indexed) == ("finished", 4, 4)
    assert scheduler._progress.unreadable_folders(session.id, 0, 1) == []


def test_posting_again_during_the_search(
    connection: Redis,
    commands: SessionCommands,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search may have passed where files were added: the folder is searched once more."""
    folder = settings.roots[0].folder
    write_pictures(folder / "a", "a.png")
    session, _ = commands.start(str(folder), "images")
    scanner = scanner_of(connection, settings)

    def add() -> None:
        write_pictures(folder / "a", "b.png")
        commands.start(str(folder), "images")

    class Slow(Walk):
        """Whose end is late enough for somebody to add a file."""

        def __iter__(self) -> Iterator[str]:
            yield from super().__iter__()
            add()

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "Walk", Slow)
        scanner.scan_all()
    assert (now(connection, session).images, now(connection, session).needs_scan) == (1, True)
    scanner.scan_all()
    assert (now(connection, session).images, now(connection, session).needs_scan) == (2, False)


def test_folder_is_gone_when_it_is_searched_again(
    connection: Redis, scheduler: SessionScheduler, commands: SessionCommands, settings: Settings
) -> None:
    """What the first search found is indexed all the same, and the session says what is wrong."""
    folder = settings.roots[0].folder / "sub"
    write_pictures(folder, "a.png")
    session, _ = commands.start(str(folder), "images")
    scanner = scanner_of(connection, settings)
    scanner.scan_all()
    commands.start(str(folder), "images")
    (folder / "a.png").unlink()
    folder.rmdir()
    scanner.scan_all()
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.images, ended.unreadable_folders) == ("finished", 1, 1)


def test_scanner_that_finds_nothing_for_long_keeps_its_lease(
    connection: Redis, commands: SessionCommands, settings: Settings
) -> None:
    """A timer keeps it, not pictures; of one that is dead, the lease is taken, and what it finds
    afterwards does not count.
    """
    session, _ = commands.start(str(settings.roots[0].folder), "images")
    slow, quick = (ScanLeases(connection, lost_after_s=0.2) for _ in range(2))
    slow.beat()
    quick.beat()
    assert slow.acquire(session.id)
    for _ in range(5):
        time.sleep(0.1)
        slow.beat()
        quick.beat()
        assert not quick.acquire(session.id)
    results, scan = ScanResults(connection, slow), Scan()
    results.add_chunk(session.id, scan, ["/pictures/of-the-dead.png"])
    for _ in range(4):  # the slow one is frozen, or dead
        time.sleep(0.1)
        quick.beat()
    assert quick.acquire(session.id)
    slow.beat()
    results.complete(session.id, scan)
    assert now(connection, session).images is None
    assert not slow.acquire(session.id)
    slow.release(session.id)
    assert quick.is_held(connection, session.id)
    assert not list(connection.scan_iter("*:found:*"))


def test_no_clock_ends_a_lease(
    connection: Redis, commands: SessionCommands, settings: Settings
) -> None:
    """Redis expires keys by a clock that somebody may set: nothing about leases expires."""
    session, _ = commands.start(str(settings.roots[0].folder), "images")
    leases = ScanLeases(connection)
    leases.beat()
    assert leases.acquire(session.id)
    for key in (session_key(session.id, "lease"), "rq:warmclip:sessions:scanners"):
        assert connection.ttl(key) == -1


def test_two_scanners(connection: Redis, commands: SessionCommands, settings: Settings) -> None:
    """A folder is searched by one of them; the pictures count once."""
    folder = settings.roots[0].folder
    write_pictures(folder, *(f"{number}.png" for number in range(100)))
    sessions = [commands.start(str(folder), name)[0] for name in ("a", "b", "c")]
    scanners = [scanner_of(connection, settings) for _ in range(3)]
    threads = [threading.Thread(target=scanner.scan_all) for scanner in scanners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [now(connection, each).images for each in sessions] == [100] * 3
    assert not list(connection.scan_iter("*:found:*"))


def test_server_with_other_mounts(
    connection: Redis, commands: SessionCommands, settings: Settings, tmp_path: Path
) -> None:
    """It leaves a folder that it cannot search to the others; when none can, the session fails."""
    folder = settings.roots[0].folder / "sub"
    write_pictures(folder, "a.png")
    elsewhere = Settings.from_env(
        {"WARMCLIP_BUNDLE": str(settings.bundle), "WARMCLIP_ROOTS": str(tmp_path / "elsewhere")}
    )
    other, able = (scanner_of(connection, each) for each in (elsewhere, settings))
    session, _ = commands.start(str(folder), "images")
    other.scan_all()
    assert now(connection, session).state == "finding"
    able.scan_all()
    assert now(connection, session).images == 1
    away, _ = commands.start(str(folder / "away"), "images")
    other.scan_all()
    assert now(connection, away).state == "finding"
    able.scan_all()
    failed = now(connection, away)
    assert (failed.state, failed.ended_at is not None) == ("failed", True)
    assert "is no folder" in str(failed.error)


def test_server_that_has_gone_has_no_say(
    connection: Redis, commands: SessionCommands, settings: Settings
) -> None:
    """Only those that live are waited for."""
    gone = ScanLeases(connection)
    gone.beat()
    session, _ = commands.start(str(settings.roots[0].folder / "away"), "images")
    scanner = scanner_of(connection, settings)
    scanner.scan_all()
    assert now(connection, session).state == "finding"
    gone.leave()
    scanner._declined.clear()  # it looks again after a few seconds
    scanner.scan_all()
    assert now(connection, session).state == "failed"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(116, "Stale file handle"), "cannot be searched: [Errno 116] Stale file handle"),
        (RuntimeError("a bug"), "failed: RuntimeError('a bug')"),
    ],
)
def test_folder_that_breaks_the_search(
    error: Exception,
    told: str,
    connection: Redis,
    commands: SessionCommands,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its session fails with the reason; later sessions are searched."""
    folder = settings.roots[0].folder
    for name in ("bad", "good"):
        write_pictures(folder / name, "a.png")
    bad, _ = commands.start(str(folder / "bad"), "images")
    connection.hset(session_key(bad.id), "created_at", "2026-11-25T18:00:00+00:00")  # the oldest
    good, _ = commands.start(str(folder / "good"), "images")

    class Broken(Walk):
        """A folder on a disk that fails in the middle."""

        def __init__(self, top: str, exclusion: Exclusion | None) -> None:
            super().__init__(top, exclusion)
            self._is_bad = top.endswith("bad")

        def __iter__(self) -> Iterator[str]:
            yield from super().__iter__()
            if self._is_bad:
                raise error

    monkeypatch.setattr(scanning, "Walk", Broken)
    scanner_of(connection, settings).scan_all()
    assert now(connection, good).images == 1
    failed = now(connection, bad)
    assert failed.state == "failed"
    assert told in str(failed.error)


# Health


def test_what_keeps_sessions_from_being_looked_after(
    connection: Redis, scheduler: SessionScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has ended, a pass without end, a search that finds nothing: each is said."""
    assert "has ended" in str(scheduler.trouble())  # it has not begun
    scheduler.start()
    try:
        assert scheduler.trouble() is None
        late = time.monotonic() + 700
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: late)
            scheduler._scanner.moved_at = late
            assert "last looked at" in str(scheduler.trouble())
            scheduler._passed_at, scheduler._scanner.moved_at = late, late - 700
            assert "is a disk away" in str(scheduler.trouble())
    finally:
        scheduler.stop()
    assert connection.hlen("rq:warmclip:sessions:scanners") == 0


# What is left


def test_end_of_a_session(connection: Redis, scheduler: SessionScheduler) -> None:
    """Of each picture a few bytes stay, for a week: jobs, results and paths go with the outcome."""
    session = draw_session(connection, 100, size=32)
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed) == ("finished", 3200)
    kept = {session_key(session.id), session_key(session.id, "known")}
    assert keys_of(connection) == kept
    assert all(0 < connection.ttl(key) <= 7 * 24 * 3600 for key in kept)
    assert sum(connection.memory_usage(key) or 0 for key in kept) / 3200 < 30
    assert connection.zcard("rq:finished:default") == 0


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_clock_is_set(
    step_s: int,
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session goes on, and tells no rate that would be wrong."""
    session = draw_session(connection, 200)
    worker, real = SimulatedWorker(connection), time.time
    for _ in range(2):
        advance(scheduler)
        assert worker.run_one()
    monkeypatch.setattr(time, "time", lambda: real() + step_s)
    assert now(connection, session).images_per_s is None
    advance(scheduler)
    commands.pause(session.id)
    commands.resume(session.id)
    advance(scheduler)
    seen = now(connection, session)
    assert seen.images_per_s is None or seen.images_per_s > 0
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed) == ("finished", 200)


def test_retry_forgets_and_queues_in_one_step(
    connection: Redis,
    scheduler: SessionScheduler,
    commands: SessionCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A retry that does not come to its end leaves pictures set aside, and in the session."""
    session = draw_session(connection, 1)
    poisoned = PoisonedFiles(connection)
    (paths,) = scheduler._progress.chunk_paths(session.id, [0]).values()
    poisoned.add(PoisonedFile.describe(paths[0], "it killed", job="j", collection="images"))
    advance(scheduler)
    SimulatedWorker(connection).run_one(skip=1)
    advance(scheduler)

    def die() -> None:
        raise KeyboardInterrupt

    with before_next_write(monkeypatch, die), pytest.raises(KeyboardInterrupt):
        commands.retry(session.id, 8)
    assert poisoned.count() == 1
    assert len(commands.skipped(session.id, 0, 10)) == 1
    commands.retry(session.id, 8)
    assert poisoned.count() == 0
    assert run_to_end(connection, scheduler, session).indexed == 1


# Sessions of older versions


def write_old_record(connection: Redis, state: str, *, chunks: int, queued: int) -> str:
    """A session as warmclip 0.1 recorded it: so many chunks, so many of them given to RQ."""
    id_ = f"{random.Random(state).getrandbits(128):032x}"
    record = {"state": state, "directory": json.dumps("/old"), "collection": "images"}
    record |= {"created_at": "2026-11-25T18:00:00+00:00", "samples": "[]", "unsettled": "token"}
    numbers = {"images": chunks, "chunks": chunks, "queued": queued}
    for name, value in {**record, **numbers}.items():
        connection.hset(session_key(id_), name, str(value))
    connection.zadd("rq:warmclip:sessions", {id_: 1})
    connection.sadd("rq:warmclip:sessions:open", id_)
    connection.set(folder_key("/old", "images"), id_)
    for number in range(chunks):
        connection.hset(session_key(id_, "chunks"), str(number), json.dumps([f"/old/{number}.png"]))
        connection.zadd(session_key(id_, "pending"), {str(number): number})
    queue = open_queue(connection)
    for number in range(queued):
        queue.enqueue(
            "warmclip.work.jobs.index_images",
            args=([f"/old/{number}.png"], "images"),
            job_id=f"session-{id_}-{number}",
        )
    if state != "running":
        connection.delete(queue.key)  # they were taken out of the queue, and kept
    if state == "cancelled":
        connection.hset(session_key(id_), "queued", chunks)
        connection.zremrangebyscore(session_key(id_, "pending"), queued, "+inf")
        connection.delete(folder_key("/old", "images"))
    return id_


@pytest.mark.parametrize("state", ["running", "paused", "cancelled"])
def test_session_of_an_older_version(
    state: str, connection: Redis, scheduler: SessionScheduler, commands: SessionCommands
) -> None:
    """It goes on where it was, and no job of it is lost or done twice."""
    id_ = write_old_record(connection, state, chunks=300, queued=250)
    session = commands.get(id_)
    assert session is not None
    worker = SimulatedWorker(connection)
    worker.run_one()
    advance(scheduler, 20)
    if state == "running":
        assert connection.llen(PENDING) == 249
    else:
        assert jobs_of(connection, session) == {}
    if state == "paused":
        commands.resume(id_)
    if state != "cancelled":
        ended = run_to_end(connection, scheduler, session)
        assert (ended.state, ended.indexed, ended.skipped) == ("finished", 300, 0)
    ended = now(connection, session)
    assert ended.is_over
    assert keys_of(connection) == {session_key(id_)}


# What others write there


@pytest.mark.parametrize("part", ["pending", "queued", "chunks"])
def test_damaged_record(part: str, connection: Redis, scheduler: SessionScheduler) -> None:
    """A session whose record holds what is not ours ends and says so; the others go on."""
    bad, good = (draw_session(connection, 5, directory=each) for each in ("/bad", "/good"))
    connection.delete(session_key(bad.id, part))
    connection.set(session_key(bad.id, part), "x")
    ended = run_to_end(connection, scheduler, good)
    assert (ended.state, ended.indexed) == ("finished", 5)
    failed = now(connection, bad)
    assert failed.state == "failed"
    assert "not warmclip's" in str(failed.error)


@pytest.mark.parametrize("part", ["lease", "declined", "known", "folder", "scanners"])
def test_damaged_key_of_scanners(
    part: str, connection: Redis, commands: SessionCommands, settings: Settings
) -> None:
    """A session whose folder cannot be searched for it ends; the folders of others are searched."""
    folder = settings.roots[0].folder
    for name in ("bad", "good"):
        write_pictures(folder / name, "a.png")
    scanner = scanner_of(connection, settings)
    bad, _ = commands.start(str(folder / "bad"), "images")
    if part == "known":  # which only a second search reads
        scanner.scan_all()
        commands.start(str(folder / "bad"), "images")
    key = {"folder": folder_key(str(folder / "bad"), "images")}
    key["scanners"] = "rq:warmclip:sessions:scanners"
    name = key.get(part, session_key(bad.id, part))
    connection.delete(name)
    connection.rpush(name, "x")
    connection.hset(session_key(bad.id), "created_at", "2026-11-25T18:00:00+00:00")  # the oldest
    good, _ = commands.start(str(folder / "good"), "images")
    scanner._leases.beat()
    scanner._leases.beat()
    scanner.scan_all()
    assert now(connection, good).images == 1
    seen = now(connection, bad)
    assert seen.images == 1 or "not warmclip's" in str(seen.error)


def test_connection_that_fails_in_a_search(
    connection: Redis,
    commands: SessionCommands,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is Redis that is away, not the folder: the session goes on when Redis is back."""
    write_pictures(settings.roots[0].folder, "a.png")
    session, _ = commands.start(str(settings.roots[0].folder), "images")
    scanner = scanner_of(connection, settings)

    def refuse(*_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")  # as redis-py below 7.2 raises it

    with monkeypatch.context() as patch:
        patch.setattr(ScanResults, "add_chunk", refuse)
        with pytest.raises(ConnectionRefusedError):
            scanner.scan_all()
    assert now(connection, session).state == "finding"
    scanner.scan_all()
    assert now(connection, session).images == 1


def test_sessions_where_writes_are_refused(
    connection: Redis, commands: SessionCommands, redis: Redis
) -> None:
    """They are listed all the same; what is asked of one is an error that names the refusal."""
    session = draw_session(connection, 1)
    connection.sadd("rq:warmclip:sessions:open", "evil")
    connection.zadd("rq:warmclip:sessions", {b"evil": 9e9})
    connection.config_set("min-replicas-to-write", "1")
    try:
        assert [each.id for each in commands.open_sessions()] == [session.id]
        assert [each.id for each in commands.page(0, 9)[0]] == [session.id]
        with pytest.raises(ResponseError, match="Not enough good replicas"):
            commands.pause(session.id)
    finally:
        redis.config_set("min-replicas-to-write", "0")


def test_strangers_among_the_chunks(connection: Redis, scheduler: SessionScheduler) -> None:
    """They are passed by; a chunk whose pictures are gone is not waited for."""
    session = draw_session(connection, 5)
    for member in (b"evil", b"\xff", b"9" * 5000, b"77"):
        connection.zadd(session_key(session.id, "pending"), {member: 0})
        connection.sadd(session_key(session.id, "queued"), member)
    connection.srem(session_key(session.id, "queued"), "77")
    connection.hset(session_key(session.id, "chunks"), "2", "no json")
    for member in (b"evil", b"\xff"):
        connection.sadd("rq:warmclip:sessions:open", member)
        connection.zadd("rq:warmclip:sessions", {member: 9e9})
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed) == ("finished", 4)
    assert [each.id for each in scheduler._progress.page(0, 10)[0]] == [session.id]
    assert scheduler._progress.page(0, 10)[1] == 1


@pytest.mark.parametrize("value", [b"x", None])
def test_counts_of_somebody_else(
    value: bytes | None, connection: Redis, scheduler: SessionScheduler
) -> None:
    """Counts for monitoring that cannot be added to stop no session."""
    session = draw_session(connection, 3)
    if value is None:
        connection.set("rq:warmclip:totals", "x")
    else:
        connection.hset("rq:warmclip:totals", "indexed", value)
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed) == ("finished", 3)


def test_forged_result(connection: Redis, scheduler: SessionScheduler) -> None:
    """The pictures count as skipped, with the reason, and the session ends."""
    session = draw_session(connection, 2)
    advance(scheduler)
    worker = SimulatedWorker(connection)
    for forge in (b"x", None):
        job = worker.take_one()
        worker.start(job)
        worker.finish(job)
        connection.delete(f"rq:results:{job.id}")
        if forge:
            connection.set(f"rq:results:{job.id}", forge)
        else:
            Result.create(job, Result.Type.SUCCESSFUL, 60, return_value={"indexed": 10**9})
    ended = run_to_end(connection, scheduler, session)
    assert (ended.state, ended.indexed, ended.skipped) == ("finished", 0, 2)
    reasons = {reason for _, reason in scheduler._progress.skipped(session.id, 0, 9)}
    assert len(reasons) == 2
    assert all("its job failed: its result in Redis" in reason for reason in reasons)


# Workers that are not there


def test_session_without_a_worker(connection: Redis, scheduler: SessionScheduler) -> None:
    """It says that it waits for one, and tells no rate; with a worker it goes on as before."""
    session = draw_session(connection, 100)
    advance(scheduler)
    assert now(connection, session).waiting_for_worker
    register(connection, "w")
    scheduler._looks_at = 0
    advance(scheduler)
    seen = now(connection, session)
    assert (seen.waiting_for_worker, seen.images_per_s) == (False, None)
    worker = SimulatedWorker(connection)
    for _ in range(2):
        worker.run_one()
        scheduler.advance_all()
        time.sleep(0.05)
    assert now(connection, session).images_per_s
    connection.delete("rq:worker:w")
    scheduler._looks_at = 0
    advance(scheduler)
    seen = now(connection, session)
    assert (seen.waiting_for_worker, seen.images_per_s, seen.eta_s) == (True, None, None)


# At random


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_random_sequences(
    seed: int, connection: Redis, settings: Settings, commands: SessionCommands
) -> None:
    """Two servers, two workers, and people who post, pause, resume, cancel and retry: in the end
    queue and records agree, every picture is counted, and no key is left over.
    """
    chance = random.Random(seed)
    agree_after(chance, connection, settings, commands)


def agree_after(
    chance: random.Random,
    connection: Redis,
    settings: Settings,
    commands: SessionCommands,
    *,
    chunks: int = JOBS,
    orders: int = 25,
) -> None:
    """Give orders at random, let everything come to its end, and compare."""
    schedulers = [SessionScheduler(connection, settings) for _ in range(2)]
    stopped = threading.Event()
    workers = [
        threading.Thread(
            target=SimulatedWorker(connection, str(number)).run_for_a_while,
            args=(random.Random(chance.random()), stopped.is_set),
        )
        for number in range(2)
    ]
    drawn: dict[str, Session] = {}
    images: Counter[str] = Counter()

    def post(folder: str, count: int) -> None:
        session = draw_session(connection, count, directory=folder)
        drawn[session.id] = session
        images[session.id] += count

    def over() -> list[bool]:
        return [now(connection, each).is_over for each in drawn.values()]

    for folder in ("/0", "/1"):
        post(folder, chunks)
    for scheduler in schedulers:
        scheduler.start()
    for worker in workers:
        worker.start()
    try:
        for _ in range(orders):
            session = chance.choice(list(drawn.values()))
            kinds = ["pause", "resume", "cancel", "retry", "post"]
            order = chance.choices(kinds, [5, 5, 0.3, 1, 1])[0]
            try:
                if order == "post":  # it joins the session there, or begins another one
                    post(session.directory, chunks if all(over()) else chunks // 10)
                elif order == "retry":
                    commands.retry(session.id, 8)
                else:
                    getattr(commands, order)(session.id)
                chance.choice(schedulers).wake()
            except SessionOver:
                pass
            time.sleep(chance.random() * 0.03)
        for session in drawn.values():
            with suppress(SessionOver):
                commands.resume(session.id)
        deadline = time.monotonic() + 120 + chunks * 0.2
        while not all(over()):
            assert time.monotonic() < deadline, [now(connection, it) for it in drawn.values()]
            time.sleep(0.02)
        while connection.smembers("rq:warmclip:sessions:open"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        stopped.set()
        for scheduler in schedulers:
            scheduler.stop()
        for worker in workers:
            worker.join()
    for session in drawn.values():
        ended = now(connection, session)
        assert ended.state in ("finished", "cancelled")
        assert ended.images == images[session.id]
        if ended.state == "finished":
            assert ended.done == ended.images
        assert ended.skipped == connection.llen(session_key(session.id, "skipped"))
    assert connection.llen(PENDING) == 0
    assert connection.llen(f"{PENDING}:intermediate") == 0
    kept = {session_key(it, part) for it in drawn for part in KEPT_PARTS}
    assert keys_of(connection) - kept == set()


def test_outcome_that_is_told_twice(connection: Redis) -> None:
    """Several schedulers that read the same job's report record it once."""
    session = draw_session(connection, 1)
    progress = SessionProgress(connection)
    assert progress.take_step(session, StepPlan(room=1))
    session = now(connection, session)
    outcome = ChunkOutcome(number=0, report=IndexReport(collection="images", indexed=1))
    threads = [
        threading.Thread(target=progress.take_step, args=(session, StepPlan(ended=(0,)), [outcome]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert now(connection, session).indexed == 1


def test_file_in_two_chunks(connection: Redis) -> None:
    """A folder that is searched again may list a file twice; each is counted, though skipped."""
    draw_session(connection, 1)
    session = draw_session(connection, 1)  # the same file, in the same session
    progress = SessionProgress(connection)
    assert progress.take_step(session, StepPlan(room=2))
    session = now(connection, session)
    report = IndexReport(collection="images", skipped={"/pictures/a.jpg": "is empty"})
    outcomes = [ChunkOutcome(number=number, report=report) for number in (0, 1)]
    progress.take_step(session, StepPlan(ended=(0, 1)), outcomes)
    ended = now(connection, session)
    assert ended.images == ended.done == ended.skipped == 2
    assert connection.llen(session_key(ended.id, "skipped")) == 2
