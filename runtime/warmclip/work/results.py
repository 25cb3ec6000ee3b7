"""Results of jobs as they are read from Redis, where others may write: bounded, and never fatal."""

import zlib
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from rq.job import Job
from rq.results import Result

MOST_BYTES = 64 * 1024 * 1024
"""Of an answer. A thousand vectors of 1024 numbers, the most that a job gives, are 22 MB."""

_MOST_TOLD_BYTES = 1024 * 1024  # of a traceback, which RQ compresses

# What RQ raised on records that somebody had tampered with.
_MALFORMED = (
    *(ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError, OSError),
    zlib.error,
)


class BoundedResult(Result):
    """A result that cannot be read, or is larger than any of ours, becomes a failure."""

    @classmethod
    def fetch_latest(cls, job: Job, serializer: Any = None, timeout: int = 0) -> Result | None:
        """The outcome of a job, waited for so many seconds; None if there is none."""
        try:
            return super().fetch_latest(job, serializer, timeout)
        except ResponseError as exc:
            if "WRONGTYPE" not in str(exc):
                raise
            return _unusable(job.id, job.connection, exc)

    @classmethod
    def restore(
        cls,
        job_id: str,
        result_id: str,
        payload: Mapping[bytes, bytes],
        connection: Redis,
        serializer: Any = None,
    ) -> Result:
        """Read one record."""
        try:
            _check(payload)
            return super().restore(job_id, result_id, dict(payload), connection, serializer)
        except _MALFORMED as exc:
            return _unusable(job_id, connection, exc, result_id)


def _unusable(job_id: str, connection: Redis, exc: Exception, id_: str = "0-0") -> Result:
    reason = f"its result in Redis cannot be used: {exc}"
    return Result(job_id, Result.Type.FAILED, connection, id=id_, exc_string=reason)


def _check(payload: Mapping[bytes, bytes]) -> None:
    """Raise ValueError for what would become too large."""
    if len(payload.get(b"return_value", b"")) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    if unpacks_to_more(b64decode(payload.get(b"exc_string", b"")), _MOST_TOLD_BYTES):
        raise ValueError(f"its traceback unpacks to more than {_MOST_TOLD_BYTES:,} bytes")


def unpacks_to_more(packed: bytes, most: int) -> bool:
    """Whether RQ, which decompresses without bound, would make more than this of it."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, most)
    except zlib.error:  # not compressed: RQ takes it as it is
        return len(packed) > most
    return bool(unpacking.unconsumed_tail)
