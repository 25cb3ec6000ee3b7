"""How queues and workers are, for people and for monitoring."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from rq.exceptions import DeserializationError
from rq.queue import Queue
from rq.worker import Worker

from warmclip.work.allowlist import AllowedJob
from warmclip.work.liveness import AT, is_gone
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.queues import FailureReason, all_queues, fetch_jobs

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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker that is registered and, as far as can be seen from here, alive."""

    name: str
    state: str  # started, idle, busy or suspended
    queues: tuple[str, ...]
    job: str | None  # the id of the one that it runs
    at: tuple[int, int, str] | None  # how far that is: done, total, stage
    hostname: str
    pid: int
    last_heartbeat: str | None  # ISO 8601, UTC


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
    """Ask Redis for the state of every queue, worker and recent failure."""
    queues = all_queues(connection)
    failures = [failure for queue in queues for failure in _failures(queue)]
    failures.sort(key=lambda failure: failure.ended_at or "", reverse=True)
    return QueueStatus(
        queues=tuple(_counts(queue) for queue in queues),
        workers=tuple(_state(worker) for worker in _alive(Worker.all(connection=connection))),
        failures=tuple(failures[:_MOST_FAILURES]),
        dead=PoisonedFiles(connection).count(),
    )


def listening(queue: Queue) -> bool:
    """Whether a worker that reads this queue is there."""
    return bool(_alive(Worker.all(queue=queue)))


def _alive(workers: list[Any]) -> list[Any]:
    return [
        worker for worker in workers if worker.pid and not is_gone(worker.connection, worker.key)
    ]


def _counts(queue: Queue) -> QueueCounts:
    return QueueCounts(
        name=queue.name,
        queued=queue.count,
        # Without RQ's cleaning, which gives up jobs whose heartbeats have ceased.
        started=queue.started_job_registry.get_job_count(cleanup=False),
        finished=queue.finished_job_registry.get_job_count(cleanup=False),
        failed=queue.failed_job_registry.get_job_count(cleanup=False),
    )


def _state(worker: Any) -> WorkerState:
    beat = worker.last_heartbeat
    return WorkerState(
        name=worker.name,
        state=str(worker.get_state()),
        queues=tuple(worker.queue_names()),
        job=(job := worker.get_current_job_id()),
        at=_at(worker, job) if job else None,
        hostname=worker.hostname or "",
        pid=worker.pid,
        last_heartbeat=beat.isoformat() if beat else None,
    )


def _at(worker: Any, job: str) -> tuple[int, int, str] | None:
    """What the worker last heard of its horse about this job."""
    raw = worker.connection.hget(worker.key, AT)
    try:
        told_of, done, total, stage = json.loads(raw or b"")
        return (int(done), int(total), str(stage)) if told_of == job else None
    except (ValueError, TypeError):
        return None


def _failures(queue: Queue) -> list[FailedJob]:
    ids = queue.failed_job_registry.get_job_ids(0, _LOOKED_AT - 1, desc=True, cleanup=False)
    return [_failure(queue, job) for job in fetch_jobs(queue.connection, ids).values()]


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
