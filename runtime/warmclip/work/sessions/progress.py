"""One step of a session: outcomes are recorded, jobs are taken back, jobs are queued."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq.job import JobStatus

from warmclip.indexing.report import IndexReport
from warmclip.work.counters import increment
from warmclip.work.patience import is_wrong_type
from warmclip.work.producer import index_job
from warmclip.work.queues import UNDER_WAY, forget_jobs, open_queue, read_states
from warmclip.work.replies import text_of, warn_once
from warmclip.work.sessions.session import Session, add_sample, utc_now
from warmclip.work.sessions.store import (
    SessionStore,
    close_session,
    parse_numbers,
    parse_pair,
    read_chunks,
    read_queued,
    read_session,
    read_text,
    session_folder_key,
    session_key,
)

_MOST_TRIES = 8  # of one step, before it is planned again
_RESULT_TTL_S = 7 * 24 * 3600  # there may be no scheduler for a while

_QUEUED = JobStatus.QUEUED.value


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOutcome:
    """What became of one chunk, and how long its job had waited."""

    number: int
    report: IndexReport
    waited_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What is to be done for a session, by the numbers of its chunks."""

    ended: tuple[int, ...] = ()  # their jobs will not run any more
    take_back: tuple[int, ...] = ()  # their jobs wait, and shall not
    relist: tuple[int, ...] = ()  # their jobs wait: those in no list are queued again
    room: int = 0  # for so many more jobs

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to be done."""
        return self == StepPlan()

    def halved(self) -> "StepPlan":
        """The same, with half of the jobs that are taken back or listed again."""
        half = (max(len(self.take_back), len(self.relist)) + 1) // 2
        return replace(self, take_back=self.take_back[:half], relist=self.relist[:half])


def plan_step(
    session: Session,
    states: Mapping[int, str | None],
    *,
    pending: int,
    most: int,
    is_stalled: bool = False,
) -> StepPlan:
    """Decide on the next step of a session.

    Args:
        session: its record.
        states: chunk -> the state of its job in RQ, None for one that is gone.
        pending: how many chunks have no outcome, those with a job among them.
        most: jobs that the session may have in RQ.
        is_stalled: nothing has ended for a while.
    """
    ended = tuple(number for number, state in states.items() if state not in UNDER_WAY)
    waiting = tuple(number for number, state in states.items() if state == _QUEUED)
    if session.state != "running":
        return StepPlan(ended=ended, take_back=waiting)
    room = max(0, most - (len(states) - len(ended))) if pending > len(states) else 0
    return StepPlan(ended=ended, relist=waiting if is_stalled else (), room=room)


class SessionProgress(SessionStore):
    """Carries out what was planned for a session.

    A step is one transaction. It does nothing if the record's revision is not the one that the
    step was planned on, so that of two schedulers, or of a scheduler and somebody who pauses the
    session, one comes first and the other plans again.
    """

    def __init__(self, connection: Redis) -> None:
        super().__init__(connection)
        self.queue = open_queue(connection)

    def read_states(self, session: Session) -> dict[int, str | None]:
        """The states of a session's jobs in RQ, by chunk; None for a job that is gone."""
        numbers = read_queued(self.connection, session.id)
        ids = [job_of(session.id, number) for number in numbers]
        return dict(zip(numbers, read_states(self.queue, ids), strict=True))

    def count_pending(self, session: Session) -> int:
        """How many chunks have no outcome yet."""
        return int(self.connection.zcard(session_key(session.id, "pending")))

    def take_step(
        self, session: Session, plan: StepPlan, outcomes: Sequence[ChunkOutcome] = ()
    ) -> bool:
        """Carry out a plan in one transaction.

        Args:
            session: as it was when the plan was made.
            plan: from ``plan_step``.
            outcomes: of the chunks that have ended.

        Returns:
            Whether to plan again at once: something was done, or has changed meanwhile.
        """
        key, between = session_key(session.id), self.queue.intermediate_queue.key
        # A worker takes a job by moving it to this list: a job that is not there, while it does
        # not change, is in nobody's hands.
        watched = [key, between] if plan.take_back or plan.relist else [key]

        def write(pipe: Pipeline) -> bool:
            now = read_session(pipe, session.id)
            if now is None or now.revision != session.revision:
                pipe.multi()
                return now is not None
            taken = self._find_idle(pipe, session.id, plan)
            gone = {*taken, *(it.number for it in outcomes)}
            chunks, strays = self._choose_next(pipe, session.id, plan.room, gone)
            pipe.multi()
            for number in taken:
                pipe.lrem(self.queue.key, 0, job_of(session.id, number))
            if gone:
                forget_jobs(pipe, self.queue, [job_of(session.id, number) for number in gone])
                pipe.srem(session_key(session.id, "queued"), *map(str, gone))
            over = [it.number for it in outcomes]
            if now.state == "cancelled":
                over += taken
            if over:
                pipe.hdel(session_key(session.id, "chunks"), *map(str, over))
            if over or strays:
                pipe.zrem(session_key(session.id, "pending"), *map(str, over), *strays)
            if outcomes:
                _record(pipe, now, outcomes)
            if chunks:
                self._enqueue(pipe, now, chunks)
            if not (gone or strays or chunks):
                return False
            pipe.hincrby(key, "revision", 1)
            return True

        for _ in range(_MOST_TRIES):
            is_done, has_changed = self.try_transact(write, *watched)
            if is_done:
                return has_changed
            # A worker took a job, of whichever session: fewer at once are quicker.
            plan = plan.halved()
        return True

    def finish_if_done(self, session: Session) -> bool:
        """End a session of which nothing is left to be done; whether it has ended."""
        id_, folder = session.id, session_folder_key(session)

        def write(pipe: Pipeline) -> bool:
            now = read_session(pipe, id_)
            left = pipe.zcard(session_key(id_, "pending")) or read_queued(pipe, id_)
            holder = read_text(pipe, folder)
            skipped = [pipe.lindex(session_key(id_, "skipped"), place) for place in (0, -1)]
            pipe.multi()
            if now is None or left or now.revision != session.revision:
                return False
            if now.state in ("running", "paused") and now.is_complete:
                fields: dict[Any, Any] = {"state": "finished", "ended_at": utc_now()}
                fields["revision"] = now.revision + 1
                pipe.hset(session_key(id_), mapping=fields)
                if (why := _why_nothing(now, skipped)) is not None:
                    pipe.hset(session_key(id_), "error", json.dumps(why))
            elif now.state != "cancelled":
                return False
            close_session(pipe, now, holder)
            return True

        return all(self.try_transact(write, session_key(id_), folder))

    def fail(self, id_: str, error: str) -> None:
        """End a session of which nothing can come."""

        def write(pipe: Pipeline) -> None:
            session = read_session(pipe, id_)
            if session is None or session.is_over:
                pipe.multi()
                return
            folder = session_folder_key(session)
            pipe.watch(folder)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            holder = read_text(pipe, folder)
            pipe.multi()
            fields: dict[Any, Any] = {"state": "failed", "error": json.dumps(error)}
            fields |= {"ended_at": utc_now(), "revision": session.revision + 1}
            pipe.hset(session_key(id_), mapping=fields)
            close_session(pipe, session, holder)

        self.transact(write, session_key(id_))

    def give_up(self, session: Session, exc: RedisError) -> None:
        """End a session whose record holds what is not ours: it would never end by itself.

        Raises:
            RedisError: the error says something else, namely that Redis refuses what it is asked.
        """
        if not is_wrong_type(exc):
            raise exc
        self.fail(session.id, f"its record in Redis holds what is not warmclip's: {exc}")

    def note_workers(self, session: Session, *, are_there: bool) -> None:
        """Record whether a worker listens; the rate begins anew, as nobody worked meanwhile."""

        def write(pipe: Pipeline) -> None:
            now = read_session(pipe, session.id)
            pipe.multi()
            if now is not None and now.state == "running":
                fields: dict[Any, Any] = {"alone": "0" if are_there else "1", "samples": "[]"}
                pipe.hset(session_key(session.id), mapping=fields)

        self.try_transact(write, session_key(session.id))

    def upgrade(self, session: Session) -> None:
        """Bring a record of warmclip 0.1 into today's form.

        It told by one number which chunks have jobs: all without an outcome below it. Of a session
        that was paused, these were in RQ as well, but in no list.
        """
        key = session_key(session.id)

        def write(pipe: Pipeline) -> None:
            now = read_session(pipe, session.id)
            below = 0 if now is None else now.queued or 0
            pending = pipe.zrangebyscore(session_key(session.id, "pending"), "-inf", f"({below}")
            numbers, _ = parse_numbers(pending)
            pipe.multi()
            if now is None or now.queued is None:
                return
            if numbers:
                pipe.sadd(session_key(session.id, "queued"), *map(str, numbers))
            pipe.hdel(key, "queued", "unsettled")
            pipe.hincrby(key, "revision", 1)

        self.transact(write, key)

    def _find_idle(self, pipe: Pipeline, id_: str, plan: StepPlan) -> list[int]:
        """Of the jobs that are to be taken back or listed again, those that nobody has."""
        numbers = [*plan.take_back, *plan.relist]
        if not numbers:
            return []
        ids = [job_of(id_, number) for number in numbers]
        listed = {text_of(entry) for entry in pipe.lrange(self.queue.intermediate_queue.key, 0, -1)}
        if plan.relist:
            listed |= {text_of(entry) for entry in pipe.lrange(self.queue.key, 0, -1)}
        states = read_states(self.queue, ids)
        return [
            number
            for number, job, state in zip(numbers, ids, states, strict=True)
            if job not in listed and state == _QUEUED
        ]

    def _choose_next(
        self, pipe: Pipeline, id_: str, room: int, gone: Collection[int]
    ) -> tuple[dict[int, tuple[str, ...]], list[Any]]:
        """The chunks that are queued next, and what is no chunk and stands among them."""
        if not room:
            return {}, []
        queued = {*read_queued(pipe, id_), *gone}
        pending = session_key(id_, "pending")
        numbers, strays = parse_numbers(pipe.zrange(pending, 0, room + len(queued) - 1))
        wanted = [number for number in numbers if number not in queued][:room]
        chunks = read_chunks(pipe, id_, wanted)
        if lost := [number for number in wanted if number not in chunks]:
            warn_once(f"session {id_}: the pictures of {len(lost)} jobs are gone from Redis")
        return chunks, [*strays, *map(str, lost)]

    def _enqueue(
        self, pipe: Pipeline, session: Session, chunks: Mapping[int, Sequence[str]]
    ) -> None:
        datas = (
            index_job(
                job_of(session.id, number), session.collection, paths, result_ttl_s=_RESULT_TTL_S
            )
            for number, paths in chunks.items()
        )
        self.queue.enqueue_many(datas, pipeline=pipe)
        pipe.sadd(session_key(session.id, "queued"), *map(str, chunks))


def job_of(session: str, number: int) -> str:
    """The job of one chunk of a session."""
    return f"session-{session}-{number}"


def _record(pipe: Pipeline, session: Session, outcomes: Sequence[ChunkOutcome]) -> None:
    """Add outcomes to a session's counts, and to those of all sessions."""
    key = session_key(session.id)
    report = sum((it.report for it in outcomes), IndexReport(collection=session.collection))
    # Of each chunk, not of their sum: a folder that is searched again may list a file twice.
    skipped = [pair for it in outcomes for pair in it.report.not_stored.items()]
    counts = {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "reused": report.reused,
        "skipped": len(skipped),
    }
    for name, more in counts.items():
        if more:
            pipe.hincrby(key, name, more)
            increment(pipe, name, more)
    waits = [it.waited_s for it in outcomes if it.waited_s is not None]
    increment(pipe, "jobs", len(waits))
    increment(pipe, "waited_ms", round(1000 * sum(waits)))
    if skipped:
        pipe.rpush(session_key(session.id, "skipped"), *map(json.dumps, skipped))
    samples = add_sample(session.samples, time.time(), session.done + sum(counts.values()))
    pipe.hset(key, "samples", json.dumps(samples))


def _why_nothing(session: Session, skipped: Sequence[bytes | str | None]) -> str | None:
    """The reason, if nothing was stored at all, and the first and the last fail for the same."""
    if not session.skipped or session.skipped != session.images:
        return None
    pairs = [parse_pair(entry) for entry in skipped if entry is not None]
    reasons = {pair[1] for pair in pairs if pair is not None}
    return f"nothing was stored: {reasons.pop()}" if len(reasons) == 1 else None
