"""What sessions decide, by tables: the next step, the rate, which records and reports are ours."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmclip.indexing.ignored import MOST_KINDS
from warmclip.work.producer import report_of
from warmclip.work.sessions.progress import StepPlan, _why_nothing, plan_step
from warmclip.work.sessions.scanner import KnownFiles
from warmclip.work.sessions.session import Samples, Session, State, add_sample, rate_at

RECORD = {
    b"state": b"running",
    b"directory": b'"/pictures"',
    b"collection": b"images",
    b"created_at": b"2026-11-25T18:00:00+00:00",
    b"samples": b"[]",
    b"images": b"10",
    b"revision": b"7",
}


def session(state: State = "running", **fields: Any) -> Session:
    """One with a folder."""
    values = {"directory": "/pictures", "collection": "images", "created_at": "", **fields}
    return Session(id="s", state=state, **values)


ALL = {1: "started", 2: "queued", 3: "finished", 4: "failed", 5: None, 6: "scheduled"}
OVER = (3, 4, 5)


@pytest.mark.parametrize(
    ("state", "states", "pending", "is_stalled", "plan"),
    [
        ("running", {}, 9, False, StepPlan(room=4)),
        ("running", {1: "queued", 2: "started"}, 9, False, StepPlan(room=2)),
        ("running", {1: "queued", 2: "queued"}, 2, False, StepPlan()),
        ("running", {1: "queued", 2: "started"}, 2, True, StepPlan(relist=(1,))),
        ("running", dict.fromkeys(range(9), "queued"), 20, False, StepPlan()),
        ("running", ALL, 9, False, StepPlan(ended=OVER, room=1)),
        ("running", {1: "stopped", 2: "canceled"}, 2, False, StepPlan(ended=(1, 2))),
        ("running", {1: "of somebody else"}, 1, False, StepPlan(ended=(1,))),
        ("paused", ALL, 9, False, StepPlan(ended=OVER, take_back=(2,))),
        ("paused", {1: "started"}, 9, True, StepPlan()),
        ("paused", {}, 9, True, StepPlan()),
        ("cancelled", ALL, 6, False, StepPlan(ended=OVER, take_back=(2,))),
        ("cancelled", {1: "rate_limited", 2: "deferred"}, 2, False, StepPlan()),
        ("finding", {}, 0, True, StepPlan()),
    ],
)
def test_next_step(
    state: State,
    states: dict[int, str | None],
    pending: int,
    is_stalled: bool,
    plan: StepPlan,
) -> None:
    """It follows from the record and from what RQ knows, at most four jobs at once."""
    planned = plan_step(session(state), states, pending=pending, most=4, is_stalled=is_stalled)
    assert planned == plan


@pytest.mark.parametrize(
    ("fields", "needs_scan", "is_complete"),
    [
        ({"state": "finding"}, True, False),
        ({"state": "finding", "rescans_asked": 3}, True, False),
        ({"images": 1}, False, True),
        ({"images": 1, "rescans_asked": 2, "rescans_done": 1}, True, False),
        ({"images": 1, "rescans_asked": 2, "rescans_done": 2}, False, True),
        ({"state": "paused", "images": 1, "rescans_asked": 1}, False, False),
        ({"state": "finished", "images": 1, "rescans_asked": 1}, False, False),
    ],
)
def test_when_a_folder_is_searched(
    fields: dict[str, Any], needs_scan: bool, is_complete: bool
) -> None:
    """Once, and again when it was posted after the last search began."""
    found = session(**fields)
    assert (found.needs_scan, found.is_complete) == (needs_scan, is_complete)


def rate_after(*outcomes: tuple[float, int], at: float) -> float | None:
    """The rate as it is told at a time, after outcomes at other times."""
    samples: tuple[tuple[float, int], ...] = ()
    for when, done in outcomes:
        samples = add_sample(samples, when, done)
    return rate_at(samples, at)


@pytest.mark.parametrize(
    ("outcomes", "at", "rate"),
    [
        ([], 0, None),
        ([(0, 32)], 1, None),
        ([(0, 32), (4, 64)], 5, 8),
        ([(0, 32), (4, 64), (8, 96)], 9, 8),
        ([(0, 0), (0.5, 32), (1, 64), (1.5, 96), (2, 128)], 2, 64),
        ([(0, 32), (4, 64), (8, 96)], 8 + 13, None),  # nobody works any more
        ([(0, 32), (60, 64)], 150, 32 / 60),  # a slow machine
        ([(0, 32), (60, 64)], 190, None),
        ([(0, 32), (60, 64), (120, 96)], 290, 32 / 60),
        ([(0, 0), (4, 32), (8, 64), (600, 96)], 601, None),  # workers were away
        ([(0, 0), (4, 32), (8, 64), (600, 96), (604, 128)], 605, 8),
        ([(0, 0), (4, 32), (8, 64), (-3592, 96)], -3592, None),  # the clock was set back
        ([(0, 0), (4, 32), (8, 64), (3612, 96)], 3612, None),  # or forward
        ([(0, 0), (4, 32), (8, 64)], -3600, None),
        ([(0, 0), (0, 32)], 0, None),
    ],
)
def test_rate(outcomes: list[tuple[float, int]], at: float, rate: float | None) -> None:
    """Pictures a second of late; none without a fresh outcome, nor over a time without work."""
    assert rate_after(*outcomes, at=at) == rate


SPREAD = [(0, 0), (10, 32), (20, 64)]  # so the next may take three times ten seconds


@pytest.mark.parametrize(
    ("outcomes", "age_s", "is_known"),
    [
        # Of two samples nothing is known but the slowest machine.
        (SPREAD[:2], 120, True), (SPREAD[:2], 121, False), (SPREAD[:2], -1, False),
        (SPREAD, 30, True), (SPREAD, 31, False), (SPREAD, 0, True),
        ([(0, 0), (2, 32), (4, 64)], 10, True), ([(0, 0), (2, 32), (4, 64)], 11, False),
        ([*SPREAD, (30, 96), (40, 128)], 30, True), ([*SPREAD, (30, 96), (40, 128)], 31, False),
    ],
)  # fmt: skip
def test_how_long_a_rate_is_known(
    outcomes: list[tuple[float, int]], age_s: float, is_known: bool
) -> None:
    """For three times what outcomes are apart, at least ten seconds; at first for two minutes."""
    last = outcomes[-1][0]
    assert (rate_after(*outcomes, at=last + age_s) is not None) is is_known
    samples: Samples = ()
    for when, done in outcomes:
        samples = add_sample(samples, when, done)
    assert (len(add_sample(samples, last + age_s, 999)) > 1) is is_known


def test_samples_are_two_seconds_apart() -> None:
    """One that comes sooner takes the place of the last; ten of them are kept."""
    samples: Samples = ()
    for at, count in ((0, 1), (1.9, 2), (1.95, 2), (2, 3), (3, 3), (4, 4), (4.5, 4)):
        samples = add_sample(samples, at, int(at * 10))
        assert (len(samples), samples[-1]) == (count, (at, int(at * 10)))
    for number in range(30):
        samples = add_sample(samples, 10 + 2 * number, number)
    assert samples == tuple((10 + 2 * number, number) for number in range(20, 30))


@pytest.mark.parametrize(
    ("fields", "rate", "eta_s"),
    [
        ({}, 8.0, 6.0),
        ({"indexed": 1, "unchanged": 2, "reused": 4, "skipped": 8}, 8.0, 85 / 8),
        ({"indexed": 200}, 8.0, 0),  # files have come since they were counted
        ({"images": None}, 8.0, None),  # they are still being counted
        ({"samples": ()}, None, None),
        ({"samples": ((90.0, 5), (95.0, 5))}, 0.0, None),
        ({"state": "paused"}, None, None),
        ({"state": "finished"}, None, None),
    ],
)
def test_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    rate: float | None,
    eta_s: float | None,
) -> None:
    """Pictures that are not done, at the rate of late, while it runs."""
    monkeypatch.setattr("warmclip.work.sessions.session.time.time", lambda: 96.0)
    values: dict[str, Any] = {"images": 100, "indexed": 52}
    values["samples"] = ((91.0, 12), (96.0, 52))
    found = session(**values | fields)
    assert (found.images_per_s, found.eta_s) == (rate, eta_s)


@pytest.mark.parametrize(
    ("state", "is_over"),
    [("finding", False), ("running", False), ("paused", False), ("finished", True),
     ("cancelled", True), ("failed", True)],
)  # fmt: skip
def test_states(state: State, is_over: bool) -> None:
    """Which are the end, and where a worker is waited for."""
    found = session(state, is_alone=True)
    assert found.is_over is is_over
    assert found.waiting_for_worker is (state == "running")
    assert not session(state).waiting_for_worker


@pytest.mark.parametrize(
    ("images", "skipped", "ends", "told"),
    [
        (3, 3, ["away", "away"], "nothing was stored: away"),
        (1, 1, ["away"], "nothing was stored: away"),
        (3, 3, ["away", "broken"], None),
        (3, 2, ["away", "away"], None),
        (300, 299, ["away", "away"], None),
        (300, 300, ["away", "away"], "nothing was stored: away"),
        (0, 0, [], None),
        (None, 3, ["away", "away"], None),
        (3, 3, [], None),
    ],
)
def test_session_that_stored_nothing(
    images: int | None, skipped: int, ends: list[str], told: str | None
) -> None:
    """It tells why, if every picture failed, the first and the last for one reason."""
    found = session(images=images, skipped=skipped)
    entries = [json.dumps(["/a.png", reason]).encode() for reason in ends]
    for damaged in ([], [None, b"x"]):
        assert _why_nothing(found, [*entries, *damaged]) == told


def test_rate_of_more_than_two_samples() -> None:
    """It is from the first of them to the last."""
    assert rate_after((0, 0), (60, 60), (120, 240), at=120) == pytest.approx(2.0)


def test_samples_are_few() -> None:
    """However long a session runs."""
    samples: tuple[tuple[float, int], ...] = ()
    for number in range(10_000):
        samples = add_sample(samples, number / 10, number)
    assert len(samples) <= 11
    assert rate_at(samples, 1000) == pytest.approx(10, rel=0.1)


def test_record() -> None:
    """What a record says, with the fields of an older version left out or in."""
    found = Session.parse("s", RECORD)
    assert found is not None
    assert (found.images, found.revision, found.rescans_asked, found.queued) == (10, 7, 0, None)
    old = Session.parse("s", RECORD | {b"queued": b"4", b"unsettled": b"token"})
    assert old is not None
    assert old.queued == 4


LEAST = {name: RECORD[name] for name in RECORD if name not in (b"images", b"revision")}


def test_least_record() -> None:
    """What a record does not tell has not happened; a new session is the same."""
    found = Session.parse("s", LEAST)
    created_at = "2026-11-25T18:00:00+00:00"
    assert found == session(created_at=created_at)
    assert found is not None
    counts = ("indexed", "unchanged", "reused", "skipped", "unreadable_folders", "chunks")
    numbers = (*counts, "revision", "rescans_asked", "rescans_done")
    assert {getattr(found, name) for name in numbers} == {0}
    assert (found.images, found.queued, found.error, found.ended_at) == (None,) * 4
    assert (found.exclude, found.ignored, found.samples, found.is_alone) == ((), {}, (), False)
    assert found.done == 0


def test_whole_record() -> None:
    """Each field has its own place."""
    names = ["indexed", "unchanged", "reused", "skipped", "unreadable_folders", "chunks"]
    names += ["rescans_asked", "rescans_done", "queued"]
    counts: dict[str, Any] = {name: number for number, name in enumerate(names, 20)}
    written = {name.encode(): b"%d" % number for name, number in counts.items()}
    more = {
        b"exclude": b'["raw/", "*.tmp"]', b"error": b'"no folder"', b"alone": b"1",
        b"ended_at": b"2026-11-25T19:00:00+00:00", b"samples": b"[[1.5, 2], [3.5, 4]]",
        b"images": b"9" * 15,
    }  # fmt: skip
    found = Session.parse("s", RECORD | written | more)
    assert found == session(
        created_at="2026-11-25T18:00:00+00:00",
        ended_at="2026-11-25T19:00:00+00:00",
        exclude=("raw/", "*.tmp"),
        error="no folder",
        is_alone=True,
        samples=((1.5, 2), (3.5, 4)),
        images=10**15 - 1,
        revision=7,
        **counts,
    )
    assert found.done == 20 + 21 + 22 + 23


@pytest.mark.parametrize(("kinds", "is_ours"), [(MOST_KINDS + 1, True), (MOST_KINDS + 2, False)])
def test_kinds_in_a_record(kinds: int, is_ours: bool) -> None:
    """As many as are counted apart, and the others."""
    counts = json.dumps({f".{n}": n for n in range(kinds)}).encode()
    assert (Session.parse("s", RECORD | {b"ignored": counts}) is not None) is is_ours


@pytest.mark.parametrize(
    ("recorded", "told"),
    [(b'{".mov": 1204, "hidden": 3}', {".mov": 1204, "hidden": 3}), (b"7", {"other": 7})],
)
def test_ignored_names_in_a_record(recorded: bytes, told: dict[str, int]) -> None:
    """They are counted by suffix; an older version counted all together."""
    found = Session.parse("s", RECORD | {b"ignored": recorded})
    assert found is not None
    assert found.ignored == told


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"state", b"mad"),
        (b"state", b"\xff"),
        (b"images", b"9" * 16),
        (b"images", b"9" * 20),  # no count, and more than Redis can add to
        (b"images", b"9" * 5000),
        (b"images", b"-1"),
        (b"images", "²".encode()),
        (b"revision", b"1.5"),
        (b"directory", b"/no json"),
        (b"directory", b'"\\ud800"'),
        (b"collection", b"../.."),
        (b"created_at", b"yesterday"),
        (b"exclude", b"raw/"),
        (b"exclude", b"[1]"),
        (b"ignored", b"many"),
        (b"ignored", b"[1]"),
        (b"ignored", b'{".mov": "many"}'),
        (b"ignored", b'{".mov": true}'),
        (b"ignored", json.dumps({f".{n}": 1 for n in range(1000)}).encode()),
        (b"samples", b"[[1]]"),
        (b"samples", b"[" * 100_000),
        (b"samples", b"[[1e999, 1]]"[:4]),
    ],
)
def test_record_of_somebody_else(field: bytes, value: bytes) -> None:
    """It is nobody's session, and no error."""
    assert Session.parse("s", RECORD | {field: value}) is None


@given(st.lists(st.binary(min_size=8, max_size=8), unique=True), st.binary(min_size=8, max_size=8))
def test_known_files(digests: list[bytes], other: bytes) -> None:
    """Those that were found, and no others; what is left of a cut-off one does not matter."""
    known = KnownFiles(b"".join(digests) + b"cut")
    assert all(digest in known for digest in digests)
    assert (other in known) == (other in digests)


class Finished:
    """A job whose result is whatever somebody wrote there."""

    def __init__(self, value: object) -> None:
        self.return_value = value
        self.exc_string = None

    def latest_result(self) -> "Finished":
        """Itself."""
        return self


GOOD = {"collection": "images", "indexed": 1, "skipped": {"/b.png": "is empty"}}


@pytest.mark.parametrize(
    "forged",
    [
        *(None, 5, [], "indexed", {"indexed": "1"}, {"indexed": -1}, {"indexed": 10**9}),
        *({"skipped": ["/b.png"]}, {"skipped": {"/b.png": 5}}, {"unchanged": True}),
        *({"reused": 1.5}, GOOD | {"unchanged": 1}),
    ],
    ids=json.dumps,
)
def test_forged_report(forged: object) -> None:
    """What nobody could have found out about two pictures is no outcome of them."""
    paths = ["/a.png", "/b.png"]
    report = report_of("images", paths, Finished(forged))  # type: ignore[arg-type]  # a stand-in
    assert list(report.skipped) == paths
    assert "no report of these pictures" in report.skipped["/a.png"]


def test_report() -> None:
    """A real one is taken as it is, but for the collection's name, which is known."""
    raw = GOOD | {"collection": "../..", "pruned": 4, "seconds": "long"}
    report = report_of("images", ["/a.png", "/b.png"], Finished(raw))  # type: ignore[arg-type]  # as above
    assert (report.collection, report.indexed, report.pruned) == ("images", 1, 0)
    assert report.skipped == {"/b.png": "is empty"}
