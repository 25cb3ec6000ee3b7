"""Looks for the pictures of new sessions, one folder after the other, in a thread of its own."""

import logging
import time
import uuid
from pathlib import Path

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.roots import Roots, require_roots
from warmclip.indexing.walk import Walk
from warmclip.settings import Settings
from warmclip.work.producer import chunk_size
from warmclip.work.sessions.scan_results import ScanResults
from warmclip.work.sessions.session import Session

log = logging.getLogger(__name__)

_SIGN_OF_LIFE_S = 3.0


class Scanner:
    """One of those that may search; a folder is searched by one of them at a time.

    What it finds counts once all was found: if it dies before, the next one begins again.
    """

    def __init__(self, books: ScanResults, settings: Settings) -> None:
        self._books = books
        self._settings = settings
        self._token = uuid.uuid4().hex
        self.stopped = False

    def look(self) -> None:
        """Search the folders that wait for it."""
        for session in self._books.open_sessions():
            if self.stopped:
                return
            if session.state == "finding" and self._books.lease(session.id, self._token):
                try:
                    self._search(session)
                finally:
                    self._books.release(session.id, self._token)

    def _search(self, session: Session) -> None:
        try:
            # Again: links and roots may have changed since somebody asked for it.
            folder = require_roots(Roots(self._settings.roots)).resolve_folder(session.directory)
        except (FolderUnreadable, JobRefused) as exc:
            self._books.note_failure(session.id, str(exc))
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
                self._books.note_found(session.id, attempt, chunks, chunk)
                chunks += 1
                chunk = []
            if time.monotonic() - alive_at > _SIGN_OF_LIFE_S:
                alive_at = time.monotonic()
                if self.stopped or not self._goes_on(session.id):
                    return
        if chunk:
            self._books.note_found(session.id, attempt, chunks, chunk)
            chunks += 1
        if folder in walk.problems:
            self._books.note_failure(session.id, f"{folder}: {walk.problems[folder]}")
            return
        self._books.note_all_found(
            session.id,
            attempt,
            chunks=chunks,
            images=images,
            ignored=walk.ignored,
            unreadable=[*walk.problems.items(), *walk.closed.items()],
        )
        log.info("session %s: %d pictures in %s", session.id, images, Path(folder))

    def _goes_on(self, id_: str) -> bool:
        session = self._books.get(id_)
        is_wanted = session is not None and not session.is_over
        return is_wanted and self._books.lease(id_, self._token)
