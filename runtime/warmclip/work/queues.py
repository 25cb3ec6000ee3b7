"""Queues and jobs as warmclip's workers read them: in JSON, with allow-listed functions only."""

from collections.abc import Iterable, Sequence

from redis import Redis
from redis.client import Pipeline
from rq.executions import ExecutionRegistry
from rq.job import JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from warmclip.work.allowlist import AllowedJob
from warmclip.work.replies import read_members, replies_of, text_of

_AT_ONCE = 256  # jobs that are asked for in one request

UNDER_WAY = frozenset(
    status.value
    for status in (
        *(JobStatus.CREATED, JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED),
        *(JobStatus.DEFERRED, JobStatus.RATE_LIMITED, JobStatus.READY_TO_ENQUEUE),
    )
)
"""The states of a job that may still run."""


def open_queue(connection: Redis, name: str = "default") -> Queue:
    """One queue."""
    return Queue(name, connection=connection, job_class=AllowedJob, serializer=JSONSerializer)


def all_queues(connection: Redis) -> list[Queue]:
    """Every queue that Redis knows, by name."""
    names = read_members(connection, Queue.redis_queues_keys, Queue.redis_queue_namespace_prefix)
    return [open_queue(connection, name) for name in names]


def fetch_jobs(connection: Redis, ids: Iterable[str]) -> dict[str, AllowedJob]:
    """The jobs that are there, by id."""
    found = AllowedJob.fetch_many(list(ids), connection=connection, serializer=JSONSerializer)
    return {job.id: job for job in found if isinstance(job, AllowedJob)}


def read_states(queue: Queue, ids: Sequence[str]) -> list[str | None]:
    """What the jobs' own records say of their state; None for one that is gone, or is none."""
    states: list[str | None] = []
    for start in range(0, len(ids), _AT_ONCE):
        keys = [AllowedJob.key_for(id_) for id_ in ids[start : start + _AT_ONCE]]
        answers = replies_of(queue.connection, [("HGET", key, "status") for key in keys])
        states += [None if answer is None else text_of(answer) for answer in answers]
    return states


def forget_jobs(pipeline: Pipeline, queue: Queue, ids: Sequence[str]) -> None:
    """Remove jobs that are in no queue and not running, and all that RQ keeps of them."""
    for registry in (queue.finished_job_registry, queue.failed_job_registry):
        pipeline.zrem(registry.key, *ids)
    for id_ in ids:
        results = Result.get_key(id_)  # type: ignore[no-untyped-call]  # rq's is not annotated
        executions = ExecutionRegistry(id_, queue.connection).key
        pipeline.delete(AllowedJob.key_for(id_), results, executions)
