"""Bounds on what a job's record asks of RQ: how long, how often, how many, with what spacing.

Whoever can write to Redis can write any number there. What RQ would compute with is checked when a
record is read, so that it cannot stop a worker in the middle of its bookkeeping.
"""

from collections.abc import Iterator
from typing import Any

from rq.job import Job

DAY_S = 24 * 3600
_LONGEST_TIMEOUT_S = 30 * DAY_S
_LONGEST_TTL_S = 100 * 365 * DAY_S  # -1 is for ever
_LONGEST_INTERVAL_S = 366 * DAY_S
_MOST_INTERVALS = 10_000
_MOST_TIMES = 1_000_000  # of retries, repeats and running at once


def excess(job: Job) -> str | None:
    """What is out of bounds in a job's record, in words; None if nothing is."""
    return next(_excesses(job), None)


def make_harmless(job: Job) -> None:
    """Take from a job that will not run whatever RQ would compute with."""
    job.timeout = job.ttl = job.result_ttl = job.failure_ttl = None
    job.retries_left = job.number_of_retries = job.repeats_left = None
    job.retry_intervals = job.repeat_intervals = None
    job.rate_limit_key = job.rate_limit_concurrency = None


def _excesses(job: Job) -> Iterator[str]:
    if not _is_whole(job.timeout, -1, _LONGEST_TIMEOUT_S):
        yield f"its time-out is longer than {_LONGEST_TIMEOUT_S:,} s"
    for outcome in ("success", "failure", "stopped"):
        if not _is_whole(getattr(job, f"{outcome}_callback_timeout"), -1, _LONGEST_TIMEOUT_S):
            yield f"the time-out of its {outcome} callback is longer than {_LONGEST_TIMEOUT_S:,} s"
    for name in ("ttl", "result_ttl", "failure_ttl"):
        if not _is_whole(getattr(job, name), -1, _LONGEST_TTL_S):
            yield f"its {name} is no number of seconds up to {_LONGEST_TTL_S:,}"
    for name in ("retries_left", "number_of_retries", "repeats_left"):
        if not _is_whole(getattr(job, name), -_MOST_TIMES, _MOST_TIMES):
            yield f"its {name} is no number up to {_MOST_TIMES:,}"
    for name in ("retry_intervals", "repeat_intervals"):
        if not are_intervals(getattr(job, name)):
            yield f"its {name} are no list of seconds up to {_LONGEST_INTERVAL_S:,}"
    if not _is_whole(job.rate_limit_concurrency, 0, _MOST_TIMES):
        yield f"its rate limit is no number up to {_MOST_TIMES:,}"


def _is_whole(value: Any, low: int, high: int) -> bool:
    """Whether it is absent, or a whole number within these bounds."""
    return value is None or (type(value) is int and low <= value <= high)


def are_intervals(value: Any) -> bool:
    """Whether they are absent, or a list of seconds that dates can be computed with."""
    if value is None:
        return True
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_INTERVALS
        and all(each is not None and _is_whole(each, 0, _LONGEST_INTERVAL_S) for each in value)
    )
