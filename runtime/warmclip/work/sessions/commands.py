"""What people may ask of a session: start, pause, resume, cancel, retry.

A command changes the record and nothing else. The scheduler then brings the queue in line with it.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from redis.client import Pipeline

from warmclip.errors import SessionOver
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.sessions.session import Session, utc_now
from warmclip.work.sessions.store import (
    ALL,
    KEPT_PARTS,
    OPEN,
    SessionStore,
    encode_chunk,
    folder_key,
    parse_pair,
    read_chunks,
    read_queued,
    read_session,
    read_text,
    session_folder_key,
    session_key,
)


class SessionCommands(SessionStore):
    """Changes a session's record as people want it."""

    def start(
        self, directory: str, collection: str, exclude: Sequence[str] = ()
    ) -> tuple[Session, bool]:
        """Start a session, or join the one that is at this folder already.

        One that excludes something else is another one. A session that is joined searches the
        folder once more, for what was added since.

        Returns the session, and whether it was there before.
        """
        folder = folder_key(directory, collection, exclude)
        new = uuid.uuid4().hex

        def write(pipe: Pipeline) -> tuple[str, bool]:
            # A session that ends lets go of the folder in the same transaction.
            there = read_text(pipe, folder)
            session = read_session(pipe, there) if there else None
            pipe.multi()
            if session is not None and not session.is_over:
                pipe.hincrby(session_key(there), "rescans_asked", 1)
                return there, True
            pipe.set(folder, new)
            pipe.hset(
                session_key(new),
                mapping={
                    "state": "finding",
                    "directory": json.dumps(directory),
                    "collection": collection,
                    "exclude": json.dumps(list(exclude)),
                    "created_at": utc_now(),
                    "samples": "[]",
                },
            )
            pipe.zadd(ALL, {new: time.time()})
            pipe.sadd(OPEN, new)
            return new, False

        id_, joined = self.transact(write, folder)
        return self._require(id_), joined

    def pause(self, id_: str) -> Session:
        """Have what waits in the queue taken back; what runs is finished.

        Raises:
            SessionOver: there is nothing to be paused any more.
        """

        def write(pipe: Pipeline) -> None:
            session = self._open_session(pipe, id_, "paused")
            pipe.multi()
            if session is not None:
                _change(pipe, session, {"state": "paused"})

        self.transact(write, session_key(id_))
        return self._require(id_)

    def resume(self, id_: str) -> Session:
        """Go on after a pause.

        Raises:
            SessionOver: there is nothing to go on with.
        """

        def write(pipe: Pipeline) -> None:
            session = self._open_session(pipe, id_, "running")
            pipe.multi()
            if session is not None:
                state = "finding" if session.images is None else "running"
                if session.state != state:
                    _change(pipe, session, {"state": state})

        self.transact(write, session_key(id_))
        return self._require(id_)

    def cancel(self, id_: str) -> Session:
        """Give the rest up; what runs is finished, and what was stored stays.

        Raises:
            SessionOver: it has ended already, in another way.
        """

        def write(pipe: Pipeline) -> None:
            session = self._open_session(pipe, id_, "cancelled")
            if session is None:
                pipe.multi()
                return
            folder = session_folder_key(session)
            pipe.watch(folder)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            holder = read_text(pipe, folder)
            chunks = read_chunks(pipe, id_, read_queued(pipe, id_))
            pipe.multi()
            _change(pipe, session, {"state": "cancelled", "ended_at": utc_now()})
            # What has a job is kept until it is known what becomes of that.
            pipe.unlink(session_key(id_, "pending"), session_key(id_, "chunks"))
            _add_chunks(pipe, id_, chunks)
            if holder == id_:
                pipe.delete(folder)

        self.transact(write, session_key(id_))
        return self._require(id_)

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
                pipe.multi()
                return
            if session.state == "cancelled":
                raise SessionOver(f"session {id_} was cancelled: post its folder again")
            folder = session_folder_key(session)
            pipe.watch(folder)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            other = read_text(pipe, folder)
            if session.is_over and other not in ("", id_) and _is_open(pipe, other):
                raise SessionOver(f"session {other} is at the same folder: wait for it")
            entries = [parse_pair(entry) for entry in pipe.lrange(skipped, 0, -1)]
            paths = [entry[0] for entry in entries if entry is not None]
            pipe.multi()
            if not paths and session.state != "failed":
                return
            PoisonedFiles(self.connection).remove(paths, pipe)
            if session.is_over:
                pipe.set(folder, id_)
                pipe.sadd(OPEN, id_)
                for part in KEPT_PARTS:
                    pipe.persist(session_key(id_, part))
                pipe.hdel(session_key(id_), "ended_at", "error")
            parts = [paths[start : start + size] for start in range(0, len(paths), size)]
            fields: dict[str, Any] = {"skipped": 0, "chunks": session.chunks + len(parts)}
            if session.state != "paused":
                fields["state"] = "finding" if session.images is None else "running"
            _change(pipe, session, fields)
            pipe.delete(skipped)
            _add_chunks(pipe, id_, dict(enumerate(parts, session.chunks)))

        self.transact(write, session_key(id_), skipped)
        return self._require(id_)

    def _open_session(self, pipe: Pipeline, id_: str, wanted: str) -> Session | None:
        """A session whose state may be changed; None if it is gone, or in that state already."""
        session = read_session(pipe, id_)
        if session is None or session.state == wanted:
            return None
        if session.is_over:
            raise SessionOver(f"session {id_} is {session.state}: post its folder again")
        return session

    def _require(self, id_: str) -> Session:
        session = self.get(id_)
        if session is None:
            raise SessionOver(f"session {id_} is gone from Redis: post its folder again")
        return session


def _is_open(pipe: Pipeline, id_: str) -> bool:
    session = read_session(pipe, id_)
    return session is not None and not session.is_over


def _change(pipe: Pipeline, session: Session, fields: Mapping[str, Any]) -> None:
    """Change a record for good: steps that were planned before do nothing any more."""
    changed: dict[Any, Any] = {"revision": session.revision + 1, "samples": "[]"}
    pipe.hset(session_key(session.id), mapping=changed | dict(fields))


def _add_chunks(pipe: Pipeline, id_: str, chunks: Mapping[int, Sequence[str]]) -> None:
    """Chunks that are to be queued, by number."""
    if chunks:
        encoded: dict[Any, Any] = {str(n): encode_chunk(paths) for n, paths in chunks.items()}
        pipe.hset(session_key(id_, "chunks"), mapping=encoded)
        pipe.zadd(session_key(id_, "pending"), {str(number): number for number in chunks})
