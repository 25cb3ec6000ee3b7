"""One training session, as its record in Redis tells it."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast, get_args

from warmclip.errors import SettingsError
from warmclip.indexing.ignored import MOST_KINDS, OTHER
from warmclip.settings import check_collection
from warmclip.work.replies import text_of

State = Literal["finding", "running", "paused", "finished", "cancelled", "failed"]

Samples = tuple[tuple[float, int], ...]
"""When (UNIX time, s) how many pictures were done, the oldest first."""

_OVER = ("finished", "cancelled", "failed")
_APART_S = 2.0  # between two samples of the rate
_MOST_SAMPLES = 10
_STALE_S = 10.0  # or three times what samples are apart: then the rate is not known any more
_SLOWEST_S = 120.0  # for one job of a large model on a slow machine
_MOST_DIGITS = 15  # of a number that somebody may have written


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One folder on its way into a collection. Times are ISO 8601, UTC."""

    id: str
    state: State
    directory: str  # its real path
    collection: str
    created_at: str
    exclude: tuple[str, ...] = ()  # patterns: see ``Exclusion``
    ended_at: str | None = None
    error: str | None = None  # why nothing could be done at all
    images: int | None = None  # how many were found; None until the first scan is complete
    indexed: int = 0
    unchanged: int = 0
    reused: int = 0
    skipped: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)  # as in ``IndexReport``
    unreadable_folders: int = 0
    chunks: int = 0  # jobs that the pictures were cut into; the number of the next chunk
    revision: int = 0  # grows with every change that concerns the queue
    rescans_asked: int = 0  # how often the folder was posted again
    rescans_done: int = 0  # what that was when the last complete scan began
    samples: Samples = ()
    is_alone: bool = False  # no worker listened when the scheduler last looked
    queued: int | None = None  # only in records of warmclip 0.1: chunks below it are in RQ

    @property
    def done(self) -> int:
        """Pictures that something has become of."""
        return self.indexed + self.unchanged + self.reused + self.skipped

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be queued for it."""
        return self.state in _OVER

    @property
    def needs_scan(self) -> bool:
        """Whether its folder is to be searched, for the first time or again."""
        return self.state in ("finding", "running") and (
            self.images is None or self.rescans_done < self.rescans_asked
        )

    @property
    def is_complete(self) -> bool:
        """Whether it ends when no chunk is left."""
        return self.images is not None and self.rescans_done >= self.rescans_asked

    @property
    def waiting_for_worker(self) -> bool:
        """Whether it runs, and no worker is there to do its jobs."""
        return self.state == "running" and self.is_alone

    @property
    def images_per_s(self) -> float | None:
        """How fast it has been lately; None without outcomes that are fresh."""
        return rate_at(self.samples, time.time()) if self.state == "running" else None

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left at this rate, while it runs."""
        rate = self.images_per_s
        if self.images is None or not rate:
            return None
        return max(0, self.images - self.done) / rate

    @classmethod
    def parse(cls, id_: str, raw: Mapping[Any, Any]) -> Self | None:
        """From the fields of its hash; None if there are none, or they are nobody's session."""
        try:
            values = {text_of(key): text_of(value) for key, value in raw.items()}
            state = values["state"]
            if state not in get_args(State):
                return None
            directory = str(json.loads(values["directory"]))
            os.fsencode(directory)  # raises for what cannot be a path
            error = json.loads(values["error"]) if "error" in values else None
            return cls(
                id=id_,
                state=cast("State", state),
                directory=directory,
                collection=check_collection(values["collection"]),
                exclude=_parse_patterns(values.get("exclude", "[]")),
                created_at=datetime.fromisoformat(values["created_at"]).isoformat(),
                ended_at=values.get("ended_at"),
                error=None if error is None else str(error),
                images=_number(values["images"]) if "images" in values else None,
                queued=_number(values["queued"]) if "queued" in values else None,
                is_alone=values.get("alone") == "1",
                ignored=_parse_ignored(values.get("ignored", "{}")),
                samples=tuple((float(at), int(n)) for at, n in json.loads(values["samples"])),
                **{name: _number(values.get(name, "0")) for name in _COUNTS},
            )
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError, SettingsError):
            return None


_COUNTS = (
    *("indexed", "unchanged", "reused", "skipped", "unreadable_folders"),
    *("chunks", "revision", "rescans_asked", "rescans_done"),
)


def _number(text: str) -> int:
    """A count; ValueError for what is none, or has more digits than a count can have."""
    if len(text) > _MOST_DIGITS or not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text[:20]!r} is no count")
    return int(text)


def _parse_patterns(text: str) -> tuple[str, ...]:
    """Patterns to exclude; ValueError for what is none."""
    patterns = json.loads(text)
    if not isinstance(patterns, list) or not all(isinstance(it, str) for it in patterns):
        raise ValueError(f"{text[:20]!r} are no patterns")
    return tuple(patterns)


def _parse_ignored(text: str) -> dict[str, int]:
    """A count by kind; ValueError for what is none. warmclip 0.1 counted all kinds together."""
    if text.isdigit():
        text = json.dumps({OTHER: _number(text)})
    counts = json.loads(text)
    if not isinstance(counts, dict) or len(counts) > MOST_KINDS + 1:
        raise ValueError(f"{text[:20]!r} is no count by kind")
    return {kind: _number(str(number)) for kind, number in counts.items()}


def add_sample(samples: Samples, at: float, done: int) -> Samples:
    """The samples with one more; they begin anew after a time in which nobody worked.

    Args:
        samples: those so far.
        at: UNIX time, s.
        done: pictures that are done by then.
    """
    if samples and not _is_soon(samples, at):
        samples = ()
    if len(samples) > 1 and at - samples[-2][0] < _APART_S:
        samples = samples[:-1]
    return (*samples[-_MOST_SAMPLES + 1 :], (at, done))


def rate_at(samples: Samples, at: float) -> float | None:
    """Pictures a second, as seen at this UNIX time; None where the samples do not tell."""
    if len(samples) < 2 or not _is_soon(samples, at):
        return None
    (began, first), (ended, last) = samples[0], samples[-1]
    return (last - first) / (ended - began) if ended > began else None


def _is_soon(samples: Samples, at: float) -> bool:
    """Whether a time is not later after the last sample than the next may be, nor before it."""
    patience_s = _SLOWEST_S
    if len(samples) > 2:
        patience_s = max(_STALE_S, 3 * (samples[-1][0] - samples[0][0]) / (len(samples) - 1))
    return 0 <= at - samples[-1][0] <= patience_s


def utc_now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
