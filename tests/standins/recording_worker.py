"""A worker without a horse, which takes jobs and records what becomes of them."""

from typing import Any

from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from warmclip.work.allowlist import AllowedJob
from warmclip.work.dequeue import Dequeuer
from warmclip.work.horse.report import JobReport, Outcome
from warmclip.work.recorder import JobRecorder, Running
from warmclip.work.recovery import OrphanRecovery
from warmclip.work.rq_worker import RqWorker

FUNCTION = "warmclip.work.jobs.embed_texts"


class Worker:
    """A worker without a horse."""

    def __init__(self, connection: Redis, name: str) -> None:
        self.rq = RqWorker(["default"], name=name, connection=connection)
        self.rq.register_birth()  # type: ignore[no-untyped-call]  # rq's is not annotated
        self.recorder = JobRecorder(self.rq)
        self.queue = self.rq.queues[0]
        self.given_up: list[str] = []
        self.recovery = OrphanRecovery(
            [self.queue], self.recorder, lambda job: self.given_up.append(job.id)
        )

    def take(self) -> AllowedJob:
        """The next job, in the intermediate list by now."""
        taken = Dequeuer(self.rq.connection, [self.queue]).take()
        assert taken is not None
        return taken[0]

    def start(self) -> Running:
        """The next job, started."""
        running = self.recorder.start(self.take(), self.queue)
        assert running is not None
        return running

    def finish(self, running: Running, outcome: Outcome = "success", text: str = "1") -> None:
        """Have a horse report this."""
        job = running.job
        report = JobReport(
            execution=running.execution.id,
            outcome=outcome,
            text=text,
            retries_left=job.retries_left,
            result_ttl=job.result_ttl,
            failure_ttl=job.failure_ttl,
        )
        self.recorder.finish(running, report)

    def figure(self, name: str) -> int:
        """One that RQ keeps of a worker."""
        return int(self.rq.connection.hget(self.rq.key, name) or 0)


def enqueue(connection: Redis, **options: Any) -> Job:
    """A job of a producer's."""
    queue = Queue(connection=connection, serializer=JSONSerializer)
    return queue.enqueue(FUNCTION, args=(["a"],), **options)


def results(job: Job) -> list[Result]:
    """All that is recorded of a job's outcome."""
    found: list[Result] = Result.all(job, serializer=JSONSerializer)
    return found


def is_nowhere(worker: Worker, job: Job) -> bool:
    """Whether no list has it any more, waiting or running."""
    redis = worker.rq.connection
    return (
        worker.queue.job_ids == []
        and worker.queue.intermediate_queue.get_job_ids() == []
        and redis.zcard(worker.queue.started_job_registry.key) == 0
        and list(redis.scan_iter(f"rq:execution*:{job.id}*")) == []
        and redis.scard(worker.rq.executions_key) == 0
    )
