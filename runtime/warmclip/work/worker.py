"""The worker: it does RQ's bookkeeping, and has one warm horse do the work.

This process imports neither onnxruntime nor numpy, Pillow or Qdrant's client, and never forks: its
horse is exec'd once and kept.
"""

import base64
import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError
from rq import worker_registration
from rq.exceptions import StopRequested
from rq.job import Job
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import WorkerStatus

from warmclip.errors import WarmclipError
from warmclip.work.allowlist import AllowedJob
from warmclip.work.clock import ClockWatch
from warmclip.work.counters import CounterBuffer
from warmclip.work.crash_policy import CrashPolicy, Death, is_ours
from warmclip.work.dequeue import Dequeuer
from warmclip.work.follower import ModelFollower
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.horse.report import JobReport
from warmclip.work.horse.warm_horse import Order, WarmHorse
from warmclip.work.liveness import AT, HORSE, STARTING, describe_stage, worker_fields
from warmclip.work.model_switch import read_switches
from warmclip.work.patience import LOST, is_wrong_type, refusal
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.recorder import STOPPED, JobRecorder, Running
from warmclip.work.recovery import OrphanRecovery
from warmclip.work.replies import pass_wrong_types, passing_wrong_types
from warmclip.work.rq_worker import HEARTBEAT_EVERY_S, RqWorker

log = logging.getLogger(__name__)

QUEUES = ("high", "default")

_TWICE_S = 0.3  # signals closer than this are one: a terminal's Ctrl+C may come twice
_MOST_DEATHS_TO_TELL = 1_000


class WarmWorker(RqWorker):
    """An RQ worker whose horse is warm. Make one with ``run_worker``."""

    def __init__(
        self,
        queues: Sequence[str],
        name: str,
        connection: Redis,
        horse: WarmHorse,
        policy: CrashPolicy,
        counters: CounterBuffer,
        follower: ModelFollower,
        supervisor: int | None = None,
    ) -> None:
        super().__init__(queues, name=name, connection=connection)
        self.was_asked_to_stop = False
        self._stops_now = False  # without finishing its job
        self._job_lock = threading.RLock()  # commands come from another thread, each for one job
        self._horse = horse
        self._policy = policy
        self._counters = counters
        self._follower = follower
        self._poisoned_files = PoisonedFiles(connection)
        self._supervisor = supervisor
        self._recorder = JobRecorder(self)
        self._dequeuer = Dequeuer(connection, self.queues)
        self._recovery = OrphanRecovery(self.queues, self._recorder, self._on_given_up)
        self._clock = ClockWatch(HEARTBEAT_EVERY_S)
        self._deaths_to_tell: deque[tuple[Order, str]] = deque(maxlen=_MOST_DEATHS_TO_TELL)
        self._recorded: dict[Any, Any] = {}  # of the horse, in this worker's record
        self._jobs = 0
        self._hears_commands = True
        self._is_done = False  # nothing was left to do
        self._heartbeat_at = float("-inf")
        self._problem: Exception | None = None

    @property
    def gives_up(self) -> bool:
        """Whether waiting for Redis makes no sense any more."""
        is_stopping = self.was_asked_to_stop or self._problem is not None
        return self._stops_now or (is_stopping and not self.horse_pid)

    def start(self) -> None:
        """Register as starting, and load the model in a horse, unless asked to stop meanwhile.

        Raises:
            WarmclipError: no horse can be had.
            RedisError: Redis was lost, or refused commands, for too long.
        """
        self.install_signal_handlers()
        with passing_wrong_types():
            super().register_birth()  # type: ignore[no-untyped-call]  # rq's is not annotated
        try:
            self._ensure_horse(None)
        except BaseException:
            with suppress(RedisError):
                self.register_death()
            raise
        self.connection.hdel(self.key, AT)

    def run(self, *, burst: bool = False, max_jobs: int | None = None) -> bool:
        """Work until asked to stop, or until there is nothing to do.

        Returns whether it ended as it should.

        Raises:
            WarmclipError: no horse can be had any more.
            RedisError: Redis was lost, or refused commands, for too long.
        """
        self.work(burst=burst, max_jobs=max_jobs, with_scheduler=False)
        if self._problem is not None:
            raise self._problem
        self._counters.flush(self.connection)
        has_enough = max_jobs is not None and self._jobs >= max_jobs
        return self.was_asked_to_stop or self._is_done or has_enough

    def register_birth(self) -> None:
        """Leave it at what ``start`` has registered: RQ would take that for another worker's."""

    def register_death(self) -> None:
        """Tell Redis of the end, whatever others have put into the place of RQ's sets."""
        with passing_wrong_types():
            super().register_death()  # type: ignore[no-untyped-call]  # rq's is not annotated

    def serialize(self) -> dict[Any, Any]:
        """RQ's record of a worker, and what ours add.

        RQ writes the state after the record; who looked in between would see a worker without one.
        """
        return super().serialize() | self._horse_fields() | {"state": self.get_state()}

    def _horse_fields(self) -> dict[Any, Any]:
        return worker_fields(self._horse.pid, self._horse.ready.models, self._follower.trouble)

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Never: ``OrphanRecovery`` does what RQ does here."""
        return False

    # Dequeuing

    def dequeue_job_and_maintain_ttl(
        self,
        timeout: int | None,
        max_idle_time: int | None = None,  # noqa: ARG002 - RQ's, which `run` does not set
    ) -> tuple[Job, Queue] | None:
        """Wait for a job; without a time-out, only look."""
        try:
            found = self._dequeue(waits=timeout is not None)
        except (WarmclipError, RedisError, OSError) as exc:
            self._problem = exc
            return None
        self._is_done = found is None and self._horse.pid != 0
        return found

    def check_for_suspension(self, burst: bool) -> None:
        """Wait while `rq suspend` holds; with nothing else to wait for, leave."""
        try:
            super().check_for_suspension(burst)
        except StopRequested:
            self._is_done = True
            raise
        except (RedisError, OSError) as exc:
            self._problem = exc
            raise StopRequested from exc

    def _dequeue(self, *, waits: bool) -> tuple[AllowedJob, Queue] | None:
        if self.get_state() != WorkerStatus.IDLE:
            self.set_state(WorkerStatus.IDLE)
        while not self.was_asked_to_stop and not self._is_orphan():
            self._tick()
            self._recovery.run_if_due()
            self._follower.follow(lambda: self._ensure_horse(None))
            if not self._have_horse():
                return None
            if (found := self._dequeuer.take()) or not waits:
                return found
            self._dequeuer.wait()
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
        """Start a horse if need be, and have it tell applications of jobs whose process died."""
        self._ensure_horse(None)
        while self._deaths_to_tell and self._horse.pid:
            order, reason = self._deaths_to_tell.popleft()
            death = self._horse.tell_of_death(order, reason, on_tick=lambda _: self._tick())
            if death is not None:
                log.warning("the failure callback of job %s: %s", order.job, death)
                self._ensure_horse(None)
        return self._horse.pid != 0

    def _ensure_horse(self, running: Running | None) -> None:
        told = None

        def on_tick(in_flight: InFlight) -> None:
            nonlocal told
            if in_flight.progress is not None and in_flight.progress != told:
                told = in_flight.progress
                log.info("the model is not loaded yet: %s", describe_stage(told))
            self._tick(running, in_flight)

        self._horse.ensure_ready(on_tick)
        self._record_horse()

    def _record_horse(self) -> None:
        """Tell Redis at once of another horse, and of a model that it lacks."""
        fields = self._horse_fields()
        if fields == self._recorded:
            return
        if self._horse.pid and fields[HORSE] != self._recorded.get(HORSE):
            self._counters.add("horses")
        self._recorded = fields
        self.connection.hset(self.key, mapping=fields)

    # Heartbeats

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Leave RQ's heartbeat after every job to ``_tick``."""
        if timeout is not None or pipeline is not None:
            super().heartbeat(timeout, pipeline)

    def _tick(self, running: Running | None = None, in_flight: InFlight | None = None) -> None:
        """Every few seconds: tell Redis that this worker, and the job that it runs, are alive."""
        if self._clock.has_jumped():
            # This process was asleep, or without Redis, and others may have been as well.
            self._recovery.rest(2 * HEARTBEAT_EVERY_S)
        elif time.monotonic() - self._heartbeat_at < HEARTBEAT_EVERY_S:
            return
        self._heartbeat_at = time.monotonic()
        with self.connection.pipeline() as pipeline:
            # Whole, in case Redis came back without its memory.
            pipeline.hset(self.key, mapping=self.serialize())
            worker_registration.register(self, pipeline)
            super().heartbeat(pipeline=pipeline)
            if in_flight is not None and in_flight.progress is not None:
                job_id = running.job.id if running is not None else STARTING
                pipeline.hset(self.key, AT, json.dumps([job_id, *in_flight.progress]))
            if running is not None:
                self._recorder.keep_alive(running, pipeline)
            answers = pass_wrong_types(pipeline.execute(raise_on_error=False))
        self._follower.keep_turn()
        self._follower.on_switches(read_switches(self.connection))
        if running is not None:
            self._recorder.was_kept(running, answers)
        self._counters.flush(self.connection)
        if self.was_asked_to_stop:
            self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]  # rq's is not annotated

    # One job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Have the horse run a job, and record what becomes of it."""
        assert isinstance(job, AllowedJob)  # noqa: S101 - from ``dequeue_job_and_maintain_ttl``
        self._jobs += 1
        try:
            self._start_and_run(job, queue)
        except ResponseError as exc:
            if not is_wrong_type(exc):  # Redis refuses: the job is where it was
                self._give_up(exc)
                return
            log.warning("job %s is passed by, as its records are not RQ's: %s", job.id, exc)
            queue.intermediate_queue.remove(job.id)
        except (WarmclipError, RedisError, OSError) as exc:
            self._give_up(exc)
        except Exception as exc:
            self._problem = exc  # a bug: RQ's loop only logs it
            raise

    def _give_up(self, problem: Exception) -> None:
        """Leave RQ's loop; ``run`` raises the problem."""
        self._problem = problem
        self.stop_requested = True

    def _start_and_run(self, job: AllowedJob, queue: Queue) -> None:
        with self._job_lock:
            self.stopped_job_id = None
            running = self._recorder.start(job, queue)
            if running is None:
                return
            self.set_horse_pid(self._horse.pid)
        try:
            self._run(running)
        except WarmclipError:
            self._recorder.requeue(running)
            raise
        finally:
            with self._job_lock:
                self.set_horse_pid(0)
                self.executions.pop(running.execution.id, None)

    def _run(self, running: Running) -> None:
        """Have the horse run a job, and fresh ones if it dies, as often as the policy allows."""
        job = running.job
        if job.problem is not None:
            self._counters.add("runs:failure")
            reason = f"warmclip.errors.JobRefused: job {job.id}: {job.problem}"
            self._recorder.fail(running, reason)
            return
        attempt = self._policy.begin(job)
        order = _order(running, may_wait=self._follower.may_wait(job.id))
        while True:
            outcome = self._horse.run_job(
                order,
                careful=attempt.careful,
                poisoned=self._poisoned_files.known(),
                on_tick=lambda in_flight: self._tick(running, in_flight),
            )
            if isinstance(outcome, JobReport):
                self._policy.on_success()
                self._follower.on_report(job.id, outcome)
                if outcome.store_retries:
                    self._counters.add("store_retries", outcome.store_retries)
                for collection, points in outcome.points.items():
                    self._counters.keep_points(collection, points)
                self._record_horse()
                self._counters.add(f"runs:{outcome.outcome}")
                self._recorder.finish(running, outcome)
                return
            about = {"action": "horse_died", "job": job.id, "cause": outcome.kind}
            log.warning("job %s: %s", job.id, outcome, extra=about)
            self._counters.add(f"deaths:{outcome.kind}")
            may_repeat = attempt.on_crash(outcome) and time.monotonic() <= order.ends_at
            if may_repeat and self._have_horse_for(running):
                continue
            if self._stops_now:
                self._recorder.requeue(running)
            else:
                self._counters.add("runs:failure")
                self._fail(running, outcome)
            return

    def _have_horse_for(self, running: Running) -> bool:
        """Start a fresh horse for a job, unless that is stopped before or meanwhile."""
        if self._is_unwanted(running.job):
            return False
        self._ensure_horse(running)
        self.set_horse_pid(self._horse.pid)
        return self.horse_pid != 0 and not self._is_unwanted(running.job)

    def _is_unwanted(self, job: Job) -> bool:
        """Whether it was stopped, or the worker was, while there was no horse to be killed."""
        return self._stops_now or self.stopped_job_id == job.id

    def _fail(self, running: Running, death: Death) -> None:
        """Fail the job, or retry it, as RQ does when a work horse ends."""
        if self.stopped_job_id == running.job.id:
            self._recorder.fail(running, STOPPED, stopped=True)
            return
        self._recorder.fail(running, f"warmclip.errors.HorseDied: {death}")
        self._to_be_told(running.job, str(death))

    def _on_given_up(self, job: AllowedJob) -> None:
        self._to_be_told(job, "its worker died")

    def _to_be_told(self, job: AllowedJob, reason: str) -> None:
        """Have the next horse call the failure callback of a job whose process died."""
        callback = job.record.get(b"failure_callback_name", b"").decode("utf-8", "replace")
        if callback in self._horse.ready.callbacks:
            timeout_s = float(job.failure_callback_timeout)
            order = Order(
                execution=f"died-{job.id}",
                job=job.id,
                record=_encoded(job.record),
                is_ours=False,
                timeout_s=timeout_s,
            )
            self._deaths_to_tell.append((order, reason))

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
                self._horse.stop_loading()
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

    def unsubscribe(self) -> None:
        """Stop to listen to commands; the connection's end, which comes next, tells Redis.

        A command over a connection that is broken would lock redis-py below 6.4 up.
        """
        self._hears_commands = False
        if self.pubsub_thread is not None:
            self.pubsub_thread.stop()

    def _pubsub_exception_handler(self, exc: Exception, *_: object) -> None:
        """Wait until Redis is back, or allows it: this worker receives commands again then."""
        if not self._hears_commands:
            return  # the connection is gone, as it was closed
        # redis-py 6.0 reads from the connection while it is being closed, and raises anything.
        passes = refusal(exc) is not None or isinstance(exc, LOST) or self.was_asked_to_stop
        if not passes:
            raise exc
        time.sleep(1.0)


def _order(running: Running, *, may_wait: bool) -> Order:
    job = running.job
    seconds = float(job.timeout or running.queue.DEFAULT_TIMEOUT)
    return Order(
        execution=running.execution.id,
        job=job.id,
        record=_encoded(job.record),
        is_ours=is_ours(job),
        timeout_s=seconds if seconds > 0 else None,
        may_wait=may_wait,
    )


def _encoded(record: dict[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode("utf-8", "replace"): base64.b64encode(value).decode("ascii")
        for name, value in record.items()
    }
