"""What people may ask of a session: start, pause, resume, cancel, retry."""

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from redis.client import Pipeline

from warmclip.errors import SessionOver
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.queues import text_of
from warmclip.work.sessions.session import Session, utc_now
from warmclip.work.sessions.store import (
    ALL,
    OPEN,
    PARTS,
    SessionStore,
    encode_chunk,
    folder_key,
    parse_pair,
    read_session,
    session_key,
)


class SessionCommands(SessionStore):
    """Changes a session's record. The scheduler then brings the queue in line with it."""

    def start(self, directory: str, collection: str) -> tuple[Session, bool]:
        """Begin a session, or join the one that is at this folder already.

        Returns the session, and whether it was there before.
        """
        active = folder_key(directory, collection)
        id_ = uuid.uuid4().hex

        def write(pipe: Pipeline) -> tuple[str, bool]:
            there = text_of(pipe.get(active) or b"")
            if there and (session := read_session(pipe, there)) and not session.is_over:
                return there, True
            pipe.multi()
            pipe.set(active, id_)
            pipe.hset(
                session_key(id_),
                mapping={
                    "state": "finding",
                    "directory": json.dumps(directory),
                    "collection": collection,
                    "created_at": utc_now(),
                    "samples": "[]",
                },
            )
            pipe.zadd(ALL, {id_: time.time()})
            pipe.sadd(OPEN, id_)
            return id_, False

        found, joined = self.transact(write, active)
        return self._require(found), joined

    def pause(self, id_: str) -> Session:
        """Take back what waits in the queue; what runs is finished.

        Raises:
            SessionOver: there is nothing to be paused any more.
        """
        return self._change_state(id_, "paused")

    def resume(self, id_: str) -> Session:
        """Go on after a pause.

        Raises:
            SessionOver: there is nothing to go on with.
        """
        return self._change_state(id_, "running")

    def cancel(self, id_: str) -> Session:
        """Give the rest up; what runs is finished, and what was stored stays.

        Raises:
            SessionOver: it has ended already, in another way.
        """
        return self._change_state(id_, "cancelled")

    def retry(self, id_: str, size: int) -> Session:
        """Queue the pictures again that were skipped, those that had been set aside as well.

        Args:
            id_: of the session.
            size: pictures in one job.

        Raises:
            SessionOver: it was cancelled, or another session is at this folder.
        """
        skipped = session_key(id_, "skipped")

        def write(pipe: Pipeline) -> None:
            session = read_session(pipe, id_)
            if session is None:
                return
            if session.state == "cancelled":
                raise SessionOver(f"session {id_} was cancelled: post its folder again")
            active = folder_key(session.directory, session.collection)
            other = text_of(pipe.get(active) or b"")
            if session.is_over and other not in ("", id_) and _is_on(pipe, other):
                raise SessionOver(f"session {other} is at the same folder: wait for it")
            paths = [parse_pair(entry)[0] for entry in pipe.lrange(skipped, 0, -1)]
            # First: a worker that has the job at once must not refuse them.
            PoisonedFiles(self.connection).remove(paths)
            pipe.multi()
            if not paths and session.state != "failed":
                return
            if session.is_over:
                pipe.set(active, id_)
                pipe.sadd(OPEN, id_)
                for part in PARTS:
                    pipe.persist(session_key(id_, part))
                pipe.hdel(session_key(id_), "ended_at", "error")
            state = session.state if session.state == "paused" else "running"
            pipe.hset(
                session_key(id_),
                mapping={
                    "state": state if session.images is not None else "finding",
                    "samples": "[]",
                    "skipped": 0,
                },
            )
            pipe.delete(skipped)
            _add_chunks(pipe, session, paths, size)

        self.transact(write, session_key(id_), skipped)
        return self._require(id_)

    def _change_state(self, id_: str, wanted: str) -> Session:
        def write(pipe: Pipeline) -> None:
            session = read_session(pipe, id_)
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
                fields |= {"ended_at": utc_now(), "queued": session.chunks}
                pipe.zremrangebyscore(session_key(id_, "pending"), queued, "+inf")
                pipe.delete(folder_key(session.directory, session.collection))
            fields |= {"unsettled": uuid.uuid4().hex, "samples": "[]"}
            pipe.hset(session_key(id_), mapping=fields)

        self.transact(write, session_key(id_))
        return self._require(id_)

    def _require(self, id_: str) -> Session:
        session = self.get(id_)
        if session is None:
            raise SessionOver(f"session {id_} is gone from Redis: post its folder again")
        return session


def _is_on(pipe: Pipeline, id_: str) -> bool:
    session = read_session(pipe, id_)
    return session is not None and not session.is_over


def _add_chunks(pipe: Pipeline, session: Session, paths: Sequence[str], size: int) -> None:
    """More chunks, after the others."""
    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    for number, part in enumerate(parts, session.chunks):
        pipe.hset(session_key(session.id, "chunks"), str(number), encode_chunk(part))
        pipe.zadd(session_key(session.id, "pending"), {str(number): number})
    pipe.hset(session_key(session.id), "chunks", session.chunks + len(parts))
