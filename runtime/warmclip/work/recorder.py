"""The one writer of what becomes of a job: started, succeeded, failed, put back, given up.

Each is one transaction, which is only taken while Redis has the execution among the started:
Redis may have been away meanwhile, or this process asleep, and another worker may have given the
job up. So an outcome is recorded once, as it was, or not at all.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError
from rq.defaults import DEFAULT_FAILURE_TTL, UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.exceptions import DeserializationError
from rq.executions import Execution, ExecutionRegistry
from rq.group import Group
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.rate_limit import release_slot
from rq.repeat import Repeat
from rq.results import Result
from rq.utils import current_timestamp, now, utcformat
from rq.worker import WorkerStatus

from warmclip.work.allowlist import AllowedJob
from warmclip.work.horse.report import JobReport
from warmclip.work.job_result import FailureReason
from warmclip.work.patience import LOST, refusal
from warmclip.work.rq_worker import LIFE_S, RqWorker

log = logging.getLogger(__name__)

STOPPED = "Job stopped by user, work-horse terminated."  # RQ's words

_MOST_CONFLICTS = 50  # of one transaction with others that write to the same job
_PAUSE_S = 0.02

Follows = Callable[[], object]
Write = Callable[[Pipeline], Follows]
"""Reads through a pipeline that watches, queues what is to be written; returns what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One execution of a job."""

    job: AllowedJob
    queue: Queue
    execution: Execution

    def is_held(self, redis: Any) -> bool:
        """Whether Redis has this execution among the started: nobody has given it up.

        Args:
            redis: a connection, or a pipeline that watches.
        """
        key = self.job.started_job_registry.key
        return redis.zscore(key, self.execution.composite_key) is not None


class JobRecorder:
    """Records for one worker."""

    def __init__(self, worker: RqWorker) -> None:
        self._worker = worker
        self._connection = worker.connection

    # The beginning

    def start(self, job: AllowedJob, queue: Queue) -> Running | None:
        """Move a job from the intermediate list to the started ones.

        Returns:
            None if the job was deleted, cancelled or begun by another worker meanwhile.
        """
        job.origin = queue.name  # where it was taken from, and so where it is looked for
        job.meta = {}  # the function that runs saves its own; nothing here may overwrite it
        execution = Execution(uuid4().hex, job.id, self._connection, self._worker.name)
        running = Running(job=job, queue=queue, execution=execution)
        between = queue.intermediate_queue.key
        is_there = False

        def write(pipeline: Pipeline) -> Follows:
            nonlocal is_there
            status, data = pipeline.hmget(job.key, "status", "data")
            is_there = data is not None and status != JobStatus.CANCELED.value.encode()
            is_recorded = running.is_held(pipeline)  # by this very transaction: its answer was lost
            # This worker may have been stopped, or refused, for so long that another one took the
            # job for lost: it has queued it again, and has perhaps begun it.
            waits = any(pipeline.lpos(key, job.id) is not None for key in (between, queue.key))
            is_there = is_there and (waits or is_recorded)
            pipeline.multi()
            pipeline.lrem(between, 1, job.id)
            if is_there and not is_recorded:
                self._start(running, pipeline)
            return lambda: None

        taken = self._transact([job.key], write)[0]
        if not is_there:
            log.warning("job %s was deleted, cancelled or begun elsewhere before it began", job.id)
            return None
        if not taken:  # another worker took it for lost, and has queued it again
            self._connection.lrem(queue.key, 1, job.id)
        self._worker.executions[execution.id] = execution
        return running

    def _start(self, running: Running, pipeline: Pipeline) -> None:
        job, execution = running.job, running.execution
        execution.save(ttl=LIFE_S, pipeline=pipeline)
        ExecutionRegistry(job.id, self._connection).add(execution, LIFE_S, pipeline)
        job.started_job_registry.add_execution(execution, pipeline=pipeline, ttl=LIFE_S)
        pipeline.sadd(execution.worker_executions_key, execution.composite_key)
        pipeline.expire(execution.worker_executions_key, LIFE_S + 60)
        job.prepare_for_execution(self._worker.name, pipeline=pipeline)
        pipeline.persist(job.key)
        self._worker.set_state(WorkerStatus.BUSY, pipeline=pipeline)

    def keep_alive(self, running: Running, pipeline: Pipeline) -> None:
        """Have a transaction say that a job still runs, if nobody has given it up.

        It must be the transaction's end; its answer is for ``was_kept``.
        """
        job, execution = running.job, running.execution
        execution.last_heartbeat = now()
        execution.save(ttl=LIFE_S, pipeline=pipeline)  # whole: it may have expired meanwhile
        ExecutionRegistry(job.id, self._connection).add(execution, LIFE_S, pipeline)
        job.started_job_registry.add_execution(execution, pipeline=pipeline, ttl=LIFE_S, xx=True)
        job.heartbeat(now(), LIFE_S, pipeline=pipeline)

    def was_kept(self, running: Running, answers: Sequence[Any]) -> None:
        """Look at the answers of that transaction: a job that was deleted leaves nothing."""
        if answers[-1]:  # the heartbeat has made a record of its own
            self._connection.delete(running.job.key)

    # The end

    def finish(self, running: Running, report: JobReport) -> None:
        """Record what a horse reports."""
        job = running.job
        job.ended_at = now()
        job.retries_left = report.retries_left
        job.result_ttl, job.failure_ttl = report.result_ttl, report.failure_ttl
        match report.outcome:
            case "success":
                self._record(
                    running,
                    partial(self._succeed, running, report.text),
                    partial(self._succeed, running, report.text, with_dependents=False),
                )
            case "retry":
                asked = json.loads(report.text)
                self._record(running, partial(self._run_again, running, asked))
            case "requeue":
                self.requeue(running)
            case "failure":
                self.fail(running, report.text)

    def fail(self, running: Running, reason: str, *, stopped: bool = False) -> None:
        """Record a failure, or a retry if the job has one left and was not stopped by command."""
        running.job.ended_at = now()
        self._record(running, partial(self._fail, running, reason, stopped=stopped))

    def requeue(self, running: Running) -> None:
        """Put the job back to where it was; this attempt does not count."""

        def write(pipeline: Pipeline) -> Follows:
            pipeline.multi()
            running.execution.delete(job=running.job, pipeline=pipeline)
            running.job.set_status(JobStatus.QUEUED, pipeline=pipeline)
            running.queue.push_job_id(running.job.id, pipeline=pipeline, at_front=True)
            return lambda: log.warning("job %s is queued again", running.job.id)

        self._record(running, write)

    def give_up(self, running: Running, *, expired_by: float | None) -> bool:
        """Fail, or retry, a job whose worker is gone; returns whether it was given up here and now.

        Args:
            running: the other worker's execution.
            expired_by: give it up only if its heartbeats ceased before this time, in seconds
                since 1970, and by Redis's own clock; None: its processes are known to be gone.
        """
        job = running.job
        registry = job.started_job_registry.key
        is_lost = False

        def write(pipeline: Pipeline) -> Follows:
            nonlocal is_lost
            score = pipeline.zscore(registry, running.execution.composite_key)
            status = pipeline.hget(job.key, "status")
            is_lost = score is not None and (
                expired_by is None
                or (score <= expired_by and not pipeline.exists(running.execution.key))
            )
            if is_lost and status == JobStatus.STARTED.value.encode():
                job.mark_ended(JobStatus.STARTED)
                job.ended_at = now()
                reason = "rq.exceptions.AbandonedJobError: its worker died"
                follows = self._fail(running, reason, pipeline, stopped=False)
                pipeline.lrem(running.queue.intermediate_queue.key, 0, job.id)
                return follows
            pipeline.multi()
            if is_lost:  # the job has ended otherwise
                running.execution.delete(job=job, pipeline=pipeline)
                is_lost = False
            return lambda: None

        self._transact([job.key], write)
        return is_lost

    # How it is written

    def _record(self, running: Running, *writes: Write) -> None:
        """Write an outcome; if a job's own record makes that impossible, write that."""
        for write in writes:
            try:
                self._record_once(running, write)
            except RedisError as exc:
                if refusal(exc) is not None or isinstance(exc, LOST):
                    raise
                problem: Exception = exc
            except (ValueError, TypeError, ArithmeticError, LookupError, OSError) as exc:
                problem = exc
            else:
                return
            said = f"{type(problem).__name__}: {problem}"
            log.error("the outcome of job %s cannot be recorded: %s", running.job.id, said)
        reason = f"warmclip.errors.JobFailed: its outcome could not be recorded: {said}"
        self._record_once(running, partial(self._fail_plainly, running, reason))

    def _record_once(self, running: Running, write: Write) -> None:
        job = running.job
        was_sent: Follows | None = None

        def guarded(pipeline: Pipeline) -> Follows:
            nonlocal was_sent
            # Writing an outcome would make the record of a deleted job anew.
            if running.is_held(pipeline) and pipeline.exists(job.key):
                was_sent = write(pipeline)
                return was_sent
            pipeline.multi()
            running.execution.delete(job=job, pipeline=pipeline)
            # It may be this very transaction that was done, and its answer that was lost.
            return was_sent or partial(_tell_that_it_is_gone, job)

        self._transact([job.key, job.dependents_key], guarded)
        self._worker.executions.pop(running.execution.id, None)

    def _succeed(
        self, running: Running, result: str, pipeline: Pipeline, *, with_dependents: bool = True
    ) -> Follows:
        job, queue = running.job, running.queue
        repeats_left, intervals = job.repeats_left, job.repeat_intervals
        ready: dict[str, list[str]] = {}
        if with_dependents:
            ready = queue.move_dependents_to_ready(job, pipeline=pipeline)
        if not pipeline.explicit_transaction:
            pipeline.multi()
        self._worker.increment_successful_job_count(pipeline=pipeline)
        self._count_time(job, pipeline)
        running.execution.delete(job=job, pipeline=pipeline)
        ttl = job.get_result_ttl(self._worker.default_result_ttl)
        job.mark_ended(JobStatus.FINISHED)
        if ttl != 0:
            job.set_status(JobStatus.FINISHED, pipeline=pipeline)
            job.save(pipeline=pipeline, include_meta=False, include_result=False)
            value = None if result == "null" else result.encode()
            self._add_result(running, Result.Type.SUCCESSFUL, ttl, pipeline, return_value=value)
            job.finished_job_registry.add(job, ttl, pipeline)
        if repeats_left is not None and repeats_left > 0:
            Repeat.schedule(job, queue, pipeline=pipeline)
            # As before, in case that all this has to be written again.
            job.repeats_left, job.repeat_intervals = repeats_left, intervals
        elif ttl == 0:
            _delete(job, pipeline)
        else:
            job.cleanup(ttl, pipeline=pipeline, remove_from_queue=False)
        return partial(self._after_success, running, ready)

    def _after_success(self, running: Running, ready: dict[str, list[str]]) -> None:
        running.queue.enqueue_ready_jobs_by_queue(ready)
        release_slot(running.job)
        self._tell(running, logging.INFO, "job_done", "is done")

    def _fail(self, running: Running, reason: str, pipeline: Pipeline, *, stopped: bool) -> Follows:
        job = running.job
        pipeline.multi()
        self._worker.increment_failed_job_count(pipeline)
        self._count_time(job, pipeline)
        running.execution.delete(job=job, pipeline=pipeline)
        if job.should_retry and not stopped:
            assert job.retries_left is not None  # noqa: S101 - else it were not to be retried
            interval = job.get_retry_interval()
            job.retries_left -= 1
            at_front = job.enqueue_at_front_on_retry
            _enqueue_in(job, running.queue, interval, pipeline, at_front=at_front)
            job.retries_left += 1  # as before, in case that all this has to be written again
            return partial(self._after_retry, running, reason)
        job.set_status(JobStatus.STOPPED if stopped else JobStatus.FAILED, pipeline=pipeline)
        job.failed_job_registry.add(job, job.failure_ttl, reason, pipeline=pipeline)
        self._add_result(running, Result.Type.FAILED, job.failure_ttl, pipeline, exc_string=reason)
        return partial(self._after_failure, running, reason)

    def _fail_plainly(self, running: Running, reason: str, pipeline: Pipeline) -> Follows:
        """Record a failure with nothing of the job's record but its id."""
        job = running.job
        pipeline.multi()
        running.execution.delete(job=job, pipeline=pipeline)
        ended: dict[Any, Any] = {"status": JobStatus.FAILED.value, "ended_at": utcformat(now())}
        pipeline.hset(job.key, mapping=ended)
        expires_at = current_timestamp() + DEFAULT_FAILURE_TTL
        pipeline.zadd(job.failed_job_registry.key, {job.id: expires_at})
        self._add_result(running, Result.Type.FAILED, None, pipeline, exc_string=reason)
        return lambda: None

    def _run_again(self, running: Running, asked: dict[str, Any], pipeline: Pipeline) -> Follows:
        """Queue a job again that returned a ``Retry``, until there were as many as that allows."""
        job = running.job
        done = job.number_of_retries or 0
        pipeline.multi()
        self._worker.increment_failed_job_count(pipeline)
        self._count_time(job, pipeline)
        running.execution.delete(job=job, pipeline=pipeline)
        is_last = done >= asked["max"]
        kind = Result.Type.MAX_RETRIES_EXCEEDED if is_last else Result.Type.RETRIED
        note = json.dumps(UNSERIALIZABLE_RETURN_VALUE_PAYLOAD).encode()  # as RQ has it, in JSON
        self._add_result(running, kind, job.failure_ttl, pipeline, return_value=note)
        if is_last:
            job.set_status(JobStatus.FAILED, pipeline=pipeline)
            job.failed_job_registry.add(job, job.failure_ttl, "", pipeline=pipeline)
            return partial(self._after_failure, running, "it has asked to run again too often")
        job.number_of_retries = done + 1
        interval = Retry.get_interval(done, asked["intervals"])
        at_front = job.enqueue_at_front_on_retry or asked["at_front"]
        _enqueue_in(job, running.queue, interval, pipeline, at_front=at_front)
        job.number_of_retries = done  # as before, in case that all this has to be written again
        return partial(self._after_retry, running, "it has asked to")

    def _after_retry(self, running: Running, reason: str) -> None:
        release_slot(running.job)
        self._tell(running, logging.WARNING, "job_retried", "runs again", reason)

    def _after_failure(self, running: Running, reason: str) -> None:
        running.queue.enqueue_dependents(running.job)
        release_slot(running.job)
        self._tell(running, logging.WARNING, "job_failed", "failed", reason)

    def _tell(
        self, running: Running, level: int, action: str, outcome: str, reason: str | None = None
    ) -> None:
        """Log an outcome with its fields; the horse has logged an error with its traceback."""
        job = running.job
        took_s = job.ended_at - job.started_at if job.ended_at and job.started_at else timedelta()
        about: dict[str, Any] = {
            "action": action,
            "job": job.id,
            "queue": running.queue.name,
            "worker": self._worker.name,
            "function": _function_of(job),
            "seconds": round(took_s.total_seconds(), 3),
        }
        if reason is None:
            log.log(level, "job %s %s", job.id, outcome, extra=about)
            return
        about["error"] = FailureReason.of(reason).kind
        why = f": {about['error']}" if about["error"] else ""
        log.log(level, "job %s %s%s", job.id, outcome, why, extra=about)

    def _add_result(
        self,
        running: Running,
        kind: Result.Type,
        ttl: int | None,
        pipeline: Pipeline,
        *,
        return_value: bytes | None = None,
        exc_string: str | None = None,
    ) -> None:
        Result(
            running.job.id,
            kind,
            self._connection,
            return_value=return_value,
            exc_string=exc_string,
            worker_name=self._worker.name,
            serializer=_Serialized,
            execution_id=running.execution.id,
            execution_started_at=running.execution.created_at,
            execution_ended_at=running.job.ended_at,
        ).save(ttl, pipeline=pipeline)  # type: ignore[no-untyped-call]  # rq's is not annotated

    def _count_time(self, job: Job, pipeline: Pipeline) -> None:
        if job.started_at and job.ended_at:
            self._worker.increment_total_working_time(job.ended_at - job.started_at, pipeline)

    def _transact(self, keys: Sequence[str], write: Write) -> list[Any]:
        """Do one transaction, again whenever another one has come between; returns its answers.

        Args:
            keys: to watch.
            write: called for each attempt.
        """
        conflicts = 0
        while True:
            with self._connection.pipeline() as pipeline:
                try:
                    watched = keys if conflicts < _MOST_CONFLICTS else [self._worker.key]
                    pipeline.watch(*watched)  # type: ignore[no-untyped-call]  # redis-py's
                    follows = write(pipeline)
                    answers = pipeline.execute()
                except WatchError as exc:
                    if isinstance(exc.__context__, (*LOST, ResponseError)):
                        continue  # Redis was away, or refused it for a while
                    conflicts += 1
                    if conflicts == _MOST_CONFLICTS:
                        log.warning("%s changes all the time; it is written regardless", keys[0])
                    time.sleep(min(conflicts, 10) * _PAUSE_S)
                    continue
            _do(follows)
            return answers


def _function_of(job: AllowedJob) -> str | None:
    try:
        return str(job.func_name)
    except DeserializationError:  # a record that says nothing of it: why the job failed
        return None


def _tell_that_it_is_gone(job: Job) -> None:
    log.warning(
        "job %s was deleted, cancelled or given up by another worker while it ran; its outcome is "
        "not recorded",
        job.id,
    )


def _do(follows: Follows) -> None:
    """What RQ does after an outcome is recorded; RQ's cleaning makes good what fails here."""
    try:
        follows()
    except RedisError as exc:
        if refusal(exc) is not None or isinstance(exc, LOST):
            raise
        log.exception("dependents, or a rate limit, are left to RQ's cleaning")
    except (ValueError, TypeError, LookupError):
        log.exception("dependents, or a rate limit, are left to RQ's cleaning")


def _enqueue_in(
    job: Job, queue: Queue, seconds: int, pipeline: Pipeline, *, at_front: bool
) -> None:
    """Queue a job once more, after so many seconds."""
    if seconds:
        queue.schedule_job(job, now() + timedelta(seconds=seconds), pipeline=pipeline)
        return
    job.enqueued_at = now()
    job.set_status(JobStatus.QUEUED, pipeline=pipeline)
    job.save(pipeline=pipeline)
    job.cleanup(ttl=job.ttl, pipeline=pipeline)
    queue.push_job_id(job.id, pipeline=pipeline, at_front=at_front)


def _delete(job: Job, pipeline: Pipeline) -> None:
    """Leave nothing of a job that is to leave nothing."""
    if job.group_id:
        Group(job.connection, job.group_id).delete_job(job.id, pipeline=pipeline)
    executions = ExecutionRegistry(job.id, job.connection).key
    results = Result.get_key(job.id)  # type: ignore[no-untyped-call]  # rq's is not annotated
    pipeline.delete(job.key, job.dependents_key, job.dependencies_key, results, executions)


class _Serialized:
    """A serializer for what is JSON already."""

    @staticmethod
    def dumps(value: bytes | None) -> bytes:
        """Leave it as it is."""
        return value or b""

    @staticmethod
    def loads(value: bytes) -> bytes:
        """Leave it as it is."""
        return value
