"""Pictures that killed the process which decoded them: set aside, with the reason.

They lie in Redis, so that every worker passes them by. A file that was changed since gets another
chance, and ``warmclip status --requeue`` gives one to all.
"""

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.client import Pipeline

from warmclip.errors import SettingsError
from warmclip.settings import check_collection

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_KEY = "rq:warmclip:dead"
_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonedFile:
    """One picture, and what happened."""

    path: str
    reason: str
    job: str
    collection: str | None  # that it was to be indexed into, if it was
    size_bytes: int | None  # of the file, when it was set aside; None: it could not be looked at
    mtime_ns: int | None
    at: str  # ISO 8601, UTC

    @classmethod
    def write(cls, path: str, reason: str, *, job: str, collection: str | None) -> Self:
        """A letter about a file as it is now."""
        size_bytes, mtime_ns = _state(path)
        return cls(
            path=path,
            reason=reason,
            job=job,
            collection=collection,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The letter as JSON can carry it."""
        return asdict(self)


class PoisonedFiles:
    """All of them; may be read from several threads."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._known: dict[bytes, PoisonedFile] | None = None

    def add(self, letter: PoisonedFile) -> bool:
        """Set a picture aside; False if there are too many already."""
        if self.count() >= _MOST:
            return False
        self._connection.hset(_KEY, _field(letter.path), json.dumps(letter.to_dict()))
        return True

    def count(self) -> int:
        """How many there are."""
        return self._connection.hlen(_KEY)

    def all(self) -> list[PoisonedFile]:
        """Every letter, the oldest first."""
        return sorted(self._read_all().values(), key=lambda letter: letter.at)

    def _read_all(self) -> dict[bytes, PoisonedFile]:
        """By field, which is made of the path."""
        read = {field: _read(value) for field, value in self._connection.hgetall(_KEY).items()}
        return {
            field: letter
            for field, letter in read.items()
            if isinstance(field, bytes) and letter is not None
        }

    def remove(self, paths: Iterable[str], pipeline: Pipeline | None = None) -> None:
        """Forget them, in this transaction or now: a job that names them decodes them again."""
        if fields := [_field(path) for path in paths]:
            (self._connection if pipeline is None else pipeline).hdel(_KEY, *fields)

    def refresh(self) -> None:
        """Look again, at the next question, what there is."""
        with self._lock:
            self._known = None

    def reason(self, path: str) -> str | None:
        """Why a picture is not to be decoded, or None if it may be."""
        with self._lock:
            if self._known is None:
                self._known = self._read_all()
            letter = self._known.get(_field(path)) if self._known else None
        if letter is None or _state(path) != (letter.size_bytes, letter.mtime_ns):
            return None
        return f"was set aside: {letter.reason} (`warmclip status --dead`)"


def _field(path: str) -> bytes:
    """One name for a file, however it was written."""
    return os.fsencode(os.path.realpath(path))


def _state(path: str) -> tuple[int | None, int | None]:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime_ns


def _read(value: bytes | str) -> PoisonedFile | None:
    """A letter, or None for what somebody else wrote."""
    try:
        letter = PoisonedFile(**json.loads(value))
        datetime.fromisoformat(letter.at)
        os.fsencode(letter.path)
        if letter.collection is not None:
            check_collection(letter.collection)
    except (ValueError, TypeError, AttributeError, SettingsError):
        return None
    is_plain = Path(letter.path).is_absolute() and "\0" not in letter.path
    return letter if is_plain and isinstance(letter.reason, str) else None
