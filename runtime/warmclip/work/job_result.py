"""What became of a job, as its results in Redis tell it, where others may write: within bounds."""

import json
import zlib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

MOST_BYTES = 64 * 1024 * 1024
"""Of an answer. A thousand vectors of 1024 numbers, the most that a job gives, are 22 MB."""

_MOST_TOLD_BYTES = 1024 * 1024  # of a traceback, which RQ compresses

MALFORMED = (
    *(ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError, OSError),
    zlib.error,
)
"""What was raised on records of results that somebody had tampered with."""

_SUCCESSFUL = b"1"  # RQ's Result.Type.SUCCESSFUL


@dataclass(frozen=True, slots=True)
class JobResult:
    """The value that a job returned, or why it has none."""

    value: Any = None
    failure: "FailureReason | None" = None

    @classmethod
    def of(cls, record: Mapping[bytes, bytes]) -> "JobResult":
        """Read one record of a job's results; one that cannot be used is a failure."""
        try:
            check_size(record)
            if record[b"type"] == _SUCCESSFUL:
                returned = record.get(b"return_value")
                return cls(None if returned is None else json.loads(b64decode(returned)))
            packed = b64decode(record.get(b"exc_string", b""))
            told = zlib.decompress(packed).decode() if packed else None
        except MALFORMED as exc:
            return cls(failure=FailureReason.of(unusable(exc)))
        return cls(failure=FailureReason.of(told))


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why a job failed: the error's class, dotted, or empty, and its message."""

    kind: str
    message: str

    @classmethod
    def of(cls, exc_string: str | None) -> "FailureReason":
        """Read it from the end of a traceback; a message may have several lines."""
        lines = (exc_string or "").strip().splitlines()
        trace = [n for n, line in enumerate(lines) if line.startswith(("Traceback ", '  File "'))]
        after = lines[trace[-1] + 1 :] if trace else lines
        said = list(dropwhile(lambda line: line.startswith(" "), after))
        last = " ".join(said).strip() or "no reason was recorded"
        if "AbandonedJobError" in last:
            return cls("", "its worker died")
        kind, colon, message = last.partition(": ")
        return cls(kind, message) if colon and " " not in kind else cls("", last)

    def __str__(self) -> str:
        name = self.kind.rpartition(".")[2]
        return f"{name}: {self.message}" if name else self.message


def unusable(exc: Exception) -> str:
    """What is said of a result that cannot be read."""
    return f"its result in Redis cannot be used: {exc}"


def check_size(record: Mapping[bytes, bytes]) -> None:
    """Raise ValueError for a result that would become too large."""
    if len(record.get(b"return_value", b"")) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    if unpacks_to_more(b64decode(record.get(b"exc_string", b"")), _MOST_TOLD_BYTES):
        raise ValueError(f"its traceback unpacks to more than {_MOST_TOLD_BYTES:,} bytes")


def unpacks_to_more(packed: bytes, most: int) -> bool:
    """Whether RQ, which decompresses without bound, would make more than this of it."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, most)
    except zlib.error:  # not compressed: RQ takes it as it is
        return len(packed) > most
    return bool(unpacking.unconsumed_tail)
