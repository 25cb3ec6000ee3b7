"""The records of all sessions, in Redis beside RQ's own, and how they are read.

Every change is one transaction on what it has read. It may be made twice, by several processes at
once, or be cut short; the record is then as it was, or as it should be.

One session consists of

====================  ==============================================================
``session:ID``        hash: state, folder, counts, and a revision that every change
                      which concerns the queue increments
``:chunks``           hash: number -> the paths of a chunk without an outcome
``:pending``          sorted set: the numbers of the chunks without an outcome
``:queued``           set: those of them that have a job in RQ
``:skipped``          list: path and reason of each picture that was skipped
``:folders``          list: path and reason of each folder that cannot be searched
``:known``            string: eight bytes for each file that was found
``:lease``            string: the scanner that searches the folder now
``:declined``         hash: scanner -> why it cannot search the folder
``session:at:HASH``   string: the session that is at a folder, for a collection
====================  ==============================================================
"""

import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError, WatchError

from warmclip.errors import Overloaded
from warmclip.work.patience import is_wrong_type
from warmclip.work.replies import text_of, warn_once
from warmclip.work.sessions.session import Session

log = logging.getLogger(__name__)

T = TypeVar("T")

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_PREFIX = "rq:warmclip:session:"
ALL = "rq:warmclip:sessions"  # id by time of birth
OPEN = "rq:warmclip:sessions:open"  # ids of those that the scheduler looks after

KEPT_PARTS = ("", "skipped", "folders", "known")  # for a while after the end
WORKING_PARTS = ("chunks", "pending", "queued", "lease", "declined")  # until the end

_KEPT_S = 7 * 24 * 3600  # that a session is remembered after its end
_MOST_DIGITS = 12  # of a chunk's number
_MOST_TRIES = 100  # of one transaction
_LONGEST_REST_S = 0.02  # between two of them


class SessionStore:
    """All sessions, to be read. It may be used from several threads."""

    def __init__(self, connection: Redis) -> None:
        self.connection = connection

    def ping(self) -> None:
        """Return if Redis answers."""
        self.connection.ping()

    def get(self, id_: str) -> Session | None:
        """One session; None if there is none, or it was forgotten."""
        return read_session(self.connection, id_)

    def page(self, offset: int, limit: int) -> tuple[list[Session], int]:
        """Some sessions, the youngest first, and how many there are in all."""
        ids: list[Any] = self.connection.zrevrange(ALL, offset, offset + limit - 1)
        sessions = []
        for id_ in ids:
            if session := self.get(text_of(id_)):
                sessions.append(session)
            else:  # its time is over
                self._forget(self.connection.zrem, ALL, id_)
        return sessions, int(self.connection.zcard(ALL))

    def skipped(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the pictures that were skipped, in the order of time: path and reason."""
        return self._pairs(session_key(id_, "skipped"), offset, limit)

    def unreadable_folders(self, id_: str, offset: int, limit: int) -> list[tuple[str, str]]:
        """Some of the folders that could not be searched: path and reason."""
        return self._pairs(session_key(id_, "folders"), offset, limit)

    def open_sessions(self) -> list[Session]:
        """Those that the scheduler looks after, the oldest first."""
        sessions = []
        for id_ in self.connection.smembers(OPEN):
            if session := self.get(text_of(id_)):
                sessions.append(session)
            else:
                self._forget(self.connection.srem, OPEN, id_)
        return sorted(sessions, key=lambda session: (session.created_at, session.id))

    def chunk_paths(self, id_: str, numbers: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """The pictures of some chunks; one that is not recorded is left out."""
        return read_chunks(self.connection, id_, list(numbers))

    def _forget(self, remove: Callable[[str, Any], Any], key: str, id_: Any) -> None:
        """Take what is no session any more out of a list of them, if Redis takes writes."""
        try:
            remove(key, id_)
        except ResponseError as exc:
            warn_once(f"{key} in Redis names what is no session, and cannot be changed: {exc}")

    def _pairs(self, key: str, offset: int, limit: int) -> list[tuple[str, str]]:
        raw = self.connection.lrange(key, offset, offset + limit - 1)
        return [pair for entry in raw if (pair := parse_pair(entry)) is not None]

    def transact(self, write: Callable[[Pipeline], T], *keys: str) -> T:
        """Read, then write in one step; again if one of these keys changed in between.

        Redis' own ``transaction`` returns nothing of what ``write`` returns.

        Raises:
            Overloaded: the keys changed at every one of a hundred tries.
        """
        for _ in range(_MOST_TRIES):
            done, answer = self.try_transact(write, *keys)
            if done:
                return answer
            time.sleep(random.uniform(0, _LONGEST_REST_S))  # noqa: S311 - no secret
        raise Overloaded(
            f"{keys[0]} in Redis was changed by somebody else during each of {_MOST_TRIES} "
            "attempts to change it: try again in a moment"
        )

    def try_transact(self, write: Callable[[Pipeline], T], *keys: str) -> tuple[bool, T]:
        """The same, once: whether the keys did not change, and what ``write`` returned."""
        with self.connection.pipeline() as pipe:
            pipe.watch(*keys)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            answer = write(pipe)
            try:
                pipe.execute()
            except WatchError:
                return False, answer
            except ResponseError as exc:
                if not is_wrong_type(exc):
                    raise
                # Of a transaction, Redis carries out the other commands all the same.
                warn_once(f"a record in Redis is not warmclip's: {exc}")
            return True, answer


def session_key(id_: str, part: str = "") -> str:
    """The key of a part of a session's record."""
    return f"{_PREFIX}{id_}:{part}" if part else _PREFIX + id_


def folder_key(directory: str, collection: str, exclude: Sequence[str] = ()) -> str:
    """The key that names the session of a folder, of which this is excluded."""
    digest = hashlib.sha256(collection.encode() + b"\0" + os.fsencode(directory))
    if exclude:
        digest.update(b"\0" + json.dumps(list(exclude)).encode())
    return f"{_PREFIX}at:{digest.hexdigest()[:32]}"


def session_folder_key(session: Session) -> str:
    """The key that names a session by its folder."""
    return folder_key(session.directory, session.collection, session.exclude)


def read_session(connection: Redis | Pipeline, id_: str) -> Session | None:
    """A session, as a transaction sees it that watches its record, or nobody in particular."""
    try:
        return Session.parse(id_, connection.hgetall(session_key(id_)))
    except ResponseError as exc:
        if not is_wrong_type(exc):
            raise
        return None


def read_text(connection: Redis | Pipeline, key: str) -> str:
    """A string; empty if there is none, or the key holds something else."""
    try:
        return text_of(connection.get(key) or b"")
    except ResponseError as exc:
        if not is_wrong_type(exc):
            raise
        return ""


def read_chunks(
    connection: Redis | Pipeline, id_: str, numbers: Sequence[int]
) -> dict[int, tuple[str, ...]]:
    """The pictures of some chunks; one that is not recorded, or is no chunk, is left out."""
    if not numbers:
        return {}
    raw = connection.hmget(session_key(id_, "chunks"), [str(number) for number in numbers])
    chunks = ((n, parse_chunk(entry)) for n, entry in zip(numbers, raw, strict=True))
    return {number: paths for number, paths in chunks if paths}


def read_queued(connection: Redis | Pipeline, id_: str) -> list[int]:
    """The chunks that have a job in RQ, in order."""
    return parse_numbers(connection.smembers(session_key(id_, "queued")))[0]


def parse_numbers(members: Iterable[Any]) -> tuple[list[int], list[Any]]:
    """Numbers of chunks, in order, and what somebody else wrote there."""
    numbers, strays = [], []
    for member in members:
        text = text_of(member)
        if len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit():
            numbers.append(int(text))
        else:
            strays.append(member)
    return sorted(numbers), strays


def encode_chunk(paths: Sequence[str]) -> str:
    """A chunk as it lies in Redis: file names need not be UTF-8, and JSON escapes them."""
    return json.dumps(list(paths))


def parse_chunk(entry: bytes | str | None) -> tuple[str, ...]:
    """The inverse; nothing for what is no chunk."""
    try:
        paths = json.loads(entry or b"")
    except (ValueError, RecursionError):
        return ()
    is_chunk = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    return tuple(paths) if is_chunk else ()


def parse_pair(entry: bytes | str) -> tuple[str, str] | None:
    """A path and a reason; None for what is none."""
    try:
        path, reason = json.loads(entry)
    except (ValueError, TypeError, RecursionError):
        return None
    return str(path), str(reason)


def close_session(pipe: Pipeline, session: Session, holder: str) -> None:
    """Nothing more is done for it; its record is kept for a week.

    Args:
        pipe: a transaction that watches the record and the folder's key.
        session: that ends.
        holder: the session that the folder's key names.
    """
    pipe.srem(OPEN, session.id)
    if holder == session.id:
        pipe.delete(session_folder_key(session))
    pipe.unlink(*(session_key(session.id, part) for part in WORKING_PARTS))
    for part in KEPT_PARTS:
        pipe.expire(session_key(session.id, part), _KEPT_S)
