"""Counts that outlive every process, for monitoring: one hash in Redis."""

import bisect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from warmclip.work.patience import is_wrong_type
from warmclip.work.replies import replies_of, reply_of, text_of, warn_once

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_KEY = "rq:warmclip:totals"
_MOST_DIGITS = 18

POINTS = "points:"
"""What the names begin with under which the sizes of collections are kept."""


def increment(connection: Redis | Pipeline, name: str, more: int = 1) -> None:
    """Add to one of them; one that somebody else has written to stays as it is."""
    try:
        connection.hincrby(_KEY, name, more)
    except ResponseError as exc:
        if not is_wrong_type(exc):
            raise
        warn_once(f"the count {name!r} in {_KEY} is not warmclip's: {exc}")


def read_counters(connection: Redis) -> dict[str, int]:
    """All of them, by name; what somebody else wrote there is left out."""
    found = {}
    for raw, value in (reply_of(connection, "HGETALL", _KEY) or {}).items():
        name, digits = text_of(raw), text_of(value)
        if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS:
            found[name] = int(digits)
        else:
            warn_once(f"{_KEY} in Redis holds what is no count: it is passed by")
    return found


def forget_points(connection: Redis, collection: str) -> None:
    """Forget how many pictures a collection held: it was deleted."""
    reply_of(connection, "HDEL", _KEY, f"{POINTS}{collection}")


BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of a histogram's buckets; the last bucket has none."""


class CounterBuffer:
    """Counts of one process, added to those in Redis now and then: counting costs no command.

    Attributes:
        totals: all that this process has counted.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._new: Counter[str] = Counter()
        self._points: dict[str, int] = {}

    def add(self, name: str, more: int = 1) -> None:
        """Count something."""
        self.totals[name] += more
        self._new[name] += more

    def observe(self, name: str, seconds: float) -> None:
        """Count something, by how long it took."""
        self.add(f"{name}:{bisect.bisect_left(BUCKETS_S, seconds)}")
        self.add(f"{name}:us", round(1e6 * seconds))

    def keep_points(self, collection: str, points: int) -> None:
        """Keep how many pictures a collection holds."""
        self._points[f"{POINTS}{collection}"] = points

    def flush(self, connection: Redis) -> None:
        """Add what was counted since to the counts in Redis."""
        counts, self._new = self._new, Counter()
        points, self._points = self._points, {}
        commands = [("HINCRBY", _KEY, name, more) for name, more in counts.items()]
        commands += [("HSET", _KEY, name, number) for name, number in points.items()]
        replies_of(connection, commands, transaction=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondsHistogram:
    """How long something took, each time."""

    counts: tuple[int, ...]  # by bucket, the last one without bound
    sum_s: float

    @classmethod
    def read(cls, counters: Mapping[str, int], name: str) -> "SecondsHistogram":
        """Read what ``CounterBuffer.observe`` has counted under a name."""
        counts = (counters.get(f"{name}:{place}", 0) for place in range(len(BUCKETS_S) + 1))
        return cls(counts=tuple(counts), sum_s=counters.get(f"{name}:us", 0) / 1e6)
