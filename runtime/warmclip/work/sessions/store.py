"""The books of all sessions, in Redis beside RQ's own records, and how they are read.

Every change is one transaction on what it has read, so it may be made twice, by several processes
at once, or be cut short, and leaves the books as they were or as they should be.
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
OPEN = "rq:warmclip:sessions:open"  # ids of those that may need the foreman
PARTS = ("", "chunks", "pending", "skipped", "folders")  # of one session's books

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
        return Session.read(id_, self.connection.hgetall(key_of(id_)))

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
        raw = self.connection.lrange(key_of(id_, "skipped"), offset, offset + limit - 1)
        return [pair_of(entry) for entry in raw]

    def unreadable_folders(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the folders that could not be searched: path and reason."""
        raw = self.connection.lrange(key_of(id_, "folders"), offset, offset + limit - 1)
        return [pair_of(entry) for entry in raw]

    def open_sessions(self) -> list[Session]:
        """Those that the foreman has to look after."""
        sessions = []
        for id_ in map(text_of, self.connection.smembers(OPEN)):
            if session := self.get(id_):
                sessions.append(session)
            else:
                self.connection.srem(OPEN, id_)
        return sorted(sessions, key=lambda session: session.created_at)

    def pending(self, id_: str, limit: int) -> list[int]:
        """The first chunks whose outcome is not in the books yet."""
        numbers: list[Any] = self.connection.zrange(key_of(id_, "pending"), 0, limit - 1)
        return [int(number) for number in numbers]

    def chunks(self, id_: str, numbers: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """The pictures of some chunks; one that is not in the books is left out."""
        return read_chunks(self.connection, id_, list(numbers))

    def transact(self, write: Callable[[Pipeline], T], *keys: str) -> T:
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


def key_of(id_: str, part: str = "") -> str:
    """Where a part of a session's books lies."""
    return f"{_PREFIX}{id_}:{part}" if part else _PREFIX + id_


def place_of(directory: str, collection: str) -> str:
    """Where the session that is at a folder is named."""
    digest = hashlib.sha256(collection.encode() + b"\0" + os.fsencode(directory))
    return f"{_PREFIX}at:{digest.hexdigest()[:32]}"


def read(pipe: Pipeline, id_: str) -> Session | None:
    """A session as a transaction sees it that watches its record."""
    return Session.read(id_, pipe.hgetall(key_of(id_)))


def read_chunks(
    connection: Redis | Pipeline, id_: str, numbers: Sequence[int]
) -> dict[int, tuple[str, ...]]:
    """The pictures of some chunks, as a transaction sees them, or nobody in particular."""
    if not numbers:
        return {}
    raw = connection.hmget(key_of(id_, "chunks"), [str(number) for number in numbers])
    return {
        number: tuple(json.loads(entry))
        for number, entry in zip(numbers, raw, strict=True)
        if entry is not None
    }


def chunk_of(paths: Sequence[str]) -> str:
    """A chunk as it lies in Redis: file names need not be UTF-8, and JSON escapes them."""
    return json.dumps(list(paths))


def pair_of(entry: bytes | str) -> tuple[str, str]:
    """A path and a reason."""
    first, second = json.loads(entry)
    return str(first), str(second)


def close(pipe: Pipeline, session: Session) -> None:
    """From here on it is only remembered, for a while."""
    pipe.srem(OPEN, session.id)
    if session.state != "cancelled":  # else another one may be at the folder already
        pipe.delete(place_of(session.directory, session.collection))
    for part in PARTS:
        pipe.expire(key_of(session.id, part), _KEPT_S)
