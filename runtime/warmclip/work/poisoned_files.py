"""Pictures that killed the process which decoded them: set aside, with the reason.

They lie in Redis, so that every worker passes them by. A file that was changed since gets another
chance, and ``warmclip status --requeue`` gives one to all. A picture that was sent is known by the
digest of its bytes; anybody may send many, so of those only the latest are remembered.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from redis import Redis
from redis.client import Pipeline

from warmclip.errors import SettingsError
from warmclip.inference.reading import is_digest_name
from warmclip.settings import check_collection
from warmclip.work.replies import replies_of, reply_of

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_KEY = "rq:warmclip:dead"
_VERSION_KEY = "rq:warmclip:dead:version"  # another value with each change
_MOST = 10_000
_MOST_SENT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonedFile:
    """One picture, and what happened."""

    path: str  # or the digest of a picture that was sent, as ``digest_name`` has it
    reason: str
    job: str
    collection: str | None  # that it was to be indexed into, if it was
    size_bytes: int | None  # of the file, when it was set aside; None: it could not be looked at
    mtime_ns: int | None
    at: str  # ISO 8601, UTC

    @classmethod
    def describe(cls, path: str, reason: str, *, job: str, collection: str | None) -> Self:
        """Describe a file as it is now."""
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
        """The record as JSON can carry it."""
        return asdict(self)


class PoisonedFiles:
    """All of them, in Redis."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._known: tuple[PoisonedFile, ...] = ()
        self._known_state: list[Any] = []

    def add(self, file: PoisonedFile) -> bool:
        """Set a picture aside; False if there are too many already, or no place for them."""
        if is_digest_name(file.path):
            self._forget_oldest_sent()
        if self.count() >= _MOST:
            return False
        write = ("HSET", _KEY, _field(file.path), json.dumps(file.to_dict()))
        written, _ = replies_of(self._connection, [write, _new_version()], transaction=True)
        return written is not None

    def _forget_oldest_sent(self) -> None:
        sent = [file.path for file in self.all() if is_digest_name(file.path)]
        if len(sent) >= _MOST_SENT:  # a tenth at once: all are read for it
            self.remove(sent[: _MOST_SENT // 10])

    def count(self) -> int:
        """How many there are."""
        return reply_of(self._connection, "HLEN", _KEY) or 0

    def known(self) -> tuple[PoisonedFile, ...]:
        """Every one; the same tuple as before as long as nothing was changed."""
        # Their number as well: workers of former releases write no version.
        state = replies_of(self._connection, [("GET", _VERSION_KEY), ("HLEN", _KEY)])
        if state != self._known_state:
            self._known, self._known_state = tuple(self.all()), state
        return self._known

    def all(self) -> list[PoisonedFile]:
        """Every one, the oldest first."""
        return sorted(self._read_all().values(), key=lambda file: file.at)

    def _read_all(self) -> dict[bytes, PoisonedFile]:
        """By field, which is made of the path."""
        records = reply_of(self._connection, "HGETALL", _KEY) or {}
        read = {field: _read(value) for field, value in records.items()}
        return {
            field: file
            for field, file in read.items()
            if isinstance(field, bytes) and file is not None
        }

    def remove(self, paths: Iterable[str], pipeline: Pipeline | None = None) -> None:
        """Forget them, in this transaction or now: a job that names them decodes them again."""
        fields = [_field(path) for path in paths]
        if not fields:
            return
        commands: list[tuple[bytes | str, ...]] = [("HDEL", _KEY, *fields), _new_version()]
        if pipeline is None:
            replies_of(self._connection, commands, transaction=True)
            return
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's


class KnownPoisonedFiles:
    """What a horse was told of them; read from its decode threads."""

    def __init__(self) -> None:
        self._known: Mapping[bytes, PoisonedFile] = {}

    def replace(self, files: Iterable[Mapping[str, Any]]) -> None:
        """Take over what the worker knows now."""
        self._known = {_field(file["path"]): PoisonedFile(**file) for file in files}

    def reason(self, path: str) -> str | None:
        """Why a picture is not to be decoded, or None if it may be."""
        file = self._known.get(_field(path)) if self._known else None
        if file is None or _state(path) != (file.size_bytes, file.mtime_ns):
            return None
        return f"was set aside: {file.reason} (`warmclip status --dead`)"


def _new_version() -> tuple[str, str, str]:
    """The command that tells workers of a change: random, as a count may begin anew."""
    return "SET", _VERSION_KEY, token_hex(8)


def _field(path: str) -> bytes:
    """One name for a file, however it was written."""
    if is_digest_name(path):
        return path.encode("ascii")
    return os.fsencode(os.path.realpath(path))


def _state(path: str) -> tuple[int | None, int | None]:
    if is_digest_name(path):
        return None, None
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime_ns


def _read(value: bytes | str) -> PoisonedFile | None:
    """One record, or None for what somebody else wrote."""
    try:
        file = PoisonedFile(**json.loads(value))
        datetime.fromisoformat(file.at)
        os.fsencode(file.path)
        if file.collection is not None:
            check_collection(file.collection)
    except (ValueError, TypeError, AttributeError, SettingsError):
        return None
    if is_digest_name(file.path):
        is_plain = file.collection is None
    else:
        is_plain = Path(file.path).is_absolute() and "\0" not in file.path
    return file if is_plain and isinstance(file.reason, str) else None
