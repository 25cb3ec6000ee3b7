"""The records of all sessions, in Redis beside RQ's own, and how they are read.

Every change is one transaction on what it has read. It may be made twice, by several processes at
once, or be cut short; the record is then as it was, or as it should be.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from warmclip.work.queues import text_of
from warmclip.work.sessions.session import Session

T = TypeVar("T")

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_PREFIX = "rq:warmclip:session:"
ALL = "rq:warmclip:sessions"  # id by time of birth
OPEN = "rq:warmclip:sessions:open"  # ids of those that the scheduler looks after
PARTS = ("", "chunks", "pending", "skipped", "folders")  # of one session's record

_KEPT_S = 7 * 24 * 3600  # that a session is remembered after its end


class SessionStore:
    """All sessions, to be read. It may be used from several threads."""

    def __init__(self, connection: Redis) -> None:
        self.connection = connection

    def ping(self) -> None:
        """Return if Redis answers."""
        self.connection.ping()

    def get(self, id_: str) -> Session | None:
        """One session; None if there is none, or it was forgotten."""
        return Session.parse(id_, self.connection.hgetall(session_key(id_)))

    def page(self, offset: int, limit: int) -> tuple[list[Session], int]:
        """Some sessions, the youngest first, and how many there are in all."""
        ids: list[Any] = self.connection.zrevrange(ALL, offset, offset + limit - 1)
        sessions = []
        for id_ in map(text_of, ids):
            if session := self.get(id_):
                sessions.append(session)
            else:  # its time is over
                self.connection.zrem(ALL, id_)
        return sessions, int(self.connection.zcard(ALL))

    def skipped(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the pictures that were skipped, in the order of time: path and reason."""
        raw = self.connection.lrange(session_key(id_, "skipped"), offset, offset + limit - 1)
        return [parse_pair(entry) for entry in raw]

    def unreadable_folders(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the folders that could not be searched: path and reason."""
        raw = self.connection.lrange(session_key(id_, "folders"), offset, offset + limit - 1)
        return [parse_pair(entry) for entry in raw]

    def open_sessions(self) -> list[Session]:
        """Those that the scheduler looks after, the oldest first."""
        sessions = []
        for id_ in map(text_of, self.connection.smembers(OPEN)):
            if session := self.get(id_):
                sessions.append(session)
            else:
                self.connection.srem(OPEN, id_)
        return sorted(sessions, key=lambda session: session.created_at)

    def pending_chunks(self, id_: str, limit: int) -> list[int]:
        """The first chunks whose outcome is not recorded yet."""
        numbers: list[Any] = self.connection.zrange(session_key(id_, "pending"), 0, limit - 1)
        return [int(number) for number in numbers]

    def chunk_paths(self, id_: str, numbers: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """The pictures of some chunks; one that is not recorded is left out."""
        return read_chunks(self.connection, id_, list(numbers))

    def transact(self, write: Callable[[Pipeline], T], *keys: str) -> T:
        """Read, then write in one step; again if one of these keys changed in between.

        Redis' own ``transaction`` returns nothing of what ``write`` returns.
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


def session_key(id_: str, part: str = "") -> str:
    """The key of a part of a session's record."""
    return f"{_PREFIX}{id_}:{part}" if part else _PREFIX + id_


def folder_key(directory: str, collection: str) -> str:
    """The key that names the session of a folder."""
    digest = hashlib.sha256(collection.encode() + b"\0" + os.fsencode(directory))
    return f"{_PREFIX}at:{digest.hexdigest()[:32]}"


def read_session(pipe: Pipeline, id_: str) -> Session | None:
    """A session as a transaction sees it that watches its record."""
    return Session.parse(id_, pipe.hgetall(session_key(id_)))


def read_chunks(
    connection: Redis | Pipeline, id_: str, numbers: Sequence[int]
) -> dict[int, tuple[str, ...]]:
    """The pictures of some chunks, as a transaction sees them, or nobody in particular."""
    if not numbers:
        return {}
    raw = connection.hmget(session_key(id_, "chunks"), [str(number) for number in numbers])
    return {
        number: tuple(json.loads(entry))
        for number, entry in zip(numbers, raw, strict=True)
        if entry is not None
    }


def encode_chunk(paths: Sequence[str]) -> str:
    """A chunk as it lies in Redis: file names need not be UTF-8, and JSON escapes them."""
    return json.dumps(list(paths))


def parse_pair(entry: bytes | str) -> tuple[str, str]:
    """A path and a reason."""
    first, second = json.loads(entry)
    return str(first), str(second)


def close_session(pipe: Pipeline, session: Session) -> None:
    """Nothing more is done for it; its record is kept for a week."""
    pipe.srem(OPEN, session.id)
    if session.state != "cancelled":  # else another one may be at the folder already
        pipe.delete(folder_key(session.directory, session.collection))
    for part in PARTS:
        pipe.expire(session_key(session.id, part), _KEPT_S)
