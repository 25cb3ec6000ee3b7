"""Searches the folders of new sessions for pictures, one folder after the other."""

import json
import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.client import Pipeline

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.roots import Roots, require_roots
from warmclip.indexing.walk import Walk
from warmclip.settings import Settings
from warmclip.work.producer import chunk_size
from warmclip.work.queues import text_of
from warmclip.work.sessions.session import Session, utc_now
from warmclip.work.sessions.store import (
    SessionStore,
    close_session,
    encode_chunk,
    read_session,
    session_key,
)

log = logging.getLogger(__name__)

_RENEW_EVERY_S = 3.0
_LEASE_S = 15
_ATTEMPT_S = 3600  # that the chunks of an unfinished scan are kept


class ScanResults(SessionStore):
    """What a scan records: one lease for each folder, then its pictures, all or none."""

    def acquire_lease(self, id_: str, token: str) -> bool:
        """Whether this scanner may search the folder now; to be asked again every few seconds."""
        key = session_key(id_, "lease")
        if self.connection.set(key, token, nx=True, ex=_LEASE_S):
            return True
        if text_of(self.connection.get(key) or b"") != token:
            return False
        return bool(self.connection.expire(key, _LEASE_S))

    def release_lease(self, id_: str, token: str) -> None:
        """Let another scanner search the folder at once."""
        if text_of(self.connection.get(session_key(id_, "lease")) or b"") == token:
            self.connection.delete(session_key(id_, "lease"))

    def add_chunk(self, id_: str, token: str, number: int, paths: Sequence[str]) -> None:
        """Keep one chunk of pictures; it counts once the scan is complete."""
        key = session_key(id_, f"found:{token}")
        with self.connection.pipeline() as pipe:
            pipe.hset(key, str(number), encode_chunk(paths))
            pipe.expire(key, _ATTEMPT_S)
            pipe.execute()

    def complete_scan(
        self,
        id_: str,
        token: str,
        *,
        chunks: int,
        images: int,
        ignored: int,
        unreadable: Sequence[tuple[str, str]],
    ) -> None:
        """Make what this scan found the session's pictures, unless another scan was first."""
        found, key = session_key(id_, f"found:{token}"), session_key(id_)

        def write(pipe: Pipeline) -> None:
            session = read_session(pipe, id_)
            is_there = chunks == 0 or pipe.hlen(found) == chunks
            pipe.multi()
            if session is None or session.is_over or session.images is not None:
                pipe.delete(found)
                return
            if not is_there:
                return  # Redis lost some of it: the next scan finds it again
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
                pipe.rename(found, session_key(id_, "chunks"))
                pipe.persist(session_key(id_, "chunks"))
                pipe.zadd(session_key(id_, "pending"), {str(n): n for n in range(chunks)})
            if unreadable:
                pipe.delete(session_key(id_, "folders"))
                pipe.rpush(session_key(id_, "folders"), *map(json.dumps, unreadable))

        self.transact(write, key, found)

    def fail_session(self, id_: str, error: str) -> None:
        """End a session of which nothing can come."""

        def write(pipe: Pipeline) -> None:
            session = read_session(pipe, id_)
            pipe.multi()
            if session is not None and not session.is_over:
                fields: dict[Any, Any] = {
                    "state": "failed",
                    "error": json.dumps(error),
                    "ended_at": utc_now(),
                }
                pipe.hset(session_key(id_), mapping=fields)
                close_session(pipe, session)

        self.transact(write, session_key(id_))


class Scanner:
    """Searches folders, in a thread. Of several scanners, one at a time searches a folder.

    What a scan finds counts once it is complete; after one that was cut short, the next begins
    again.
    """

    def __init__(self, results: ScanResults, settings: Settings) -> None:
        self._results = results
        self._settings = settings
        self._token = uuid.uuid4().hex
        self.stopped = False

    def scan_all(self) -> None:
        """Search each folder that waits for a scan."""
        for session in self._results.open_sessions():
            if self.stopped:
                return
            if session.state == "finding" and self._results.acquire_lease(session.id, self._token):
                try:
                    self._scan(session)
                finally:
                    self._results.release_lease(session.id, self._token)

    def _scan(self, session: Session) -> None:
        try:
            # Again: links and roots may have changed since the session was started.
            folder = require_roots(Roots(self._settings.roots)).resolve_folder(session.directory)
        except (FolderUnreadable, JobRefused) as exc:
            self._results.fail_session(session.id, str(exc))
            return
        attempt = uuid.uuid4().hex
        walk = Walk(folder)
        size = chunk_size(self._settings)
        images = chunks = 0
        chunk: list[str] = []
        alive_at = time.monotonic()
        for path in walk:
            chunk.append(path)
            images += 1
            if len(chunk) == size:
                self._results.add_chunk(session.id, attempt, chunks, chunk)
                chunks += 1
                chunk = []
            if time.monotonic() - alive_at > _RENEW_EVERY_S:
                alive_at = time.monotonic()
                if self.stopped or not self._goes_on(session.id):
                    return
        if chunk:
            self._results.add_chunk(session.id, attempt, chunks, chunk)
            chunks += 1
        if folder in walk.problems:
            self._results.fail_session(session.id, f"{folder}: {walk.problems[folder]}")
            return
        self._results.complete_scan(
            session.id,
            attempt,
            chunks=chunks,
            images=images,
            ignored=walk.ignored,
            unreadable=list(walk.problems.items()),
        )
        log.info("session %s: %d pictures in %s", session.id, images, Path(folder))

    def _goes_on(self, id_: str) -> bool:
        session = self._results.get(id_)
        is_wanted = session is not None and not session.is_over
        return is_wanted and self._results.acquire_lease(id_, self._token)
