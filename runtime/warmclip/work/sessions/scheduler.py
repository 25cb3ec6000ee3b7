"""Brings RQ's queue in line with the records of sessions, and the records with what has ended."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError

from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob
from warmclip.work.producer import report_of
from warmclip.work.queues import fetch_jobs
from warmclip.work.sessions.leases import BEAT_EVERY_S, ScanLeases
from warmclip.work.sessions.progress import (
    ChunkOutcome,
    SessionProgress,
    job_of,
    plan_step,
)
from warmclip.work.sessions.scanner import Scanner
from warmclip.work.sessions.session import Session
from warmclip.work.workers import listening

log = logging.getLogger(__name__)

_TICK_S = 0.3
_MOST_JOBS = 96  # that running sessions have in RQ, all together
_LEAST_JOBS = 8  # that each of them may have
_STALLED_S = 20.0  # without an outcome, lost jobs are looked for
_LOOK_EVERY_S = 2.0  # after workers
_JOIN_S = 5.0
_LONGEST_PASS_S = 60.0
_LONGEST_SCAN_S = 600.0  # without a picture


class SessionScheduler:
    """Three threads: one searches folders, one queues jobs and follows them, one beats.

    Several schedulers may run. All that they know is in Redis: when the last of them is gone,
    workers go on with what is queued, and the next scheduler goes on from the records.
    """

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self._progress = SessionProgress(connection)
        self._leases = ScanLeases(connection)
        self._scanner = Scanner(connection, self._leases, settings)
        self._moved: dict[str, float] = {}  # session -> when it last came further
        self._broken: set[str] = set()  # sessions that met a bug
        self._looks_at = float("-inf")
        self._passed_at = time.monotonic()
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=arguments, name=name, daemon=True)
            for name, *arguments in (
                ("session-leases", self._leases.beat, BEAT_EVERY_S),
                ("session-scanner", self._scanner.scan_all, _TICK_S),
                ("session-scheduler", self.advance_all, _TICK_S, self._changed),
            )
        ]

    def start(self) -> None:
        """Begin."""
        self._leases.beat()  # before anything is leased
        for session in self._progress.open_sessions():
            self._upgrade(session)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the step that is being done."""
        self._scanner.stopped = True
        self._stop.set()
        self._changed.set()
        for thread in self._threads:
            thread.join(_JOIN_S)
        try:
            self._leases.leave()
        except (RedisError, OSError) as exc:  # it is taken for dead a little later
            log.info("Redis does not learn that this server ends: %s", exc)

    def wake(self) -> None:
        """A record has changed: bring the queue in line with it now, not at the next tick."""
        self._changed.set()

    def trouble(self) -> str | None:
        """What keeps sessions from being looked after, in a sentence; None if nothing does."""
        if dead := [thread.name for thread in self._threads if not thread.is_alive()]:
            return f"the thread {dead[0]!r} has ended: restart the server"
        now = time.monotonic()
        if (passed_s := now - self._passed_at) > _LONGEST_PASS_S:
            return f"the jobs of sessions were last looked at {passed_s:.0f} s ago: see the log"
        if (found_s := now - self._scanner.moved_at) > _LONGEST_SCAN_S:
            return f"the search of a folder has found nothing for {found_s:.0f} s: is a disk away?"
        return None

    def advance_all(self) -> None:
        """Do the next step of every session."""
        sessions = self._progress.open_sessions()
        self._moved = {each.id: self._moved[each.id] for each in sessions if each.id in self._moved}
        running = sum(session.state == "running" for session in sessions)
        most = max(_LEAST_JOBS, _MOST_JOBS // max(1, running))
        if running:
            self._look_for_workers(sessions)
        for session in sessions:
            try:
                if self.advance_session(session, most):
                    self._moved[session.id] = time.monotonic()
                    self._changed.set()  # there may be more to do
            except RedisError as exc:
                self._progress.give_up(session, exc)
            except OSError:  # of a connection, from redis-py below 7.2
                raise
            except Exception:  # a bug: it is told once, and the others go on
                if session.id not in self._broken:
                    self._broken.add(session.id)
                    log.exception("session %s could not be advanced", session.id)
        self._passed_at = time.monotonic()

    def advance_session(self, session: Session, most: int = _MOST_JOBS) -> bool:
        """Do the next step of one session; whether something was done.

        Args:
            session: as it was read.
            most: jobs that it may have in RQ.
        """
        if session.queued is not None:
            self._upgrade(session)
            return True
        states = self._progress.read_states(session)
        pending = self._progress.count_pending(session)
        if not states and not pending:
            return self._progress.finish_if_done(session)
        # A session that is new to this scheduler counts as stalled: the last scheduler may have
        # died between two steps.
        moved_at = self._moved.setdefault(session.id, float("-inf"))
        is_stalled = time.monotonic() - moved_at > _STALLED_S
        if is_stalled:
            self._moved[session.id] = time.monotonic()
        plan = plan_step(session, states, pending=pending, most=most, is_stalled=is_stalled)
        if plan.is_empty:
            return False
        outcomes = self._read_outcomes(session, plan.ended)
        return self._progress.take_step(session, plan, outcomes)

    def _look_for_workers(self, sessions: Sequence[Session]) -> None:
        """Every few seconds: record for people whether a worker listens."""
        if time.monotonic() < self._looks_at:
            return
        self._looks_at = time.monotonic() + _LOOK_EVERY_S
        queue = self._progress.queue
        are_there = listening(queue.connection, queue.name)
        for session in sessions:
            if session.state == "running" and session.is_alone == are_there:
                self._progress.note_workers(session, are_there=are_there)

    def _upgrade(self, session: Session) -> None:
        """Convert the record of an older version."""
        if session.queued is not None:
            log.info("session %s was begun by warmclip 0.1: its record is converted", session.id)
            self._progress.upgrade(session)

    def _repeat(
        self, step: Callable[[], None], every_s: float, wake: threading.Event | None = None
    ) -> None:
        """Do a step again and again, whatever it meets, and at once when somebody wakes it."""
        is_waiting = False
        while not self._stop.is_set():
            if wake is not None:
                wake.clear()
            pause_s = every_s
            try:
                step()
                is_waiting = False
            except (RedisError, OSError) as exc:
                if not is_waiting:
                    log.warning("sessions wait for Redis: %s", exc)
                is_waiting, pause_s = True, 1.0
            except Exception:  # a bug: it is told, and the thread lives
                log.exception("sessions could not be looked after")
                pause_s = 5.0
            (wake or self._stop).wait(pause_s)

    def _read_outcomes(self, session: Session, numbers: Sequence[int]) -> list[ChunkOutcome]:
        """What became of chunks whose jobs have ended."""
        ids = {job_of(session.id, number): number for number in numbers}
        jobs = fetch_jobs(self._progress.queue.connection, ids)
        paths = self._progress.chunk_paths(session.id, numbers)
        return [
            ChunkOutcome(
                number=number,
                report=report_of(session.collection, paths.get(number, ()), jobs.get(id_)),
                waited_s=_waited_s(jobs.get(id_)),
            )
            for id_, number in ids.items()
        ]


def _waited_s(job: AllowedJob | None) -> float | None:
    """How long a job lay in the queue."""
    if job is None or job.enqueued_at is None or job.started_at is None:
        return None
    return max(0.0, (job.started_at - job.enqueued_at).total_seconds())
