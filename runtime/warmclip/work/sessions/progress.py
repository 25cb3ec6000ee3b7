"""What a foreman enters: what was queued, and what became of it."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis.client import Pipeline

from warmclip.indexing.report import IndexReport
from warmclip.work.counters import increment
from warmclip.work.sessions.session import Session, now
from warmclip.work.sessions.store import SessionStore, close, key_of, pair_of, read, read_chunks

_FRESH_S = 2.0  # between two samples of the rate
_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOutcome:
    """What became of one chunk, and how long its job had waited."""

    number: int
    report: IndexReport
    waited_s: float | None


class SessionProgress(SessionStore):
    """The books, with the work entered."""

    def queue_next(self, id_: str, most: int, enqueue: Callable[..., None]) -> int:
        """Queue the next chunks and move the mark beyond them, in one step.

        Args:
            id_: of the session.
            most: chunks at once.
            enqueue: adds jobs to a pipeline: called with it, the session and chunk -> paths.

        Returns:
            How many were queued; 0 if there are none left, or the session does not run.
        """

        def write(pipe: Pipeline) -> int:
            session = read(pipe, id_)
            if session is None or session.state != "running":
                pipe.multi()
                return 0
            numbers = range(session.queued, min(session.queued + most, session.chunks))
            chunks = read_chunks(pipe, id_, numbers)
            pipe.multi()
            if chunks:
                enqueue(pipe, session, chunks)
            if numbers:
                pipe.hset(key_of(id_), "queued", numbers.stop)
            return len(numbers)

        return self.transact(write, key_of(id_))

    def enter(self, id_: str, outcomes: Sequence[ChunkOutcome]) -> None:
        """Enter what became of some chunks; one that is entered already is passed by."""
        pending, key = key_of(id_, "pending"), key_of(id_)

        def write(pipe: Pipeline) -> None:
            session = read(pipe, id_)
            scores = pipe.zmscore(pending, [str(it.number) for it in outcomes])
            fresh = [it for it, score in zip(outcomes, scores, strict=True) if score is not None]
            pipe.multi()
            if session is None or not fresh:
                return
            pipe.zrem(pending, *(str(it.number) for it in fresh))
            report = sum((it.report for it in fresh), IndexReport(collection=session.collection))
            counts = {
                "indexed": report.indexed,
                "unchanged": report.unchanged,
                "reused": report.reused,
                "skipped": len(report.not_stored),
            }
            for name, more in counts.items():
                if more:
                    pipe.hincrby(key, name, more)
                    increment(pipe, name, more)
            waits = [it.waited_s for it in fresh if it.waited_s is not None]
            increment(pipe, "jobs", len(waits))
            increment(pipe, "waited_ms", round(1000 * sum(waits)))
            if report.not_stored:
                pipe.rpush(key_of(id_, "skipped"), *map(json.dumps, report.not_stored.items()))
            samples = _sampled(session, session.done + sum(counts.values()))
            pipe.hset(key, "samples", json.dumps(samples))

        self.transact(write, key, pending)

    def give_up(self, id_: str, numbers: Sequence[int]) -> None:
        """Nothing will become of these chunks of a session that was cancelled."""
        if numbers:
            self.connection.zrem(key_of(id_, "pending"), *map(str, numbers))

    def note_settled(self, id_: str, token: str) -> None:
        """The queue reflects the state that was set with this token."""

        def write(pipe: Pipeline) -> None:
            session = read(pipe, id_)
            pipe.multi()
            if session is not None and session.unsettled == token:
                pipe.hdel(key_of(id_), "unsettled")

        self.transact(write, key_of(id_))

    def finish(self, id_: str) -> None:
        """End a session of which nothing is left to be done."""

        def write(pipe: Pipeline) -> None:
            session = read(pipe, id_)
            left = pipe.zcard(key_of(id_, "pending"))
            skipped = [pipe.lindex(key_of(id_, "skipped"), place) for place in (0, -1)]
            pipe.multi()
            if session is None or left:
                return
            is_done = session.images is not None and session.queued == session.chunks
            match session.state:
                case "running" | "paused" if is_done:
                    pipe.hset(key_of(id_), mapping={"state": "finished", "ended_at": now()})
                    if (why := _why_nothing(session, skipped)) is not None:
                        pipe.hset(key_of(id_), "error", json.dumps(why))
                case "cancelled":
                    pass
                case _:
                    return
            close(pipe, session)

        self.transact(write, key_of(id_), key_of(id_, "pending"))


def _sampled(session: Session, done: int) -> list[tuple[float, int]]:
    """The rate's samples and one more; if that comes soon after the last, instead of it."""
    at = time.time()
    samples = list(session.samples)
    if len(samples) > 1 and at - samples[-2][0] < _FRESH_S:
        samples.pop()
    return [*samples[-_SAMPLES + 1 :], (at, done)]


def _why_nothing(session: Session, skipped: Sequence[bytes | str | None]) -> str | None:
    """The reason, if nothing was stored at all, and the first and the last fail for the same."""
    if not session.skipped or session.skipped != session.images:
        return None
    reasons = {pair_of(entry)[1] for entry in skipped if entry is not None}
    return f"nothing was stored: {reasons.pop()}" if len(reasons) == 1 else None
