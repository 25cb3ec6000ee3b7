"""Recovery of orphans: jobs whose worker died go back to their queue, or have failed.

A job is moved from its queue to an intermediate list, then recorded as started. A worker that is
killed in between leaves it in that list; one that is killed later, among the started ones, where
its heartbeats cease. Every worker looks after both, for all; of workers on its own machine it sees
at once that they are gone.

Heartbeats have ceased when two clocks say so: that of this machine, by which RQ's list of started
jobs is read, and Redis's own, by which the execution's record expires. Either may be set wrong.

Each job is given up in a transaction of its own, which is only taken while nobody else has given
it up: two workers that look at the same moment do not queue it twice. RQ's own cleaning of started
jobs, which two workers may do at once, is never done here.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError, WatchError
from rq import worker_registration
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.group import Group
from rq.job import JobStatus
from rq.queue import Queue
from rq.rate_limit import RateLimitRegistry
from rq.utils import as_text, current_timestamp
from rq.worker import Worker

from warmclip.work.allowlist import AllowedJob
from warmclip.work.liveness import is_gone
from warmclip.work.patience import is_wrong_type
from warmclip.work.recorder import JobRecorder, Running
from warmclip.work.replies import text_of

log = logging.getLogger(__name__)

_EVERY_S = 2.0
_CLEAN_EVERY_S = 600.0  # RQ's interval
_GRACE_S = 3.0  # a worker is between its two steps for milliseconds

# Of a job in the intermediate list. A job that was pushed by hand may have no better status.
_STILL_WAITS = frozenset({JobStatus.QUEUED, JobStatus.CREATED})


class OrphanRecovery:
    """Recovers, every few seconds, what the queues of one worker have lost."""

    def __init__(
        self,
        queues: Sequence[Queue],
        recorder: JobRecorder,
        on_given_up: Callable[[AllowedJob], None],
    ) -> None:
        """Nothing is looked at yet.

        Args:
            queues: of one worker.
            recorder: its.
            on_given_up: told of a job whose worker died.
        """
        self._queues = queues
        self._recorder = recorder
        self._on_given_up = on_given_up
        self._seen: dict[tuple[str, str], float] = {}
        self._next = self._next_cleaning = self._rests_until = float("-inf")
        self._told: set[str] = set()

    def rest(self, seconds: float) -> None:
        """Conclude nothing from heartbeats that are missing, for so long.

        Whoever was asleep, or without Redis, as this process was, gets the time to send one.
        """
        self._rests_until = time.monotonic() + seconds
        self._seen.clear()

    def run_if_due(self) -> None:
        """Put back what was lost, if it is time to look for it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        cleans = now >= self._next_cleaning
        for queue in self._queues:
            self._try(f"the records of the queue {queue.name!r}", partial(self._recover, queue))
            if cleans:
                self._try(f"the registries of the queue {queue.name!r}", partial(_clean, queue))
        if cleans:
            self._next_cleaning = now + _CLEAN_EVERY_S
            connection = self._queues[0].connection
            self._try("groups or rate limits", partial(_clean_shared, connection))

    def _try(self, what: str, step: Callable[[], object]) -> None:
        """Do it; where somebody else has written to RQ's keys, say so once, and go on."""
        try:
            step()
        except (ResponseError, ValueError, TypeError, LookupError) as exc:
            if isinstance(exc, ResponseError) and not is_wrong_type(exc):
                raise
            if what not in self._told:
                self._told.add(what)
                log.warning("%s are not RQ's: %s: %s", what, type(exc).__name__, exc)

    def _recover(self, queue: Queue) -> None:
        _drop_foreign_entries(queue)
        started = self._give_up_lost(queue)
        self._empty_intermediate(queue, started)

    def _give_up_lost(self, queue: Queue) -> set[str]:
        """Give up the jobs of workers that are gone; returns those that still run."""
        registry = queue.started_job_registry
        is_resting = time.monotonic() < self._rests_until
        still = set()
        entries: list[Any] = queue.connection.zrange(registry.key, 0, -1, withscores=True)
        for entry, score in entries:
            job_id, _, execution_id = as_text(entry).partition(":")
            name = _worker_of(queue, job_id, execution_id)
            key = Worker.redis_worker_namespace_prefix + name
            expired_by: float | None
            if name and is_gone(queue.connection, key, with_horse=True):
                expired_by = None
            elif not name and score <= current_timestamp() and not is_resting:
                expired_by = float(current_timestamp())
            else:
                still.add(job_id)
                continue
            running = _find(queue, job_id, execution_id, name)
            if running is None:
                queue.connection.zrem(registry.key, entry)
            elif self._recorder.give_up(running, expired_by=expired_by):
                log.warning("job %s was lost with its worker", job_id)
                self._on_given_up(running.job)
        return still

    def _empty_intermediate(self, queue: Queue, started: set[str]) -> None:
        now = time.monotonic()
        between = {id_ for id_ in queue.intermediate_queue.get_job_ids() if id_ not in started}
        for id_ in between:
            since = self._seen.setdefault((queue.name, id_), now)
            if now - since >= _GRACE_S:
                _put_back(queue, id_)
                del self._seen[queue.name, id_]  # when it is taken again, it has its time anew
        for name, id_ in list(self._seen):
            if name == queue.name and id_ not in between:
                del self._seen[name, id_]


def _worker_of(queue: Queue, job_id: str, execution_id: str) -> str:
    """The worker that an execution belongs to; empty if that is not known any more."""
    execution = Execution(execution_id, job_id, queue.connection)
    try:
        name = queue.connection.hget(execution.key, "worker_name")
    except ResponseError as exc:
        if not is_wrong_type(exc):
            raise
        return ""
    return text_of(name or b"")


def _find(queue: Queue, job_id: str, execution_id: str, worker: str) -> Running | None:
    """An execution of another worker's; None if its job is gone."""
    try:
        job = AllowedJob.fetch(job_id, queue.connection, queue.serializer)
    except NoSuchJobError:
        return None
    job.origin = queue.name
    job.meta = {}  # what the record holds stays
    execution = Execution(execution_id, job_id, queue.connection, worker)
    return Running(job=job, queue=queue, execution=execution)


def _drop_foreign_entries(queue: Queue) -> None:
    """Remove what is no entry of RQ's, as whoever reads the list would fail on it."""
    started = queue.started_job_registry.key
    for entry in queue.connection.zrange(started, 0, -1):
        if not isinstance(entry, bytes) or not _is_entry(entry, colons=1):
            queue.connection.zrem(started, entry)  # type: ignore[arg-type]  # bytes will do
    between = queue.intermediate_queue.key
    for entry in queue.connection.lrange(between, 0, -1):
        if not isinstance(entry, bytes) or not _is_entry(entry, colons=0):
            queue.connection.lrem(between, 0, entry)  # type: ignore[arg-type]  # bytes will do


def _is_entry(entry: bytes, *, colons: int) -> bool:
    return entry.isascii() and entry.count(b":") == colons


def _put_back(queue: Queue, job_id: str) -> None:
    """From the intermediate list to the front of the queue, in one step."""
    key = queue.intermediate_queue.key
    with queue.connection.pipeline() as pipeline:
        try:
            pipeline.watch(key, AllowedJob.key_for(job_id))  # type: ignore[no-untyped-call]  # redis-py
            if job_id.encode() not in pipeline.lrange(key, 0, -1):
                return
            waits = _still_waits(pipeline.hget(AllowedJob.key_for(job_id), "status"))
            pipeline.multi()
            pipeline.lrem(key, 0, job_id)
            if waits:
                queue.push_job_id(job_id, pipeline=pipeline, at_front=True)
            pipeline.execute()
        except WatchError:
            return  # somebody else was at it
    if waits:
        log.warning("job %s was lost with its worker; it is queued again", job_id)


def _still_waits(status: bytes | str | None) -> bool:
    """Whether a job in the intermediate list has not been run, deleted, cancelled or queued."""
    return status is not None and text_of(status) in _STILL_WAITS


def _clean(queue: Queue) -> None:
    """RQ's cleaning of a queue, but for the started jobs and the intermediate list."""
    if not queue.acquire_maintenance_lock():
        return
    try:
        queue.finished_job_registry.cleanup()
        queue.failed_job_registry.cleanup()
        queue.ready_job_registry.cleanup()
        worker_registration.clean_worker_registry(queue)
    finally:
        queue.release_maintenance_lock()  # type: ignore[no-untyped-call]  # rq's is not annotated


def _clean_shared(connection: Redis) -> None:
    """RQ's cleaning of what all queues share."""
    for registry in RateLimitRegistry.all(connection):
        registry.cleanup()
    if Group.acquire_maintenance_lock(connection, int(_CLEAN_EVERY_S) - 1):
        Group.clean_registries(connection=connection)
