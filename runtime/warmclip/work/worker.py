"""The worker: it does RQ's bookkeeping, and has one warm horse do the work.

This process imports neither onnxruntime nor numpy, Pillow or Qdrant's client, and never forks: its
horse is exec'd once and kept.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import worker_registration
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import WorkerStatus

from warmclip.errors import WarmclipError
from warmclip.work.counters import increment
from warmclip.work.crash_policy import CrashPolicy, Death
from warmclip.work.dequeue import Dequeuer
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.liveness import AT, HORSE, worker_fields
from warmclip.work.recovery import OrphanRecovery
from warmclip.work.rq_worker import HEARTBEAT_EVERY_S, RqWorker

log = logging.getLogger(__name__)

QUEUES = ("high", "default")

_GRACE_S = 5.0  # beyond a job's time-out, which its own process should have noticed
_TWICE_S = 0.3  # signals closer than this are one: a terminal's Ctrl+C may come twice


class WarmWorker(RqWorker):
    """An RQ worker whose horse is warm. Make one with ``run_worker``."""

    def __init__(
        self,
        queues: Sequence[str],
        name: str,
        connection: Redis,
        horse: WarmHorse,
        policy: CrashPolicy,
        supervisor: int | None = None,
    ) -> None:
        super().__init__(queues, name=name, connection=connection)
        self.was_asked_to_stop = False
        self._stops_now = False  # without finishing its job
        self._job_lock = threading.RLock()  # commands come from another thread, each for one job
        self._horse = horse
        self._policy = policy
        self._supervisor = supervisor
        self._dequeuer = Dequeuer(self.queues)
        self._recovery = OrphanRecovery(self.queues)
        self._recorded_horse = 0
        self._registered_at = self._heartbeat_at = float("-inf")
        self._problem: Exception | None = None

    @property
    def gives_up(self) -> bool:
        """Whether waiting for Redis makes no sense any more."""
        return self._stops_now or (self.was_asked_to_stop and not self.horse_pid)

    def run(self, *, burst: bool = False, max_jobs: int | None = None) -> bool:
        """Work until asked to stop, or until there is nothing to do.

        Returns whether it ended as it should.

        Raises:
            WarmclipError: no horse can be had any more.
        """
        self.install_signal_handlers()
        self.work(burst=burst, max_jobs=max_jobs, with_scheduler=False)
        if self._problem is not None:
            raise self._problem
        return burst or max_jobs is not None or self.was_asked_to_stop

    def serialize(self) -> dict[Any, Any]:
        """RQ's record of a worker, and what ours add."""
        return super().serialize() | worker_fields(self._horse.pid)

    # Dequeuing

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job; without a time-out, only look."""
        if self.get_state() != WorkerStatus.IDLE:
            self.set_state(WorkerStatus.IDLE)
        idle_since = time.monotonic()
        self._dequeuer.reset_wait()
        while not self.was_asked_to_stop and not self._is_orphan():
            self._maintain()
            if not self._have_horse():
                return None
            if (found := self._dequeuer.take()) or timeout is None:
                return found
            if found := self._dequeuer.wait():
                return found
            if max_idle_time is not None and time.monotonic() - idle_since > max_idle_time:
                return None
            if is_suspended(self.connection):  # by `rq suspend`, while this one waited
                self.check_for_suspension(burst=False)
        return None

    def _is_orphan(self) -> bool:
        if self._supervisor in (None, os.getppid()):
            return False
        log.warning("the supervisor is gone, so this worker leaves")
        self.was_asked_to_stop = True
        return True

    def _have_horse(self) -> bool:
        try:
            self._ensure_horse(lambda _: self._maintain())
        except WarmclipError as exc:
            self._problem = exc
            return False
        return self._horse.pid != 0

    def _ensure_horse(self, on_tick: Callable[[InFlight], None]) -> None:
        self._horse.ensure_ready(on_tick)
        if self._recorded_horse != self._horse.pid:
            self._recorded_horse = self._horse.pid
            self.connection.hset(self.key, HORSE, self._recorded_horse)
            if self._recorded_horse:
                increment(self.connection, "horses")

    def _maintain(self) -> None:
        """Every few seconds: send a heartbeat, register, and recover lost jobs."""
        self._recovery.run_if_due()
        if time.monotonic() - self._registered_at < HEARTBEAT_EVERY_S:
            return
        self._registered_at = time.monotonic()
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]  # rq's is not annotated
        with self.connection.pipeline() as pipeline:
            # Again, in case Redis came back without its memory.
            pipeline.hset(self.key, mapping=self.serialize())
            worker_registration.register(self, pipeline)
            super().heartbeat(pipeline=pipeline)
            pipeline.execute()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Leave RQ's heartbeat after every job to ``_maintain``."""
        if timeout is not None or pipeline is not None:
            super().heartbeat(timeout, pipeline)

    # One job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Have the horse run a job, and see to it when the horse dies."""
        try:
            self._hand_over(job, queue)
        except ResponseError as exc:  # a key of the job's is something else
            log.warning("job %s is passed by, as its records are not RQ's: %s", job.id, exc)
            queue.intermediate_queue.remove(job.id)

    def _hand_over(self, job: Job, queue: Queue) -> None:
        with self._job_lock:
            self.stopped_job_id = None
            execution = self.prepare_execution(job)
            job.started_at = now()
            self.set_horse_pid(self._horse.pid)
        try:
            self._run(job, queue, execution)
        except WarmclipError as exc:
            self._requeue(job, queue, execution)
            self._problem = exc
            self.stop_requested = True
        except (RedisConnectionError, RedisTimeoutError, ResponseError):
            raise
        except Exception as exc:
            self._problem = exc  # a bug: RQ's loop only logs it
            raise
        finally:
            with self._job_lock:
                self.set_horse_pid(0)
                self.executions.pop(execution.id, None)
            if job.origin != queue.name:  # else the horse did
                queue.intermediate_queue.remove(job.id)

    def _run(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Have the horse run a job, and fresh ones if it dies, as often as the policy allows."""
        seconds = float(job.timeout or queue.DEFAULT_TIMEOUT)
        timeout_s = seconds if seconds > 0 else None
        ends_at = time.monotonic() + timeout_s + _GRACE_S if timeout_s else float("inf")
        attempt = self._policy.begin(job)
        while True:
            death = self._horse.run_job(
                {
                    "job": job.id,
                    "execution": execution.id,
                    "queue": queue.name,
                    "careful": attempt.careful,
                },
                timeout_s=timeout_s,
                ends_at=ends_at,
                on_tick=lambda in_flight: self._send_heartbeat(job, execution, in_flight),
            )
            if death is None:
                self._policy.on_success()
                return
            if not self._is_unfinished(execution):
                return
            log.warning("job %s: %s", job.id, death, extra={"action": "horse_died"})
            may_repeat = attempt.on_crash(death) and time.monotonic() <= ends_at
            if may_repeat and self._have_horse_for(job, execution):
                continue
            if self._stops_now:
                self._requeue(job, queue, execution)
            else:
                self._fail(job, queue, execution, death)
            return

    def _have_horse_for(self, job: Job, execution: Execution) -> bool:
        """Start a fresh horse for a job, unless that is stopped before or meanwhile."""
        if self._is_unwanted(job):
            return False
        self._ensure_horse(lambda in_flight: self._send_heartbeat(job, execution, in_flight))
        self.set_horse_pid(self._horse.pid)
        return self.horse_pid != 0 and not self._is_unwanted(job)

    def _is_unwanted(self, job: Job) -> bool:
        """Whether it was stopped, or the worker was, while there was no horse to be killed."""
        return self._stops_now or self.stopped_job_id == job.id

    def _send_heartbeat(self, job: Job, execution: Execution, in_flight: InFlight) -> None:
        """Every few seconds of a job: tell Redis that it and this worker are alive."""
        if time.monotonic() - self._heartbeat_at < HEARTBEAT_EVERY_S:
            return
        self._heartbeat_at = time.monotonic()
        self.maintain_heartbeats(job, execution)
        if self.was_asked_to_stop:
            self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]  # rq's is not annotated
        if in_flight.progress is not None:
            self.connection.hset(self.key, AT, json.dumps([job.id, *in_flight.progress]))

    def _is_unfinished(self, execution: Execution) -> bool:
        """Whether the horse died before it had recorded what became of its job."""
        return bool(self.connection.exists(execution.key))

    def _fail(self, job: Job, queue: Queue, execution: Execution, death: Death) -> None:
        """Fail the job, or retry it, as RQ does when a work horse ends."""
        if self.stopped_job_id == job.id:
            reason = "Job stopped by user, work-horse terminated."
        else:
            reason = f"warmclip.errors.HorseDied: {death}"
        try:
            # The horse has written since.
            job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
        except NoSuchJobError:
            return  # deleted meanwhile
        job.ended_at = now()
        self.handle_job_failure(job, queue=queue, exc_string=reason, execution=execution)
        queue.intermediate_queue.remove(job.id)

    def _requeue(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Put the job back to where it was; this attempt does not count."""
        is_there = self.job_class.exists(job.id, self.connection)  # else it was deleted meanwhile
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            if is_there:
                job.set_status(JobStatus.QUEUED, pipeline=pipeline)
                queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.lrem(queue.intermediate_queue.key, 0, job.id)
            pipeline.execute()
        if is_there:
            log.warning("job %s is queued again", job.id)

    # Signals and commands

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's
        """Finish the job, then leave. A second signal leaves at once; the job is queued again."""
        first = self.shutdown_requested_at
        if first is None:
            self.shutdown_requested_at = now()
            self.was_asked_to_stop = self.stop_requested = True
            self._heartbeat_at = float("-inf")  # so that whoever watches learns it now
            if self.horse_pid:
                log.info("asked to stop: the job that runs is finished first; once more stops now")
            else:
                log.info("asked to stop")
        elif now() - first >= timedelta(seconds=_TWICE_S):
            self._stops_now = True
            self.kill_horse()

    request_force_stop = request_stop

    def handle_payload(self, message: Any) -> None:
        """Carry out a command, in RQ's thread for them: while one job ends, the next never begins.

        A message that is no command is passed by: the thread must live to receive the next.
        """
        try:
            with self._job_lock:
                super().handle_payload(message)  # type: ignore[no-untyped-call]  # not annotated
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            log.warning("a command that is none was passed by: %r", exc)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:  # noqa: ARG002 - rq's
        """End the horse, and with it the job that it runs; from any thread."""
        self._horse.kill()

    def _pubsub_exception_handler(self, exc: Exception, *_: object) -> None:
        """Wait until Redis is back: this worker receives commands again then."""
        if not isinstance(exc, RedisConnectionError | RedisTimeoutError):
            raise exc
        time.sleep(1.0)
