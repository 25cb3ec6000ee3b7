"""The books of all sessions, in Redis beside RQ's own records.

Every change is one transaction on what it has read, so it may be made twice, by several processes
at once, or be cut short, and leaves the books as they were or as they should be.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from warmclip.errors import SessionOver
from warmclip.indexing.report import IndexReport
from warmclip.work.client import DEFAULT_CHUNK
from warmclip.work.dead_letters import DeadLetters
from warmclip.work.sessions.session import Session, now, text_of
from warmclip.work.totals import count

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_PREFIX = "rq:warmclip:session:"
_ALL = "rq:warmclip:sessions"  # id by time of birth
_OPEN = "rq:warmclip:sessions:open"  # ids of those that may need the foreman

KEPT_S = 7 * 24 * 3600
"""How long a session is remembered after its end."""

_ATTEMPT_S = 3600  # that a list of found pictures is kept after its finder's last sign of life
_LEASE_S = 15
_FRESH_S = 2.0  # between two samples of the rate
_SAMPLES = 10


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one chunk, and how long its job had waited."""

    number: int
    report: IndexReport
    waited_s: float | None


def chunk_of(paths: Sequence[str]) -> str:
    """A chunk as it lies in Redis: file names need not be UTF-8, and JSON escapes them."""
    return json.dumps(list(paths))


class Ledger:
    """All sessions. It may be used from several threads."""

    def __init__(self, connection: Redis) -> None:
        self.connection = connection

    def ping(self) -> None:
        """Return if Redis answers."""
        self.connection.ping()

    # Reading

    def get(self, id_: str) -> Session | None:
        """One session; None if there is none, or it was forgotten."""
        return Session.read(id_, self.connection.hgetall(_key(id_)))

    def page(self, offset: int, limit: int) -> tuple[list[Session], int]:
        """Some sessions, the youngest first, and how many there are in all."""
        ids: list[Any] = self.connection.zrevrange(_ALL, offset, offset + limit - 1)
        sessions = []
        for id_ in map(text_of, ids):
            if session := self.get(id_):
                sessions.append(session)
            else:  # its time is over
                self.connection.zrem(_ALL, id_)
        return sessions, int(self.connection.zcard(_ALL))

    def skipped(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the pictures that were skipped, in the order of time: path and reason."""
        raw = self.connection.lrange(_key(id_, "skipped"), offset, offset + limit - 1)
        return [_pair(entry) for entry in raw]

    def unreadable_folders(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the folders that could not be searched: path and reason."""
        raw = self.connection.lrange(_key(id_, "folders"), offset, offset + limit - 1)
        return [_pair(entry) for entry in raw]

    def open_sessions(self) -> list[Session]:
        """Those that the foreman has to look after."""
        sessions = []
        for id_ in map(text_of, self.connection.smembers(_OPEN)):
            if session := self.get(id_):
                sessions.append(session)
            else:
                self.connection.srem(_OPEN, id_)
        return sorted(sessions, key=lambda session: session.created_at)

    def pending(self, id_: str, limit: int) -> list[int]:
        """The first chunks whose outcome is not in the books yet."""
        numbers: list[Any] = self.connection.zrange(_key(id_, "pending"), 0, limit - 1)
        return [int(number) for number in numbers]

    def chunks(self, id_: str, numbers: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """The pictures of some chunks; one that is not in the books is left out."""
        numbers = list(numbers)
        raw = (
            self.connection.hmget(_key(id_, "chunks"), [str(n) for n in numbers]) if numbers else []
        )
        return {
            number: tuple(json.loads(entry))
            for number, entry in zip(numbers, raw, strict=True)
            if entry is not None
        }

    # What people ask for

    def open(self, directory: str, collection: str) -> tuple[Session, bool]:
        """Begin a session, or join the one that is at this folder already.

        Returns the session, and whether it was there before.
        """
        active = _active(directory, collection)
        id_ = uuid.uuid4().hex

        def write(pipe: Pipeline) -> tuple[str, bool]:
            there = text_of(pipe.get(active) or b"")
            if there and (session := _read(pipe, there)) and not session.is_over:
                return there, True
            pipe.multi()
            pipe.set(active, id_)
            pipe.hset(
                _key(id_),
                mapping={
                    "state": "finding",
                    "directory": json.dumps(directory),
                    "collection": collection,
                    "created_at": now(),
                    "samples": "[]",
                },
            )
            pipe.zadd(_ALL, {id_: time.time()})
            pipe.sadd(_OPEN, id_)
            return id_, False

        found, joined = self._transact(write, active)
        return self._there(found), joined

    def pause(self, id_: str) -> Session:
        """Take back what waits in the queue; what runs is finished.

        Raises:
            SessionOver: there is nothing to be paused any more.
        """
        return self._turn(id_, "paused")

    def resume(self, id_: str) -> Session:
        """Go on after a pause.

        Raises:
            SessionOver: there is nothing to go on with.
        """
        return self._turn(id_, "running")

    def cancel(self, id_: str) -> Session:
        """Give the rest up; what runs is finished, and what was stored stays.

        Raises:
            SessionOver: it has ended already, in another way.
        """
        return self._turn(id_, "cancelled")

    def retry(self, id_: str) -> Session:
        """Queue the pictures again that were skipped, those that had been set aside as well.

        Raises:
            SessionOver: it was cancelled, or another session is at this folder.
        """
        skipped = _key(id_, "skipped")

        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            if session is None:
                return
            if session.state == "cancelled":
                raise SessionOver(f"session {id_} was cancelled: post its folder again")
            active = _active(session.directory, session.collection)
            other = text_of(pipe.get(active) or b"")
            if session.is_over and other not in ("", id_) and _is_on(pipe, other):
                raise SessionOver(f"session {other} is at the same folder: wait for it")
            paths = [_pair(entry)[0] for entry in pipe.lrange(skipped, 0, -1)]
            # First: a worker that has the job at once must not refuse them.
            DeadLetters(self.connection).remove(paths)
            pipe.multi()
            if not paths and session.state != "failed":
                return
            if session.is_over:
                pipe.set(active, id_)
                pipe.sadd(_OPEN, id_)
                for part in _PARTS:
                    pipe.persist(_key(id_, part))
                pipe.hdel(_key(id_), "ended_at", "error")
            state = session.state if session.state == "paused" else "running"
            pipe.hset(
                _key(id_),
                mapping={
                    "state": state if session.images is not None else "finding",
                    "samples": "[]",
                    "skipped": 0,
                },
            )
            pipe.delete(skipped)
            _add_chunks(pipe, session, paths)

        self._transact(write, _key(id_), skipped)
        return self._there(id_)

    # What the finder and the foreman enter

    def lease(self, id_: str, token: str) -> bool:
        """Whether this finder may search the folder now; to be asked again every few seconds."""
        key = _key(id_, "lease")
        if self.connection.set(key, token, nx=True, ex=_LEASE_S):
            return True
        if text_of(self.connection.get(key) or b"") != token:
            return False
        return bool(self.connection.expire(key, _LEASE_S))

    def release(self, id_: str, token: str) -> None:
        """Let another finder search the folder at once."""
        if text_of(self.connection.get(_key(id_, "lease")) or b"") == token:
            self.connection.delete(_key(id_, "lease"))

    def note_found(self, id_: str, token: str, number: int, paths: Sequence[str]) -> None:
        """Keep one chunk of what this finder finds; it counts once all were found."""
        key = _key(id_, f"found:{token}")
        with self.connection.pipeline() as pipe:
            pipe.hset(key, str(number), chunk_of(paths))
            pipe.expire(key, _ATTEMPT_S)
            pipe.execute()

    def note_all_found(
        self,
        id_: str,
        token: str,
        *,
        chunks: int,
        images: int,
        ignored: int,
        unreadable: Sequence[tuple[str, str]],
    ) -> None:
        """Let what this finder found be what the session is about, unless it was told already."""
        found, key = _key(id_, f"found:{token}"), _key(id_)

        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            is_there = chunks == 0 or pipe.hlen(found) == chunks
            pipe.multi()
            if session is None or session.is_over or session.images is not None:
                pipe.delete(found)
                return
            if not is_there:
                return  # Redis lost some of it: it is looked for again
            fields: dict[Any, Any] = {
                "images": images,
                "ignored": ignored,
                "unreadable_folders": len(unreadable),
                "chunks": chunks,
            }
            if session.state == "finding":
                fields["state"] = "running"
            pipe.hset(key, mapping=fields)
            if chunks:
                pipe.rename(found, _key(id_, "chunks"))
                pipe.persist(_key(id_, "chunks"))
                pipe.zadd(_key(id_, "pending"), {str(n): n for n in range(chunks)})
            if unreadable:
                pipe.delete(_key(id_, "folders"))
                pipe.rpush(_key(id_, "folders"), *map(json.dumps, unreadable))

        self._transact(write, key, found)

    def note_failure(self, id_: str, error: str) -> None:
        """End a session of which nothing can come."""

        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            pipe.multi()
            if session is not None and not session.is_over:
                fields: dict[Any, Any] = {
                    "state": "failed",
                    "error": json.dumps(error),
                    "ended_at": now(),
                }
                pipe.hset(_key(id_), mapping=fields)
                _close(pipe, session)

        self._transact(write, _key(id_))

    def queue_next(self, id_: str, most: int, enqueue: Callable[..., None]) -> int:
        """Queue the next chunks and move the mark beyond them, in one step.

        Args:
            id_: of the session.
            most: chunks at once.
            enqueue: adds jobs to a pipeline: called with it, the session and chunk -> paths.

        Returns:
            How many were queued; 0 if there are none left, or the session does not run.
        """

        def write(pipe: Pipeline) -> int:
            session = _read(pipe, id_)
            if session is None or session.state != "running":
                pipe.multi()
                return 0
            numbers = range(session.queued, min(session.queued + most, session.chunks))
            raw = pipe.hmget(_key(id_, "chunks"), [str(n) for n in numbers]) if numbers else []
            chunks = {
                number: tuple(json.loads(entry))
                for number, entry in zip(numbers, raw, strict=True)
                if entry is not None
            }
            pipe.multi()
            if chunks:
                enqueue(pipe, session, chunks)
            if numbers:
                pipe.hset(_key(id_), "queued", numbers.stop)
            return len(numbers)

        return self._transact(write, _key(id_))

    def enter(self, id_: str, outcomes: Sequence[Outcome]) -> None:
        """Enter what became of some chunks; one that is entered already is passed by."""
        pending, key = _key(id_, "pending"), _key(id_)

        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            scores = pipe.zmscore(pending, [str(it.number) for it in outcomes])
            fresh = [it for it, score in zip(outcomes, scores, strict=True) if score is not None]
            pipe.multi()
            if session is None or not fresh:
                return
            pipe.zrem(pending, *(str(it.number) for it in fresh))
            report = sum((it.report for it in fresh), IndexReport(collection=session.collection))
            counts = {
                "indexed": report.indexed,
                "unchanged": report.unchanged,
                "reused": report.reused,
                "skipped": len(report.skipped),
            }
            for name, more in counts.items():
                if more:
                    pipe.hincrby(key, name, more)
                    count(pipe, name, more)
            waits = [it.waited_s for it in fresh if it.waited_s is not None]
            count(pipe, "jobs", len(waits))
            count(pipe, "waited_ms", round(1000 * sum(waits)))
            if report.skipped:
                pipe.rpush(_key(id_, "skipped"), *map(json.dumps, report.skipped.items()))
            samples = _sampled(session, session.done + sum(counts.values()))
            pipe.hset(key, "samples", json.dumps(samples))

        self._transact(write, key, pending)

    def give_up(self, id_: str, numbers: Sequence[int]) -> None:
        """Nothing will become of these chunks of a session that was cancelled."""
        if numbers:
            self.connection.zrem(_key(id_, "pending"), *map(str, numbers))

    def note_settled(self, id_: str, token: str) -> None:
        """The queue reflects the state that was set with this token."""

        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            pipe.multi()
            if session is not None and session.unsettled == token:
                pipe.hdel(_key(id_), "unsettled")

        self._transact(write, _key(id_))

    def finish(self, id_: str) -> None:
        """End a session of which nothing is left to be done."""

        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            left = pipe.zcard(_key(id_, "pending"))
            pipe.multi()
            if session is None or left:
                return
            is_done = session.images is not None and session.queued == session.chunks
            match session.state:
                case "running" | "paused" if is_done:
                    pipe.hset(_key(id_), mapping={"state": "finished", "ended_at": now()})
                case "cancelled":
                    pass
                case _:
                    return
            _close(pipe, session)

        self._transact(write, _key(id_), _key(id_, "pending"))

    def _turn(self, id_: str, wanted: str) -> Session:
        def write(pipe: Pipeline) -> None:
            session = _read(pipe, id_)
            queued = session.queued if session is not None else 0
            pipe.multi()
            if session is None or session.state == wanted:
                return
            if session.is_over:
                raise SessionOver(f"session {id_} is {session.state}: post its folder again")
            fields: dict[Any, Any] = {"state": wanted}
            if wanted == "running" and session.images is None:
                if session.state == "finding":
                    return
                fields["state"] = "finding"
            if wanted == "cancelled":
                fields |= {"ended_at": now(), "queued": session.chunks}
                pipe.zremrangebyscore(_key(id_, "pending"), queued, "+inf")
                pipe.delete(_active(session.directory, session.collection))
            fields |= {"unsettled": uuid.uuid4().hex, "samples": "[]"}
            pipe.hset(_key(id_), mapping=fields)

        self._transact(write, _key(id_))
        return self._there(id_)

    def _transact(self, write: Callable[[Pipeline], T], *keys: str) -> T:
        """Have something read, then written in one step, again if these keys changed between.

        Redis' own ``transaction`` knows of nothing that is returned.
        """
        with self.connection.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(*keys)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
                    answer = write(pipe)
                    pipe.execute()
                except WatchError:
                    continue
                return answer

    def _there(self, id_: str) -> Session:
        session = self.get(id_)
        if session is None:
            raise SessionOver(f"session {id_} is gone from Redis: post its folder again")
        return session


_PARTS = ("", "chunks", "pending", "skipped", "folders")


def _key(id_: str, part: str = "") -> str:
    return f"{_PREFIX}{id_}:{part}" if part else _PREFIX + id_


def _active(directory: str, collection: str) -> str:
    """Where the session that is at a folder is named."""
    digest = hashlib.sha256(collection.encode() + b"\0" + os.fsencode(directory))
    return f"{_PREFIX}at:{digest.hexdigest()[:32]}"


def _read(pipe: Pipeline, id_: str) -> Session | None:
    return Session.read(id_, pipe.hgetall(_key(id_)))


def _is_on(pipe: Pipeline, id_: str) -> bool:
    session = _read(pipe, id_)
    return session is not None and not session.is_over


def _add_chunks(pipe: Pipeline, session: Session, paths: Sequence[str]) -> None:
    """More chunks, after the others."""
    parts = [paths[start : start + DEFAULT_CHUNK] for start in range(0, len(paths), DEFAULT_CHUNK)]
    for number, part in enumerate(parts, session.chunks):
        pipe.hset(_key(session.id, "chunks"), str(number), chunk_of(part))
        pipe.zadd(_key(session.id, "pending"), {str(number): number})
    pipe.hset(_key(session.id), "chunks", session.chunks + len(parts))


def _close(pipe: Pipeline, session: Session) -> None:
    """From here on it is only remembered, for a while."""
    pipe.srem(_OPEN, session.id)
    if session.state != "cancelled":  # else another one may be at the folder already
        pipe.delete(_active(session.directory, session.collection))
    for part in _PARTS:
        pipe.expire(_key(session.id, part), KEPT_S)


def _sampled(session: Session, done: int) -> list[tuple[float, int]]:
    """The rate's samples and one more; if that comes soon after the last, instead of it."""
    at = time.time()
    samples = list(session.samples)
    if len(samples) > 1 and at - samples[-2][0] < _FRESH_S:
        samples.pop()
    return [*samples[-_SAMPLES + 1 :], (at, done)]


def _pair(entry: bytes | str) -> tuple[str, str]:
    first, second = json.loads(entry)
    return str(first), str(second)
