"""Counts that outlive every process, for monitoring: one hash in Redis."""

from redis import Redis
from redis.client import Pipeline

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_KEY = "rq:warmclip:totals"


def increment(connection: Redis | Pipeline, name: str, more: int = 1) -> None:
    """Add to one of them."""
    connection.hincrby(_KEY, name, more)


def read_counters(connection: Redis) -> dict[str, int]:
    """All of them, by name; what somebody else wrote there is left out."""
    found = {}
    for name, value in connection.hgetall(_KEY).items():
        if isinstance(name, bytes) and isinstance(value, bytes) and value.isdigit():
            found[name.decode("utf-8", "replace")] = int(value)
    return found
