"""How queues and workers are, for people and for monitoring."""

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq.exceptions import DeserializationError
from rq.queue import Queue

from warmclip.work.allowlist import AllowedJob
from warmclip.work.job_result import FailureReason
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.queues import all_queues, fetch_jobs
from warmclip.work.replies import replies_of, reply_of, text_of
from warmclip.work.workers import WorkerState, read_workers

_ID = re.compile("[A-Za-z0-9_-]+")  # of a job
_MOST_FAILURES = 20
_LOOKED_AT = 500  # a registry is sorted by when its entries expire


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """One queue, and how many jobs are in each state."""

    name: str
    queued: int
    started: int
    finished: int
    failed: int
    oldest_s: float | None  # how long the next job has waited; None if none waits


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedJob:
    """One job that failed for good."""

    job: str
    queue: str
    function: str
    reason: str
    ended_at: str | None  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """What ``warmclip status`` shows."""

    queues: tuple[QueueCounts, ...]
    workers: tuple[WorkerState, ...]
    failures: tuple[FailedJob, ...]  # the latest first, at most 20
    dead: int  # pictures that were set aside

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON can carry it."""
        return asdict(self)


def read_status(connection: Redis) -> QueueStatus:
    """Ask Redis for the state of every queue, worker and recent failure; nothing is changed."""
    queues = all_queues(connection)
    failures = [failure for queue in queues for failure in _failures(queue)]
    failures.sort(key=lambda failure: failure.ended_at or "", reverse=True)
    return QueueStatus(
        queues=tuple(_counts(queue) for queue in queues),
        workers=tuple(read_workers(connection)),
        failures=tuple(failures[:_MOST_FAILURES]),
        dead=PoisonedFiles(connection).count(),
    )


def failed_ids(queue: Queue, most: int = -1) -> list[str]:
    """The jobs that failed for good, the latest first; RQ would clean up when it is asked."""
    last = most - 1 if most > 0 else -1
    members = reply_of(queue.connection, "ZREVRANGE", queue.failed_job_registry.key, 0, last)
    ids = [text_of(member) for member in members or ()]
    return [id_ for id_ in ids if _ID.fullmatch(id_)]  # RQ raises for what can be no id


def _counts(queue: Queue) -> QueueCounts:
    """Count without RQ's own properties, which expire jobs before they count."""
    registries = (
        queue.started_job_registry,
        queue.finished_job_registry,
        queue.failed_job_registry,
    )
    commands = [("LLEN", queue.key), ("LINDEX", queue.key, 0)]
    commands += [("ZCARD", registry.key) for registry in registries]
    queued, first, *others = replies_of(queue.connection, commands)
    started, finished, failed = (count or 0 for count in others)
    return QueueCounts(
        name=queue.name,
        queued=queued or 0,
        started=started,
        finished=finished,
        failed=failed,
        oldest_s=None if first is None else _waited_s(queue, text_of(first)),
    )


def _waited_s(queue: Queue, id_: str) -> float | None:
    """How long a job has been in its queue; None if its record does not tell."""
    job = fetch_jobs(queue.connection, [id_]).get(id_)
    if job is None or job.enqueued_at is None:
        return None
    return max(0.0, (datetime.now(UTC) - job.enqueued_at).total_seconds())


def _failures(queue: Queue) -> list[FailedJob]:
    jobs = fetch_jobs(queue.connection, failed_ids(queue, _LOOKED_AT))
    return [_failure(queue, job) for job in jobs.values()]


def _failure(queue: Queue, job: AllowedJob) -> FailedJob:
    try:
        function = job.func_name or ""
    except DeserializationError:
        function = "(not in JSON)"
    result = job.latest_result()
    return FailedJob(
        job=job.id,
        queue=queue.name,
        function=function,
        reason=str(FailureReason.of(result.exc_string if result else None)),
        ended_at=job.ended_at.isoformat() if job.ended_at else None,
    )
