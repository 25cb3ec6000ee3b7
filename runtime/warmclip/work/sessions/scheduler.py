"""Sees to it that the queue holds what sessions are about, and enters what became of it."""

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
from warmclip.work.sessions.scan_results import ScanResults
from warmclip.work.sessions.scanner import Scanner
from warmclip.work.sessions.session import Session

log = logging.getLogger(__name__)

_TICK_S = 0.3
_AT_ONCE = 128  # chunks that are queued, or looked at, in one step
_STALLED_S = 20.0  # without an outcome, the queue is compared with the books
_JOIN_S = 5.0
_RESULT_TTL_S = 7 * 24 * 3600  # there may be no foreman for a while


class SessionScheduler:
    """Two threads: one looks for pictures, one follows the jobs. Several foremen may be at work.

    All that they know is in Redis: when the last of them is gone, workers go on with what is
    queued, and the next one goes on from the books.
    """

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self._books = SessionProgress(connection)
        self._queue = open_queue(connection)
        self._finder = Scanner(ScanResults(connection), settings)
        self._moved: dict[str, float] = {}  # session -> when it last came further
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(each,), name=name, daemon=True)
            for name, each in (("finder", self._finder.look), ("foreman", self.look))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the step that is being done."""
        self._finder.stopped = True
        self._stop.set()
        for thread in self._threads:
            thread.join(_JOIN_S)

    @property
    def is_alive(self) -> bool:
        """Whether both threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def look(self) -> None:
        """Do the next step of every session."""
        sessions = self._books.open_sessions()
        self._moved = {each.id: self._moved[each.id] for each in sessions if each.id in self._moved}
        for session in sessions:
            try:
                self.advance(session)
            except RedisError:
                raise
            except Exception:  # a bug, or records that are not ours: the others go on
                log.exception("session %s could not be advanced", session.id)

    def settle(self, session: Session) -> None:
        """Let the queue reflect a change of state now, and not only at the next look."""
        settle(self._queue, self._books, session)

    def advance(self, session: Session) -> None:
        """Do the next step of one session."""
        if session.unsettled or self._is_stalled(session.id):
            self.settle(session)
            self._moved[session.id] = time.monotonic()
        came_further = self._books.queue_next(session.id, _AT_ONCE, self._enqueue)
        if came_further or self._enter(session):
            self._moved[session.id] = time.monotonic()
        self._books.finish(session.id)

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
        """Also whether it is new to this foreman: the last one may have died between two steps."""
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

    def _enter(self, session: Session) -> bool:
        """Enter the outcomes of jobs that are over; whether there were any."""
        pending = self._books.pending(session.id, _AT_ONCE)
        numbers = {job_of(session.id, n): n for n in pending if n < session.queued}
        over = jobs_over(self._queue, list(numbers))
        if not over:
            return False
        jobs = fetch_jobs(self._queue.connection, over)
        paths = self._books.chunks(session.id, (numbers[id_] for id_ in over))
        outcomes = [
            ChunkOutcome(
                number=numbers[id_],
                report=report_of(session.collection, paths.get(numbers[id_], ()), jobs.get(id_)),
                waited_s=_waited_s(jobs.get(id_)),
            )
            for id_ in over
        ]
        self._books.enter(session.id, outcomes)
        return True


def job_of(session: str, number: int) -> str:
    """The job of one chunk of a session."""
    return f"session-{session}-{number}"


def settle(queue: Queue, books: SessionProgress, session: Session) -> None:
    """Let the queue hold a session's jobs if it runs, and none that waits if it does not."""
    numbers = books.pending(session.id, session.chunks or 1)
    ids = {job_of(session.id, n): n for n in numbers if n < session.queued or session.is_over}
    if session.state == "running":
        _list_again(queue, list(ids))
    elif session.state in ("paused", "cancelled"):
        _take_back(queue, list(ids))
        if session.state == "cancelled":
            _delete(queue, books, session.id, ids)
    if session.unsettled:
        books.note_settled(session.id, session.unsettled)


def _take_back(queue: Queue, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), _AT_ONCE):
        with queue.connection.pipeline(transaction=False) as pipe:
            for id_ in ids[start : start + _AT_ONCE]:
                pipe.lrem(queue.key, 1, id_)
            pipe.execute()


def _delete(queue: Queue, books: SessionProgress, session: str, ids: Mapping[str, int]) -> None:
    """Forget the jobs that nobody has begun with, and will not."""
    doomed = _unlisted(queue, list(ids))
    for start in range(0, len(doomed), _AT_ONCE):
        some = doomed[start : start + _AT_ONCE]
        queue.connection.delete(*map(AllowedJob.key_for, some))
        books.give_up(session, [ids[id_] for id_ in some])


def _list_again(queue: Queue, ids: Sequence[str]) -> None:
    """Put back what was taken back, or lost."""
    for id_ in _unlisted(queue, ids):
        with queue.connection.pipeline() as pipe:
            pipe.lrem(queue.key, 0, id_)  # another foreman may be doing the same
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
