"""What looks after sessions, step by step: no Redis is asked, and no time passes."""

import logging
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from warmclip.settings import Settings
from warmclip.work.sessions import scheduler as scheduling
from warmclip.work.sessions.progress import StepPlan
from warmclip.work.sessions.scheduler import SessionScheduler
from warmclip.work.sessions.session import Session, State


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """It stands at a thousand seconds."""
    now = [1000.0]
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def scheduler(clock: list[float], tmp_path: Path) -> SessionScheduler:
    """One whose threads have not begun, and are not missed."""
    del clock
    scheduler = SessionScheduler(Redis(), Settings.from_env({"WARMCLIP_HOME": str(tmp_path)}))
    scheduler._threads = []
    return scheduler


def session(id_: str, state: State = "running", **fields: Any) -> Session:
    """One with a folder."""
    values = {"directory": "/p", "collection": "images", "created_at": "", **fields}
    return Session(id=id_, state=state, **values)


class Records:
    """Sessions as their records have them, and what was done to these."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = [*sessions]
        self.states: dict[int, str | None] = {}
        self.pending = 0
        self.done: list[tuple[Any, ...]] = []
        self.queue = SimpleNamespace(connection=None, name="default")

    def open_sessions(self) -> list[Session]:
        """All of them."""
        return self.sessions

    def read_states(self, _: Session) -> dict[int, str | None]:
        """Of the jobs of whichever."""
        return self.states

    def count_pending(self, _: Session) -> int:
        """Chunks of whichever."""
        return self.pending

    def finish_if_done(self, session: Session) -> bool:
        """It is."""
        self.done.append(("finish", session.id))
        return True

    def give_up(self, session: Session, problem: Exception) -> None:
        """Note it."""
        self.done.append(("give up", session.id, str(problem)))

    def note_workers(self, session: Session, *, are_there: bool) -> None:
        """Note it."""
        self.done.append(("note", session.id, are_there))


def keep_records(scheduler: SessionScheduler, *sessions: Session) -> Records:
    """Give a scheduler records of its own."""
    records = Records(*sessions)
    scheduler._progress = records  # type: ignore[assignment]  # as much of it as is asked here
    return records


@pytest.mark.parametrize(
    ("passed_s", "found_s", "told"),
    [
        (0.0, 0.0, None),
        (60.0, 600.0, None),
        (61.0, 0.0, "the jobs of sessions were last looked at 61 s ago"),
        (0.0, 601.0, "the search of a folder has found nothing for 601 s"),
        (900.0, 900.0, "were last looked at"),
    ],
)
def test_trouble(
    scheduler: SessionScheduler,
    clock: list[float],
    passed_s: float,
    found_s: float,
    told: str | None,
) -> None:
    """After a minute without a look at the jobs, and ten without a picture in a search."""
    scheduler._passed_at = clock[0] - passed_s
    scheduler._scanner.moved_at = clock[0] - found_s
    found = scheduler.trouble()
    assert found is None if told is None else told in str(found)


def test_thread_that_has_ended(scheduler: SessionScheduler) -> None:
    """It is named: only another start of the server helps."""
    scheduler._threads = [threading.current_thread(), threading.Thread(name="session-scanner")]
    assert "'session-scanner' has ended" in str(scheduler.trouble())


@pytest.mark.parametrize(
    ("states", "most"),
    [
        ([], []),
        (["running"], [96]),
        (["running", "paused"], [96, 96]),
        (["running", "finding", "running"], [48, 48, 48]),
        (["paused"], [96]),
        (["running"] * 5, [19] * 5),
        (["running"] * 12, [8] * 12),
        (["running"] * 30, [8] * 30),
    ],
    ids=str,
)
def test_share_of_a_session(
    scheduler: SessionScheduler,
    monkeypatch: pytest.MonkeyPatch,
    states: list[State],
    most: list[int],
) -> None:
    """Of all jobs that may be in the queue, but eight at least."""
    keep_records(scheduler, *(session(str(id_), state) for id_, state in enumerate(states)))
    monkeypatch.setattr(scheduler, "_look_for_workers", lambda _: None)
    shares: list[int] = []

    def advance(_: Session, share: int) -> bool:
        shares.append(share)
        return False

    monkeypatch.setattr(scheduler, "advance_session", advance)
    scheduler.advance_all()
    assert shares == most


def test_session_that_meets_a_bug(
    scheduler: SessionScheduler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: list[float],
) -> None:
    """It is told once, and the others go on; one whose record Redis refuses is given up."""
    records = keep_records(scheduler, *map(session, ("bug", "refused", "good")))
    monkeypatch.setattr(scheduler, "_look_for_workers", lambda _: None)

    def advance(session: Session, _: int) -> bool:
        if session.id == "bug":
            raise ZeroDivisionError
        if session.id == "refused":
            raise RedisConnectionError("no")
        return True

    monkeypatch.setattr(scheduler, "advance_session", advance)
    scheduler._moved["gone"] = 1.0
    for _ in range(2):
        clock[0] += 7
        scheduler.advance_all()
    assert caplog.text.count("session bug could not be advanced") == 1
    assert records.done == [("give up", "refused", "no")] * 2
    assert scheduler._moved == {"good": clock[0]}
    assert scheduler._passed_at == clock[0]
    assert scheduler._changed.is_set()  # there may be more to do


def test_connection_that_breaks(
    scheduler: SessionScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py below 7.2 tells it: no session is to blame."""
    records = keep_records(scheduler, session("s"))
    monkeypatch.setattr(scheduler, "_look_for_workers", lambda _: None)

    def advance(*_: object) -> bool:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(scheduler, "advance_session", advance)
    with pytest.raises(ConnectionRefusedError):
        scheduler.advance_all()
    assert records.done == []


def test_when_a_session_is_stalled(
    scheduler: SessionScheduler, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """At first, then after twenty seconds without an outcome, and twenty more."""
    records = keep_records(scheduler)
    records.pending = 3
    stalled: list[bool] = []

    def plan(*_: object, is_stalled: bool, **__: object) -> StepPlan:
        stalled.append(is_stalled)
        return StepPlan()

    monkeypatch.setattr(scheduling, "plan_step", plan)
    for seconds in (0.0, 20.0, 0.5, 20.0, 0.5):
        clock[0] += seconds
        assert not scheduler.advance_session(session("s"))
    assert stalled == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("states", "pending", "ends"),
    [({}, 0, True), ({1: "queued"}, 0, False), ({}, 1, False), ({1: "queued"}, 1, False)],
)
def test_session_without_anything_left(
    scheduler: SessionScheduler,
    monkeypatch: pytest.MonkeyPatch,
    states: dict[int, str | None],
    pending: int,
    ends: bool,
) -> None:
    """It ends when no job of it waits, and none has to be queued."""
    monkeypatch.setattr(scheduling, "plan_step", lambda *_, **__: StepPlan())
    records = keep_records(scheduler)
    records.states, records.pending = states, pending
    scheduler._moved["s"] = 1000.0
    found = scheduler.advance_session(session("s", "paused", images=1))
    assert (found, records.done) == ((True, [("finish", "s")]) if ends else (False, []))


@pytest.mark.parametrize("are_there", [True, False])
def test_workers_are_looked_for(
    scheduler: SessionScheduler,
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    are_there: bool,
) -> None:
    """Every two seconds, and written only where it has changed, of what runs."""
    sessions = [
        session("alone", is_alone=True),
        session("served"),
        session("paused", "paused", is_alone=True),
        session("waits", "finding"),
    ]
    records = keep_records(scheduler)
    asked: list[float] = []

    def listening(*_: object) -> bool:
        asked.append(clock[0] - 1000)
        return are_there

    monkeypatch.setattr(scheduling, "listening", listening)
    for seconds in (0.0, 1.5, 0.5, 1.5, 0.5):
        clock[0] += seconds
        scheduler._look_for_workers(sessions)
    assert asked == [0.0, 2.0, 4.0]
    assert records.done == [("note", "alone" if are_there else "served", are_there)] * 3


class Wake:
    """An event that nobody sets; after some waits, the scheduler is told to stop."""

    def __init__(self, scheduler: SessionScheduler, times: int) -> None:
        self.waited_s: list[float] = []
        self.cleared = 0
        self._scheduler, self._times = scheduler, times

    def clear(self) -> None:
        """Count it."""
        self.cleared += 1

    def wait(self, seconds: float) -> None:
        """It takes no time."""
        self.waited_s.append(seconds)
        if len(self.waited_s) == self._times:
            self._scheduler._stop.set()


@pytest.mark.parametrize("error", [RedisConnectionError("away"), OSError("away")])
def test_end_while_redis_is_away(
    scheduler: SessionScheduler, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """It ends all the same; the others take it for dead a little later."""

    def leave() -> None:
        raise error

    scheduler._leases = SimpleNamespace(leave=leave)  # type: ignore[assignment]  # as much as is asked
    with caplog.at_level(logging.INFO):
        scheduler.stop()
    assert caplog.messages == ["Redis does not learn that this server ends: away"]


def test_pauses(scheduler: SessionScheduler, caplog: pytest.LogCaptureFixture) -> None:
    """A thread lives whatever it meets; while Redis is away it says so once."""
    away = RedisConnectionError("away")
    left: list[Exception | None] = [None, away, away, None, away, ZeroDivisionError(), None]

    def step() -> None:
        error = left.pop(0)
        if error is not None:
            raise error

    wake = Wake(scheduler, len(left))
    with caplog.at_level(logging.WARNING):
        scheduler._repeat(step, 0.3, wake)  # type: ignore[arg-type]  # as much as is asked of it
    assert wake.waited_s == [0.3, 1.0, 1.0, 0.3, 1.0, 5.0, 0.3]
    assert wake.cleared == 7
    assert caplog.messages == [
        "sessions wait for Redis: away",
        "sessions wait for Redis: away",
        "sessions could not be looked after",
    ]


AT = datetime(2026, 11, 30, 9, 0, 0)


@pytest.mark.parametrize(
    ("times", "waited_s"),
    [
        (None, None),
        ((None, AT), None),
        ((AT, None), None),
        ((AT, AT), 0.0),
        ((AT, AT + timedelta(seconds=7.5)), 7.5),
        ((AT, AT - timedelta(seconds=2)), 0.0),  # clocks of two machines
    ],
)
def test_how_long_a_job_waited(
    times: Iterable[datetime | None] | None, waited_s: float | None
) -> None:
    """From the time at which it was queued to that at which it began; never less than nothing."""
    job: Any = None
    if times is not None:
        enqueued_at, started_at = times
        job = SimpleNamespace(enqueued_at=enqueued_at, started_at=started_at)
    assert scheduling._waited_s(job) == waited_s
