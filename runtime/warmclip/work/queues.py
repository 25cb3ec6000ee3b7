"""Queues and jobs as warmclip's workers read them: in JSON, with allow-listed functions only."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import dropwhile
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq.executions import ExecutionRegistry
from rq.job import JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from warmclip.work.allowlist import AllowedJob
from warmclip.work.patience import is_wrong_type

log = logging.getLogger(__name__)

_AT_ONCE = 256  # jobs that are asked for in one request
_MOST_WARNINGS = 256  # that are remembered

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


def read_members(connection: Redis, key: str, prefix: str) -> list[str]:
    """The members of one of RQ's sets, in order, without their prefix; what is none is left out."""
    with connection.pipeline(transaction=False) as pipeline:
        pipeline.smembers(key)
        (members,) = answers_of(pipeline)
    names: list[str] = []
    strays: list[str] = []
    for text in sorted(map(text_of, members or ())):
        is_name = text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
        (names if is_name and text.startswith(prefix) else strays).append(text)
    if strays:
        shown = ", ".join(repr(text[:50]) for text in strays[:3])
        warn_once(f"{key} in Redis names what is not RQ's, and is passed by: {shown}")
    return [name.removeprefix(prefix) for name in names]


def answers_of(pipeline: Pipeline) -> list[Any]:
    """What Redis answers, one by one; None for a key that holds something else than it should."""
    answers = []
    for answer in pipeline.execute(raise_on_error=False):
        if isinstance(answer, Exception):
            if not is_wrong_type(answer):
                raise answer
            warn_once(f"a key in Redis is not RQ's: it is passed by ({answer})")
        answers.append(None if isinstance(answer, Exception) else answer)
    return answers


def fetch_jobs(connection: Redis, ids: Iterable[str]) -> dict[str, AllowedJob]:
    """The jobs that are there, by id."""
    found = AllowedJob.fetch_many(list(ids), connection=connection, serializer=JSONSerializer)
    return {job.id: job for job in found if isinstance(job, AllowedJob)}


def read_states(queue: Queue, ids: Sequence[str]) -> list[str | None]:
    """What the jobs' own records say of their state; None for one that is gone, or is none."""
    states: list[str | None] = []
    for start in range(0, len(ids), _AT_ONCE):
        with queue.connection.pipeline(transaction=False) as pipeline:
            for id_ in ids[start : start + _AT_ONCE]:
                pipeline.hget(AllowedJob.key_for(id_), "status")
            answers = answers_of(pipeline)
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


@lru_cache(maxsize=_MOST_WARNINGS)
def warn_once(message: str) -> None:
    """Log what is met again and again, once."""
    log.warning(message)


def text_of(value: bytes | str) -> str:
    """What Redis answers, as text, whatever somebody wrote there."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why a job failed: the error's class, dotted, or empty, and its message."""

    kind: str
    message: str

    @classmethod
    def of(cls, exc_string: str | None) -> "FailureReason":
        """Read it from the end of a traceback; a message may have several lines."""
        lines = (exc_string or "").strip().splitlines()
        trace = [n for n, line in enumerate(lines) if line.startswith(("Traceback ", '  File "'))]
        after = lines[trace[-1] + 1 :] if trace else lines
        said = list(dropwhile(lambda line: line.startswith(" "), after))
        last = " ".join(said).strip() or "no reason was recorded"
        if "AbandonedJobError" in last:
            return cls("", "its worker died")
        kind, colon, message = last.partition(": ")
        return cls(kind, message) if colon and " " not in kind else cls("", last)

    def __str__(self) -> str:
        name = self.kind.rpartition(".")[2]
        return f"{name}: {self.message}" if name else self.message
