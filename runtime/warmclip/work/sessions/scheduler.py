"""Queues the jobs of sessions, and records their outcomes."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq.job import JobStatus
from rq.queue import Queue

from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob
from warmclip.work.producer import index_job, jobs_over, report_of
from warmclip.work.queues import fetch_jobs, open_queue, read_states
from warmclip.work.sessions.progress import ChunkOutcome, SessionProgress
from warmclip.work.sessions.scanner import Scanner, ScanResults
from warmclip.work.sessions.session import Session

log = logging.getLogger(__name__)

_TICK_S = 0.3
_AT_ONCE = 128  # chunks that are queued, or looked at, in one step
_STALLED_S = 20.0  # without an outcome, the queue is compared with the record
_JOIN_S = 5.0
_RESULT_TTL_S = 7 * 24 * 3600  # there may be no scheduler for a while


class SessionScheduler:
    """Two threads: one searches folders, one queues jobs and follows them.

    Several schedulers may run. All that they know is in Redis: when the last of them is gone,
    workers go on with what is queued, and the next scheduler goes on from the records.
    """

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self._progress = SessionProgress(connection)
        self._queue = open_queue(connection)
        self._scanner = Scanner(ScanResults(connection), settings)
        self._moved: dict[str, float] = {}  # session -> when it last came further
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(each,), name=name, daemon=True)
            for name, each in (
                ("session-scanner", self._scanner.scan_all),
                ("session-scheduler", self.advance_all),
            )
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the step that is being done."""
        self._scanner.stopped = True
        self._stop.set()
        for thread in self._threads:
            thread.join(_JOIN_S)

    @property
    def is_alive(self) -> bool:
        """Whether both threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def advance_all(self) -> None:
        """Do the next step of every session."""
        sessions = self._progress.open_sessions()
        self._moved = {each.id: self._moved[each.id] for each in sessions if each.id in self._moved}
        for session in sessions:
            try:
                self.advance_session(session)
            except RedisError:
                raise
            except Exception:  # a bug, or records that are not ours: the others go on
                log.exception("session %s could not be advanced", session.id)

    def reconcile(self, session: Session) -> None:
        """Let the queue reflect a change of state now, and not only at the next look."""
        reconcile(self._queue, self._progress, session)

    def advance_session(self, session: Session) -> None:
        """Do the next step of one session."""
        if session.unsettled or self._is_stalled(session.id):
            self.reconcile(session)
            self._moved[session.id] = time.monotonic()
        came_further = self._progress.queue_next(session.id, _AT_ONCE, self._enqueue)
        if came_further or self._record(session):
            self._moved[session.id] = time.monotonic()
        self._progress.finish_if_done(session.id)

    def _repeat(self, step: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                step()
            except RedisError as exc:
                log.warning("sessions wait for Redis: %s", exc)
                self._stop.wait(1.0)
            except Exception:  # a bug: it is told, and the thread lives
                log.exception("sessions could not be looked after")
                self._stop.wait(5.0)
            self._stop.wait(_TICK_S)

    def _is_stalled(self, id_: str) -> bool:
        """Whether nothing came further for a while; so it counts when this scheduler is new."""
        return time.monotonic() - self._moved.get(id_, float("-inf")) > _STALLED_S

    def _enqueue(
        self, pipe: Pipeline, session: Session, chunks: Mapping[int, Sequence[str]]
    ) -> None:
        datas = (
            index_job(
                job_of(session.id, number), session.collection, paths, result_ttl_s=_RESULT_TTL_S
            )
            for number, paths in chunks.items()
        )
        self._queue.enqueue_many(datas, pipeline=pipe)

    def _record(self, session: Session) -> bool:
        """Record the outcomes of jobs that are over; whether there were any."""
        pending = self._progress.pending_chunks(session.id, _AT_ONCE)
        numbers = {job_of(session.id, n): n for n in pending if n < session.queued}
        over = jobs_over(self._queue, list(numbers))
        if not over:
            return False
        jobs = fetch_jobs(self._queue.connection, over)
        paths = self._progress.chunk_paths(session.id, (numbers[id_] for id_ in over))
        outcomes = [
            ChunkOutcome(
                number=numbers[id_],
                report=report_of(session.collection, paths.get(numbers[id_], ()), jobs.get(id_)),
                waited_s=_waited_s(jobs.get(id_)),
            )
            for id_ in over
        ]
        self._progress.record_outcomes(session.id, outcomes)
        return True


def job_of(session: str, number: int) -> str:
    """The job of one chunk of a session."""
    return f"session-{session}-{number}"


def reconcile(queue: Queue, progress: SessionProgress, session: Session) -> None:
    """Let the queue hold a session's jobs if it runs, and none that waits if it does not."""
    numbers = progress.pending_chunks(session.id, session.chunks or 1)
    ids = {job_of(session.id, n): n for n in numbers if n < session.queued or session.is_over}
    if session.state == "running":
        _list_again(queue, list(ids))
    elif session.state in ("paused", "cancelled"):
        _take_back(queue, list(ids))
        if session.state == "cancelled":
            _delete(queue, progress, session.id, ids)
    if session.unsettled:
        progress.mark_reconciled(session.id, session.unsettled)


def _take_back(queue: Queue, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), _AT_ONCE):
        with queue.connection.pipeline(transaction=False) as pipe:
            for id_ in ids[start : start + _AT_ONCE]:
                pipe.lrem(queue.key, 1, id_)
            pipe.execute()


def _delete(queue: Queue, progress: SessionProgress, session: str, ids: Mapping[str, int]) -> None:
    """Forget the jobs that nobody has begun with, and will not."""
    doomed = _unlisted(queue, list(ids))
    for start in range(0, len(doomed), _AT_ONCE):
        some = doomed[start : start + _AT_ONCE]
        queue.connection.delete(*map(AllowedJob.key_for, some))
        progress.drop_chunks(session, [ids[id_] for id_ in some])


def _list_again(queue: Queue, ids: Sequence[str]) -> None:
    """Put back what was taken back, or lost."""
    for id_ in _unlisted(queue, ids):
        with queue.connection.pipeline() as pipe:
            pipe.lrem(queue.key, 0, id_)  # another scheduler may be doing the same
            queue.push_job_id(id_, pipeline=pipe)
            pipe.execute()


def _unlisted(queue: Queue, ids: Sequence[str]) -> list[str]:
    """The jobs that are queued by their own records, and lie in no list."""
    # The states are read last: a job that a worker takes meanwhile has another one by then.
    listed = {*queue.job_ids, *queue.intermediate_queue.get_job_ids()}
    states = read_states(queue, ids)
    waiting = JobStatus.QUEUED.value.encode()
    return [
        id_
        for id_, state in zip(ids, states, strict=True)
        if state == waiting and id_ not in listed
    ]


def _waited_s(job: AllowedJob | None) -> float | None:
    """How long a job lay in the queue."""
    if job is None or job.enqueued_at is None or job.started_at is None:
        return None
    return max(0.0, (job.started_at - job.enqueued_at).total_seconds())
