"""Counts that outlive every process, for monitoring: one hash in Redis."""

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from warmclip.work.patience import is_wrong_type
from warmclip.work.queues import answers_of, text_of, warn_once

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
_KEY = "rq:warmclip:totals"
_MOST_DIGITS = 18


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
    with connection.pipeline(transaction=False) as pipeline:
        pipeline.hgetall(_KEY)
        (values,) = answers_of(pipeline)
    found = {}
    for raw, value in (values or {}).items():
        name, digits = text_of(raw), text_of(value)
        if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS:
            found[name] = int(digits)
        else:
            warn_once(f"{_KEY} in Redis holds what is no count: it is passed by")
    return found
