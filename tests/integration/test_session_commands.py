"""What people may do to sessions, and what is read of them: on a real Redis, without a worker."""

import json
import time

import pytest
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from simulating import draw_session
from standins.redis_server import restricted
from warmclip.errors import Overloaded, SessionOver
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles
from warmclip.work.replies import warn_once
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.session import Session
from warmclip.work.sessions.store import (
    ALL,
    OPEN,
    SessionStore,
    close_session,
    session_folder_key,
    session_key,
)

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]


@pytest.fixture
def commands(connection: Redis) -> SessionCommands:
    """A server's."""
    warn_once.cache_clear()
    return SessionCommands(connection)


def close(commands: SessionCommands, session: Session, state: str) -> None:
    """Have it end so."""

    def write(pipe: Pipeline) -> None:
        pipe.multi()
        pipe.hset(
            session_key(session.id),
            mapping={"state": state, "ended_at": "2026-11-30T12:00:00+00:00", "error": '"y"'},
        )
        close_session(pipe, session, session.id)

    commands.transact(write, session_key(session.id))


def skip(connection: Redis, session: Session, *paths: str) -> None:
    """Have these pictures be skipped."""
    for path in paths:
        connection.rpush(session_key(session.id, "skipped"), json.dumps([path, "no"]))
    connection.hset(session_key(session.id), "skipped", len(paths))


def pending(connection: Redis, session: Session) -> list[bytes]:
    """The numbers of the chunks without an outcome."""
    return [bytes(it) for it in connection.zrange(session_key(session.id, "pending"), 0, -1)]  # type: ignore[arg-type]  # bytes


def test_start_and_join(connection: Redis, commands: SessionCommands) -> None:
    """A folder has one session at a time; who posts it again has it searched once more."""
    began = time.time()
    first, joined = commands.start("/a", "images", ["*.tif"])
    assert not joined
    assert (first.state, first.directory, first.collection) == ("finding", "/a", "images")
    assert (list(first.exclude), first.rescans_asked) == (["*.tif"], 0)
    again, joined = commands.start("/a", "images", ["*.tif"])
    assert (joined, again.id, again.rescans_asked) == (True, first.id, 1)
    others = [
        commands.start("/a", "images")[0],
        commands.start("/a", "scans", ["*.tif"])[0],
        commands.start("/b", "images", ["*.tif"])[0],
    ]
    assert len({first.id, *(it.id for it in others)}) == 4
    assert {it.id for it in commands.open_sessions()} == {first.id, *(it.id for it in others)}
    close(commands, first, "finished")
    new, joined = commands.start("/a", "images", ["*.tif"])
    assert not joined
    assert new.id != first.id
    assert began <= float(connection.zscore(ALL, new.id) or 0) <= time.time()


@pytest.mark.parametrize("state", ["finding", "running"])
def test_pause_and_resume(connection: Redis, commands: SessionCommands, state: str) -> None:
    """It goes on where it was; asking twice changes nothing more, and what was planned is void."""
    if state == "running":
        session = draw_session(connection, 3)
    else:
        session = commands.start("/a", "images")[0]
    samples = session_key(session.id)
    connection.hset(samples, "samples", "[[1, 2]]")
    assert commands.resume(session.id).revision == session.revision
    paused = commands.pause(session.id)
    assert (paused.state, paused.revision) == ("paused", session.revision + 1)
    assert connection.hget(samples, "samples") == b"[]"
    assert commands.pause(session.id).revision == paused.revision
    resumed = commands.resume(session.id)
    assert (resumed.state, resumed.revision) == (state, paused.revision + 1)
    assert commands.resume(session.id).revision == resumed.revision


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled"])
def test_session_that_is_over(connection: Redis, commands: SessionCommands, state: str) -> None:
    """There is nothing to pause, to resume or to cancel; cancelling twice is no error."""
    session = draw_session(connection, 3)
    close(commands, session, state)
    for command in (commands.pause, commands.resume):
        with pytest.raises(SessionOver, match=f"is {state}: post its folder again"):
            command(session.id)
    if state == "cancelled":
        assert commands.cancel(session.id).state == "cancelled"
        with pytest.raises(SessionOver, match="was cancelled"):
            commands.retry(session.id, 2)
    else:
        with pytest.raises(SessionOver, match=f"is {state}"):
            commands.cancel(session.id)


def test_session_that_is_gone(commands: SessionCommands) -> None:
    """It says so, and nothing of it comes back."""
    for command in (commands.pause, commands.resume, commands.cancel):
        with pytest.raises(SessionOver, match="gone from Redis"):
            command("none")
    with pytest.raises(SessionOver, match="gone from Redis"):
        commands.retry("none", 2)
    assert list(commands.connection.keys()) == []
    commands.connection.set(session_key("none"), "of somebody else")
    assert commands.get("none") is None


@pytest.mark.parametrize("is_ours", [True, False])
def test_cancel(connection: Redis, commands: SessionCommands, is_ours: bool) -> None:
    """Only what has a job is still waited for; the folder is free, if it was this session's."""
    session = draw_session(connection, 9)
    connection.sadd(session_key(session.id, "queued"), 1)
    (path,) = commands.chunk_paths(session.id, [1])[1][:1]
    if not is_ours:
        connection.set(session_folder_key(session), "another")
    cancelled = commands.cancel(session.id)
    assert (cancelled.state, cancelled.revision) == ("cancelled", session.revision + 1)
    assert cancelled.ended_at is not None
    assert pending(connection, session) == [b"1"]
    assert list(commands.chunk_paths(session.id, range(9))) == [1]
    assert commands.chunk_paths(session.id, [1])[1][0] == path
    held = connection.get(session_folder_key(session))
    assert held == (None if is_ours else b"another")


@pytest.mark.parametrize("state", ["running", "paused", "finished", "failed"])
def test_retry(connection: Redis, commands: SessionCommands, state: str) -> None:
    """What was skipped is queued again, in chunks of that size, and is no longer set aside."""
    session = draw_session(connection, 9)
    before = pending(connection, session)
    poisoned = PoisonedFiles(connection)
    for path in ("/s/1.png", "/other.png"):
        poisoned.add(PoisonedFile.describe(path, "it kills", job="j", collection="images"))
    skip(connection, session, "/s/1.png", "/s/2.png", "/s/3.png")
    connection.rpush(session_key(session.id, "skipped"), "no pair")
    if state == "paused":
        commands.pause(session.id)
    elif state != "running":
        close(commands, session, state)
        before = []
    retried = commands.retry(session.id, 2)
    assert retried.state == ("paused" if state == "paused" else "running")
    assert (retried.skipped, retried.chunks) == (0, session.chunks + 2)
    assert retried.revision > session.revision
    assert [file.path for file in poisoned.all()] == ["/other.png"]
    assert pending(connection, session) == [
        *before,
        *(b"%d" % (session.chunks + n) for n in (0, 1)),
    ]
    assert commands.chunk_paths(session.id, [session.chunks, session.chunks + 1]) == {
        session.chunks: ("/s/1.png", "/s/2.png"),
        session.chunks + 1: ("/s/3.png",),
    }
    assert commands.skipped(session.id, 0, 9) == []
    assert connection.get(session_folder_key(session)) == session.id.encode()
    assert connection.sismember(OPEN, session.id)
    assert connection.ttl(session_key(session.id)) == -1
    assert (retried.ended_at, retried.error) == (None, None)


def test_nothing_to_retry(connection: Redis, commands: SessionCommands) -> None:
    """A finished session stays so; one that failed searches its folder, or runs, again."""
    session = draw_session(connection, 1)
    close(commands, session, "finished")
    assert commands.retry(session.id, 2).state == "finished"
    failed = commands.start("/failed", "images")[0]
    close(commands, failed, "failed")
    assert commands.retry(failed.id, 2).state == "finding"


@pytest.mark.parametrize("is_other_over", [False, True])
def test_retry_beside_another_session(
    connection: Redis, commands: SessionCommands, is_other_over: bool
) -> None:
    """A folder that has another session by now is that session's, until it ends."""
    session = commands.start("/a", "images")[0]
    skip(connection, session, "/a/1.png")
    close(commands, session, "finished")
    other = commands.start("/a", "images")[0]
    if not is_other_over:
        with pytest.raises(SessionOver, match=f"session {other.id} is at the same folder"):
            commands.retry(session.id, 2)
        assert len(commands.skipped(session.id, 0, 9)) == 1
        return
    connection.hset(session_key(other.id), "state", "finished")  # which still names the folder
    assert commands.retry(session.id, 2).chunks == 1
    skip(connection, session, "/a/2.png")
    assert commands.retry(session.id, 2).chunks == 2  # it is open, and the folder is its own


# What is read


def test_pages(connection: Redis, commands: SessionCommands) -> None:
    """The youngest first; one that was forgotten leaves the list."""
    ids = [commands.start(f"/{number}", "images")[0].id for number in range(5)]
    for number, id_ in enumerate(ids):
        connection.zadd(ALL, {id_: number})
    connection.delete(session_key(ids[3]))
    page, count = commands.page(0, 3)
    assert ([it.id for it in page], count) == ([ids[4], ids[2]], 4)
    page, count = commands.page(1, 2)
    assert ([it.id for it in page], count) == ([ids[2], ids[1]], 4)
    assert [it.id for it in commands.page(0, 2)[0]] == [ids[4], ids[2]]
    assert {it.id for it in commands.open_sessions()} == {ids[n] for n in (0, 1, 2, 4)}
    assert not connection.sismember(OPEN, ids[3])


def test_open_sessions(connection: Redis, commands: SessionCommands) -> None:
    """The oldest first, whatever the set's order."""
    ids = [commands.start(f"/{number}", "images")[0].id for number in range(6)]
    for number, id_ in enumerate(ids):
        at = f"2026-11-30T00:00:{9 - number:02}+00:00"
        connection.hset(session_key(id_), "created_at", at)
    assert [it.id for it in commands.open_sessions()] == ids[::-1]


def test_pairs(connection: Redis, commands: SessionCommands) -> None:
    """A part of them, in the order of time; what is none is left out."""
    session = commands.start("/a", "images")[0]
    for part in ("skipped", "folders"):
        entries = [json.dumps([f"/{part}{n}", "no"]) for n in range(4)]
        connection.rpush(session_key(session.id, part), *entries, "x")
    assert commands.skipped(session.id, 1, 2) == [("/skipped1", "no"), ("/skipped2", "no")]
    assert commands.skipped(session.id, 0, 2) == [("/skipped0", "no"), ("/skipped1", "no")]
    assert commands.unreadable_folders(session.id, 3, 9) == [("/folders3", "no")]


def test_record_of_another_kind(connection: Redis, commands: SessionCommands) -> None:
    """What else is written beside it stays; a refusal is an error."""
    connection.set("theirs", "x")

    def write(pipe: Pipeline) -> str:
        pipe.multi()
        pipe.hset("theirs", "field", "x")
        pipe.incr("ours")
        return "done"

    assert commands.transact(write, "theirs") == "done"
    assert connection.get("ours") == b"1"
    with restricted(connection, "@hash") as reader, pytest.raises(ResponseError):
        SessionStore(reader).transact(write, "theirs")


@pytest.mark.parametrize("conflicts", [0, 3, 99, 100])
def test_record_that_others_change(
    commands: SessionCommands, connection: Redis, conflicts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried a hundred times, with little rests; then whoever asked is told."""
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    left = [None] * conflicts

    def write(pipe: Pipeline) -> str:
        if left:
            left.pop()
            connection.incr("theirs")
        pipe.multi()
        pipe.incr("ours")
        return "done"

    if conflicts < 100:
        assert commands.transact(write, "theirs") == "done"
        assert connection.get("ours") == b"1"
    else:
        with pytest.raises(Overloaded, match="theirs in Redis was changed"):
            commands.transact(write, "theirs")
        assert connection.get("ours") is None
    assert len(rests) >= conflicts


def test_end_of_a_session(connection: Redis, commands: SessionCommands) -> None:
    """Its record stays for a week; what it worked with goes, and so does its hold on the folder."""
    session = draw_session(connection, 9)
    for part in ("queued", "lease", "declined", "skipped", "folders", "known"):
        connection.set(session_key(session.id, part), "x")
    close(commands, session, "finished")
    for part in ("chunks", "pending", "queued", "lease", "declined"):
        assert not connection.exists(session_key(session.id, part))
    week_s = 7 * 24 * 3600
    for part in ("", "skipped", "folders", "known"):
        assert week_s - 60 < connection.ttl(session_key(session.id, part)) <= week_s
    assert not connection.sismember(OPEN, session.id)
    assert not connection.exists(session_folder_key(session))
    connection.set(session_folder_key(session), "another")

    def write(pipe: Pipeline) -> None:
        pipe.multi()
        close_session(pipe, session, "another")

    commands.transact(write, session_key(session.id))
    assert connection.get(session_folder_key(session)) == b"another"
