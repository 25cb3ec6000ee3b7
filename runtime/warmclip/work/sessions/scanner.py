"""Searches the folders of sessions for pictures, one folder after the other."""

import hashlib
import json
import logging
import os
import sys
import time
import uuid
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from warmclip.errors import FolderUnreadable, WarmclipError
from warmclip.indexing.exclusion import Exclusion
from warmclip.indexing.roots import Roots, require_roots
from warmclip.indexing.walk import Walk
from warmclip.settings import Settings
from warmclip.work.naming import chunk_size
from warmclip.work.replies import text_of
from warmclip.work.sessions.leases import ScanLeases
from warmclip.work.sessions.progress import SessionProgress
from warmclip.work.sessions.session import Session
from warmclip.work.sessions.store import SessionStore, encode_chunk, read_session, session_key

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 3.0  # whether a scan is still wanted
_AGAIN_S = 5.0  # after a folder could not be searched, it is looked at again
_ATTEMPT_S = 3600  # that the chunks of an unfinished scan are kept
_DIGEST_BYTES = 8


@dataclass(slots=True, kw_only=True)
class Scan:
    """What one search of a folder has found so far."""

    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    rescans_asked: int = 0  # how often the folder had been posted again when it began
    chunks: int = 0
    images: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    digests: bytearray = field(default_factory=bytearray)  # of the files, eight bytes each
    unreadable: Mapping[str, str] = field(default_factory=dict)  # folder -> why


class ScanResults(SessionStore):
    """What scans record: the pictures of a folder, all of them or none."""

    def __init__(self, connection: Redis, leases: ScanLeases) -> None:
        super().__init__(connection)
        self._leases = leases

    def add_chunk(self, id_: str, scan: Scan, paths: Sequence[str]) -> None:
        """Keep some pictures; they count once the scan is complete."""
        key = _found_key(id_, scan)
        with self.connection.pipeline() as pipe:
            pipe.hset(key, str(scan.chunks), encode_chunk(paths))
            pipe.expire(key, _ATTEMPT_S)
            pipe.execute()
        scan.chunks += 1
        scan.images += len(paths)

    def known_files(self, id_: str) -> "KnownFiles":
        """The files that complete scans of this session have found."""
        raw = self.connection.get(session_key(id_, "known"))
        return KnownFiles(raw if isinstance(raw, bytes) else b"")

    def complete(self, id_: str, scan: Scan) -> None:
        """Add what a scan found to the session, if this scanner still holds the lease."""
        found, key = _found_key(id_, scan), session_key(id_)

        def write(pipe: Pipeline) -> None:
            session = read_session(pipe, id_)
            if session is None or session.is_over or not self._leases.is_held(pipe, id_):
                pipe.multi()
                pipe.delete(found)
                return
            if pipe.hlen(found) != scan.chunks:  # Redis lost some of it: the next scan finds it
                pipe.multi()
                return
            is_first = session.chunks == 0
            chunks = {} if is_first else pipe.hgetall(found)
            pipe.multi()
            fields: dict[Any, Any] = {
                "images": (session.images or 0) + scan.images,
                "ignored": json.dumps(scan.ignored),
                "unreadable_folders": len(scan.unreadable),
                "chunks": session.chunks + scan.chunks,
                "rescans_done": scan.rescans_asked,
                "revision": session.revision + 1,
            }
            if session.state == "finding":
                fields["state"] = "running"
            pipe.hset(key, mapping=fields)
            if scan.chunks:
                numbers = range(session.chunks, session.chunks + scan.chunks)
                pipe.zadd(session_key(id_, "pending"), {str(n): n for n in numbers})
                if is_first:
                    pipe.rename(found, session_key(id_, "chunks"))
                    pipe.persist(session_key(id_, "chunks"))
                else:
                    added: dict[Any, Any] = dict(zip(numbers, chunks.values(), strict=True))
                    pipe.hset(session_key(id_, "chunks"), mapping=added)
                    pipe.delete(found)
            if scan.digests:
                pipe.append(session_key(id_, "known"), bytes(scan.digests))
            pipe.delete(session_key(id_, "folders"), session_key(id_, "declined"))
            if scan.unreadable:
                pipe.rpush(session_key(id_, "folders"), *map(json.dumps, scan.unreadable.items()))

        self.transact(write, key, found, session_key(id_, "lease"))

    def decline(self, id_: str, reason: str) -> bool:
        """Tell that this scanner cannot search a folder; whether no living scanner can."""
        key = session_key(id_, "declined")
        self.connection.hset(key, self._leases.token, reason.encode("utf-8", "backslashreplace"))
        declined = set(map(text_of, self.connection.hkeys(key)))
        return self._leases.living() <= declined

    def undecline(self, id_: str) -> None:
        """This scanner can search the folder after all."""
        self.connection.hdel(session_key(id_, "declined"), self._leases.token)


class KnownFiles:
    """Files by path, size and time of modification: eight bytes each, sorted."""

    def __init__(self, digests: bytes) -> None:
        whole = len(digests) // _DIGEST_BYTES * _DIGEST_BYTES
        numbers = array("Q", digests[:whole])
        if sys.byteorder == "little":
            numbers.byteswap()
        self._numbers = array("Q", sorted(numbers))

    def __contains__(self, digest: bytes) -> bool:
        number = int.from_bytes(digest, "big")
        place = bisect_left(self._numbers, number)
        return place < len(self._numbers) and self._numbers[place] == number


class Scanner:
    """Searches folders, in a thread. Of several scanners, one at a time searches a folder.

    What a scan finds counts once it is complete; after one that was cut short, the next begins
    again. A folder that this scanner cannot search is left to the others. When all that live have
    declined it, its session fails.
    """

    def __init__(self, connection: Redis, leases: ScanLeases, settings: Settings) -> None:
        self._results = ScanResults(connection, leases)
        self._progress = SessionProgress(connection)
        self._leases = leases
        self._settings = settings
        self._declined: dict[str, float] = {}  # session -> when it is looked at again
        self.stopped = False
        self.moved_at = time.monotonic()
        """When it last found something, or was done with all folders."""

    def scan_all(self) -> None:
        """Search each folder that waits for a scan."""
        sessions = self._results.open_sessions()
        ids = {session.id for session in sessions}
        self._declined = {id_: at for id_, at in self._declined.items() if id_ in ids}
        for session in sessions:
            if self.stopped:
                return
            if session.needs_scan and time.monotonic() >= self._declined.get(session.id, 0.0):
                self._try(session)
        self.moved_at = time.monotonic()

    def _try(self, session: Session) -> None:
        """Search one folder, or leave it to others; nothing but Redis stops the next one."""
        try:
            # Again: links, mounts and roots may have changed since the session was started.
            folder = require_roots(Roots(self._settings.roots)).resolve_folder(session.directory)
            if not self._leases.acquire(session.id):
                return
            try:
                self._scan(session, folder)
            finally:
                self._leases.release(session.id)
        except WarmclipError as exc:
            self._decline(session, str(exc))
        except RedisError as exc:
            self._progress.give_up(session, exc)
        except OSError:  # of a connection, from redis-py below 7.2
            raise
        except Exception as exc:  # a bug: the other folders are searched all the same
            log.exception("session %s: the search of its folder failed", session.id)
            self._decline(session, f"the search of {session.directory!r} failed: {exc!r}")

    def _scan(self, session: Session, folder: str) -> None:
        if session.id in self._declined:
            del self._declined[session.id]
            self._results.undecline(session.id)
        # Asked for by now: whoever posts the folder after this line makes another scan necessary.
        now = self._results.get(session.id)
        if now is None or not now.needs_scan:
            return
        scan = Scan(rescans_asked=now.rescans_asked)
        known = self._results.known_files(session.id) if now.images is not None else KnownFiles(b"")
        exclusion = Exclusion(session.exclude, Roots(self._settings.roots))
        walk, size = Walk(folder, exclusion), chunk_size(self._settings)
        chunk: list[str] = []
        checked_at = time.monotonic()
        for path in _paths_of(walk, folder):
            digest = _digest(path)
            if digest not in known:
                scan.digests += digest
                chunk.append(path)
            if len(chunk) == size:
                self._results.add_chunk(session.id, scan, chunk)
                chunk = []
            self.moved_at = time.monotonic()
            if self.moved_at - checked_at > _CHECK_EVERY_S:
                checked_at = self.moved_at
                if self.stopped or not self._is_wanted(session.id):
                    return
        if chunk:
            self._results.add_chunk(session.id, scan, chunk)
        if folder in walk.problems:
            raise FolderUnreadable(f"{folder}: {walk.problems[folder]}")
        scan.ignored, scan.unreadable = walk.ignored, walk.problems | walk.closed
        self._results.complete(session.id, scan)
        log.info("session %s: %d pictures in %s", session.id, scan.images, folder)

    def _is_wanted(self, id_: str) -> bool:
        session = self._results.get(id_)
        is_open = session is not None and not session.is_over
        return is_open and self._leases.is_held(self._results.connection, id_)

    def _decline(self, session: Session, reason: str) -> None:
        """Leave a folder to other scanners; without any, the session fails with this reason."""
        is_new = session.id not in self._declined
        self._declined[session.id] = time.monotonic() + _AGAIN_S
        if not self._results.decline(session.id, reason):
            if is_new:
                log.info("session %s is left to other servers: %s", session.id, reason)
        elif session.images is None:
            self._progress.fail(session.id, reason)
        else:  # what the first scan found is indexed all the same
            scan = Scan(rescans_asked=session.rescans_asked, ignored=session.ignored)
            scan.unreadable = {session.directory: reason}
            if self._leases.acquire(session.id):
                self._results.complete(session.id, scan)
                self._leases.release(session.id)


def _paths_of(walk: Walk, folder: str) -> Iterator[str]:
    """The pictures that a walk finds.

    Raises:
        FolderUnreadable: the disk fails in a way that the walk does not expect.
    """
    try:
        yield from walk
    except OSError as exc:
        raise FolderUnreadable(f"{folder!r} cannot be searched: {exc}") from exc


def _digest(path: str) -> bytes:
    """Eight bytes that tell a file, as it is now, from all others."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a str, as the walk gives it
        state = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:  # a worker will say why
        state = ""
    whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    whole.update(os.fsencode(path) + b"\0" + state.encode())
    return whole.digest()


def _found_key(id_: str, scan: Scan) -> str:
    return session_key(id_, f"found:{scan.attempt}")
