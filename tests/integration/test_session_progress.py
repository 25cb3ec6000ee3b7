"""Steps of a session on a real Redis: what is found, and what becomes of it, is added up."""

from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from simulating import SimulatedWorker, before_next_write, draw_session, jobs_of
from warmclip.indexing.report import IndexReport
from warmclip.work.counters import read_counters
from warmclip.work.queues import fetch_jobs
from warmclip.work.sessions.progress import ChunkOutcome, SessionProgress, StepPlan, job_of
from warmclip.work.sessions.session import Session
from warmclip.work.sessions.store import SessionStore, session_key

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]


WEEK_S = 7 * 24 * 3600


def test_session_from_its_first_job_to_its_end(connection: Redis) -> None:
    """So many jobs wait as there is room for; what became of them is added up, and ends it."""
    progress = SessionProgress(connection)
    id_ = draw_session(connection, 6, size=2).id

    def now() -> Session:
        session = progress.get(id_)
        assert session is not None
        return session

    assert progress.take_step(now(), StepPlan(room=4))
    assert sorted(jobs_of(connection, now())) == [job_of(id_, number) for number in range(4)]
    assert progress.take_step(now(), StepPlan(room=9))
    jobs = fetch_jobs(connection, [job_of(id_, number) for number in range(6)])
    assert {job.result_ttl for job in jobs.values()} == {WEEK_S}
    assert list(progress.read_states(now())) == list(range(6))
    assert not progress.take_step(now(), StepPlan(room=9))  # there is nothing more
    told: list[dict[str, Any]] = [{"indexed": 2}, {"reused": 1, "unchanged": 1}] * 3
    told[5] = {"indexed": 1}
    for number in (0, 2, 4):
        assert not progress.finish_if_done(now())
        reports = [IndexReport(collection="images", **it) for it in told[number : number + 2]]
        if number == 4:
            reports[1] += IndexReport(collection="images", skipped={"/pictures/x.jpg": "no"})
        outcomes = [
            ChunkOutcome(number=number, report=reports[0], waited_s=1.5),
            ChunkOutcome(number=number + 1, report=reports[1]),
        ]
        assert progress.take_step(now(), StepPlan(ended=(number, number + 1)), outcomes)
        assert now().done == 2 * number + 4
        assert now().samples[-1][1] == now().done
        assert progress.count_pending(now()) == 4 - number
    before = now()
    assert (before.indexed, before.reused, before.unchanged, before.skipped) == (7, 2, 2, 1)
    assert progress.skipped(id_, 0, 9) == [("/pictures/x.jpg", "no")]
    counters = read_counters(connection)
    assert (counters["indexed"], counters["jobs"], counters["waited_ms"]) == (7, 3, 4500)
    assert jobs_of(connection, before) == {}
    assert progress.finish_if_done(before)
    assert (now().state, now().revision, now().error) == ("finished", before.revision + 1, None)
    assert not progress.finish_if_done(before)


def test_step_that_was_planned_on_another_record(connection: Redis) -> None:
    """It does nothing, and is planned again; of a session that is gone there is nothing to plan."""
    progress = SessionProgress(connection)
    session = draw_session(connection, 2)
    late = replace(session, revision=session.revision - 1)
    assert progress.take_step(late, StepPlan(room=2))
    assert jobs_of(connection, session) == {}
    connection.delete(session_key(session.id))
    assert not progress.take_step(session, StepPlan(room=2))


def test_worker_takes_a_job_meanwhile(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is tried again with the first half of the jobs: a quicker one is disturbed less."""
    progress = SessionProgress(connection)
    drawn = draw_session(connection, 6)
    assert progress.take_step(drawn, StepPlan(room=6))
    session = progress.get(drawn.id)
    assert session is not None
    with before_next_write(monkeypatch, SimulatedWorker(connection).take_one):
        assert progress.take_step(session, StepPlan(take_back=(0, 1, 2, 3, 4, 5)))
    left = [job_of(session.id, number) for number in (0, 3, 4, 5)]
    assert sorted(jobs_of(connection, session)) == left


def test_record_of_an_older_version(connection: Redis) -> None:
    """It told by one number which chunks have jobs; a record of today stays as it is."""
    progress = SessionProgress(connection)
    session = draw_session(connection, 4)
    connection.hset(session_key(session.id), "queued", 2)
    for _ in range(2):
        progress.upgrade(session)
        assert list(progress.read_states(session)) == [0, 1]
        now = progress.get(session.id)
        assert now is not None
        assert (now.queued, now.revision) == (None, session.revision + 1)
    connection.delete(session_key(session.id))
    progress.upgrade(session)
    assert progress.get(session.id) is None


def test_folder_that_is_searched_again(connection: Redis) -> None:
    """What each search has found is added to what was there, and each makes a later revision."""
    sessions = [draw_session(connection, chunks, size=2) for chunks in (3, 0, 1, 2)]
    assert len({it.id for it in sessions}) == 1
    assert [(it.chunks, it.images) for it in sessions] == [(3, 6), (3, 6), (4, 8), (6, 12)]
    revisions = [it.revision for it in sessions]
    assert revisions == sorted(set(revisions))
    store = SessionStore(connection)
    assert list(store.chunk_paths(sessions[0].id, range(9))) == [0, 1, 2, 3, 4, 5]
    pending = connection.zrange(session_key(sessions[0].id, "pending"), 0, -1)
    assert pending == [b"0", b"1", b"2", b"3", b"4", b"5"]
