"""Recovery of orphans: jobs whose worker died go back to their queue.

A job is moved from its queue to an intermediate list, then recorded as started. A worker that is
killed in between leaves it in that list; one that is killed later, among the started ones, where
RQ finds it when its heartbeats have ceased for long enough. Every worker looks after both, for
all; of workers on its own machine it sees at once that they are gone.
"""

import logging
import time
from collections.abc import Sequence

from redis.exceptions import ResponseError, WatchError
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution
from rq.job import JobStatus
from rq.queue import Queue
from rq.utils import as_text
from rq.worker import Worker

from warmclip.work.liveness import is_gone

log = logging.getLogger(__name__)

_EVERY_S = 2.0
_GRACE_S = 3.0  # a worker is between its two steps for milliseconds


class OrphanRecovery:
    """Recovers, every few seconds, what the queues of one worker have lost."""

    def __init__(self, queues: Sequence[Queue]) -> None:
        self._queues = queues
        self._seen: dict[tuple[str, str], float] = {}
        self._next = 0.0

    def run_if_due(self) -> None:
        """Put back what was lost, if it is time to look for it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        for queue in self._queues:
            try:
                _drop_foreign_entries(queue)
                _expire_dead(queue)
                # Reading it has RQ retry, or fail, the jobs whose heartbeats ceased.
                started = set(queue.started_job_registry.get_job_ids())
                self._empty_intermediate(queue, started, now)
            except (ResponseError, ValueError) as exc:  # somebody else writes to these keys
                log.warning("the records of the queue %r are not RQ's: %r", queue.name, exc)

    def _empty_intermediate(self, queue: Queue, started: set[str], now: float) -> None:
        between = {id_ for id_ in queue.intermediate_queue.get_job_ids() if id_ not in started}
        for id_ in between:
            since = self._seen.setdefault((queue.name, id_), now)
            if now - since >= _GRACE_S:
                _put_back(queue, id_)
        for name, id_ in list(self._seen):
            if name == queue.name and id_ not in between:
                del self._seen[name, id_]


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


def _expire_dead(queue: Queue) -> None:
    """Let the jobs of processes that ran here, and are gone, count as expired."""
    registry = queue.started_job_registry
    for job_id, execution_id in registry.get_job_and_execution_ids(cleanup=False):
        execution = Execution(execution_id, job_id, queue.connection)
        name = queue.connection.hget(execution.key, "worker_name")
        if name is None:
            continue
        key = Worker.redis_worker_namespace_prefix + as_text(name)
        if is_gone(queue.connection, key, with_horse=True):
            queue.connection.zadd(registry.key, {execution.composite_key: 1}, xx=True)


def _put_back(queue: Queue, job_id: str) -> None:
    """From the intermediate list to the front of the queue, in one step."""
    key = queue.intermediate_queue.key
    with queue.connection.pipeline() as pipeline:
        try:
            pipeline.watch(key)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            if job_id.encode() not in pipeline.lrange(key, 0, -1):
                return
            waits = _still_waits(queue, job_id)
            pipeline.multi()
            pipeline.lrem(key, 0, job_id)
            if waits:
                queue.push_job_id(job_id, pipeline=pipeline, at_front=True)
            pipeline.execute()
        except WatchError:
            return  # somebody else was at it
    if waits:
        log.warning("job %s was lost with its worker; it is queued again", job_id)


def _still_waits(queue: Queue, job_id: str) -> bool:
    try:
        job = queue.job_class.fetch(
            job_id, connection=queue.connection, serializer=queue.serializer
        )
        return job.get_status() == JobStatus.QUEUED
    except (NoSuchJobError, InvalidJobOperation):
        return False
