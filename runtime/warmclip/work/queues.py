"""Queues and jobs as warmclip's workers read them: in JSON, with allow-listed functions only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import dropwhile

from redis import Redis
from rq.queue import Queue
from rq.serializers import JSONSerializer

from warmclip.work.allowlist import AllowedJob

_AT_ONCE = 256  # jobs that are asked for in one request


def open_queue(connection: Redis, name: str = "default") -> Queue:
    """One queue."""
    return Queue(name, connection=connection, job_class=AllowedJob, serializer=JSONSerializer)


def all_queues(connection: Redis) -> list[Queue]:
    """Every queue that Redis knows, by name."""
    queues: list[Queue] = Queue.all(
        connection=connection, job_class=AllowedJob, serializer=JSONSerializer
    )
    return sorted(queues, key=lambda queue: queue.name)


def fetch_jobs(connection: Redis, ids: Iterable[str]) -> dict[str, AllowedJob]:
    """The jobs that are there, by id."""
    found = AllowedJob.fetch_many(list(ids), connection=connection, serializer=JSONSerializer)
    return {job.id: job for job in found if isinstance(job, AllowedJob)}


def read_states(queue: Queue, ids: Sequence[str]) -> list[bytes | None]:
    """What the jobs' own records say of their state; None for one that is gone."""
    states: list[bytes | None] = []
    for start in range(0, len(ids), _AT_ONCE):
        with queue.connection.pipeline(transaction=False) as pipeline:
            for id_ in ids[start : start + _AT_ONCE]:
                pipeline.hget(AllowedJob.key_for(id_), "status")
            states += pipeline.execute()
    return states


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
