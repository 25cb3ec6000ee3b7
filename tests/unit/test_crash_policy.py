"""What follows from a horse's death: the whole policy, case by case."""

import logging
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from warmclip.inference.selection.quarantine import Quarantine
from warmclip.work.crash_policy import (
    DEATHS,
    Cause,
    Consequences,
    CrashPolicy,
    Death,
    _collection_of,
    decide,
    diagnose,
)
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles

SEGV, KILL, TERM = -signal.SIGSEGV, -signal.SIGKILL, -signal.SIGTERM

NOTHING: list[str] = []
A, B = "decode /a.jpg", "decode /b.jpg"
LOAD, RUN = "load coreml", "run coreml"


def died(*calls: str, by: int = SEGV, begun: bool = True, **more: object) -> Death:
    """A death with so much in flight, such as "decode /a.jpg" or "run coreml"."""
    in_flight = InFlight("an-execution")
    if begun:
        in_flight.update({"began": "an-execution"})
    for number, call in enumerate(calls):
        stage, _, what = call.partition(" ")
        provider = "" if stage == "decode" else what
        started = {"stage": stage, "what": what, "provider": provider, "allow_s": 0.0}
        in_flight.update({"begin": number, **started})
    death = Death(returncode=by, in_flight=in_flight, provider="coreml")
    return replace(death, **more)  # type: ignore[arg-type]  # its own fields


IMAGE, UNCLEAR, OTHER = Cause.IMAGE, Cause.UNCLEAR, Cause.OTHER


@pytest.mark.parametrize(
    ("death", "careful", "strikes", "cause"),
    [
        (died(A), False, 0, IMAGE),
        (died(A), True, 0, IMAGE),
        (died(A, hung_s=30.0, by=KILL), False, 0, IMAGE),  # we killed it, as it hung
        (died(A, by=KILL), False, 0, UNCLEAR),  # somebody did
        (died(A, by=KILL), True, 1, UNCLEAR),
        (died(A, by=KILL), True, 2, IMAGE),  # the third time is a pattern
        (died(A, by=KILL), True, 3, IMAGE),
        (died(A, by=TERM), False, 0, UNCLEAR),
        (died(A, overran_s=180.0, by=KILL), True, 2, OTHER),
        (died("decode "), False, 0, UNCLEAR),  # a picture without a name: nothing to set aside
        (died("decode "), True, 0, OTHER),
        (died(A, B), False, 0, UNCLEAR),
        (died(A, B), True, 0, OTHER),
        (died(A, RUN), False, 0, UNCLEAR),
        (died(A, RUN), True, 0, OTHER),
        (died(RUN), False, 0, OTHER),
        (died(LOAD), False, 0, OTHER),
        (died(), False, 0, OTHER),
        (died(by=3), False, 0, OTHER),
        (died(A, by=KILL, has_hung_up=True), False, 0, IMAGE),
    ],
)
def test_cause(death: Death, careful: bool, strikes: int, cause: Cause) -> None:
    """A picture is to blame if it alone was in flight, and nobody else may have sent the signal."""
    assert diagnose(death, careful=careful, strikes=strikes) is cause


def consequences(
    death: Death,
    *,
    careful: bool = False,
    strikes: int = 0,
    deaths: int = 0,
    crashes: int = 0,
    max_crashes: int = 2,
    is_ours: bool = True,
) -> Consequences:
    """What follows, where two crashes of a provider are too many."""
    return decide(
        death,
        careful=careful,
        strikes=strikes,
        deaths=deaths,
        crashes=crashes,
        max_crashes=max_crashes,
        is_ours=is_ours,
    )


@pytest.mark.parametrize(
    ("death", "before", "follows"),
    [
        # One picture in flight: it is set aside, and the death is not the job's.
        (died(A), {}, {"set_aside": "/a.jpg", "careful": True, "deaths": 0}),
        (died(A), {"deaths": 3}, {"set_aside": "/a.jpg", "careful": True, "deaths": 3}),
        # A kill from outside: a strike.
        (died(A, by=KILL), {}, {"strike": "/a.jpg", "careful": True, "deaths": 1}),
        # Several: one at a time from now on.
        (died(A, B), {}, {"careful": True, "deaths": 1}),
        # Still several, though they were decoded one at a time: nobody is blamed.
        (died(A, B), {"careful": True}, {"careful": True, "deaths": 1}),
        # A graph was run: the provider's first crash, and its second.
        (died(RUN), {}, {"crashed": "coreml", "deaths": 1}),
        (died(LOAD), {}, {"crashed": "coreml", "deaths": 1}),
        (died(RUN), {"crashes": 1}, {"crashed": "coreml", "quarantine": True, "deaths": 1}),
        (died(RUN), {"crashes": 2}, {"crashed": "coreml", "quarantine": True, "deaths": 1}),
        (died(RUN), {"crashes": 2, "max_crashes": 4}, {"crashed": "coreml", "deaths": 1}),
        # A slow job is not the provider's fault.
        (died(RUN, overran_s=180.0), {"crashes": 1}, {"deaths": 1}),
        # In Python code: nobody is blamed.
        (died(), {}, {"deaths": 1}),
        # The fourth death of one attempt ends it.
        (died(), {"deaths": 2}, {"deaths": 3}),
        (died(), {"deaths": 3}, {"deaths": 4, "run_again": False}),
        (died(), {"deaths": 4}, {"deaths": 5, "run_again": False}),
        # A function of the user's own runs once, unless the horse had not begun with it.
        (died(), {"is_ours": False}, {"deaths": 1, "run_again": False}),
        (died(begun=False), {"is_ours": False}, {"deaths": 1}),
        (
            died(A),
            {"is_ours": False},
            {"set_aside": "/a.jpg", "careful": True, "deaths": 0, "run_again": False},
        ),
        # On command: nobody is blamed, and the job has lost its attempt.
        (died(A, on_command=True), {}, {"deaths": 0, "run_again": False}),
        (died(RUN, on_command=True), {"crashes": 1}, {"deaths": 0, "run_again": False}),
        (
            died(begun=False, on_command=True),
            {"careful": True},
            {"careful": True, "deaths": 0, "run_again": False},
        ),
    ],
)
def test_consequences(death: Death, before: dict[str, object], follows: dict[str, object]) -> None:
    """For the picture, the provider and the job."""
    expected = {"careful": False, "run_again": True} | follows
    found = consequences(death, **before)  # type: ignore[arg-type]  # its own parameters
    assert found == Consequences(**expected)  # type: ignore[arg-type]  # its own fields


@pytest.mark.parametrize(
    ("death", "kind", "words"),
    [
        (died(by=SEGV), "signal", "died by signal 11 (SIGSEGV)"),
        (died(by=KILL), "signal", "SIGKILL), sent by somebody or by a system short of memory"),
        (died(by=-signal.SIGHUP), "signal", "died by signal 1 (SIGHUP)"),
        (died(by=3), "exit", "left with exit code 3"),
        (died(by=0), "exit", "left with exit code 0"),
        (died(by=3, said="no store"), "exit", "left: no store"),
        (died(by=KILL, hung_s=31.4), "hung", "hung: no sign of life for 31 s, so it was killed"),
        (died(by=KILL, overran_s=180.0), "overran", "past the job's time-out of 180 s and was"),
        (died(by=KILL, has_hung_up=True), "hung_up", "closed its pipe to the worker"),
        (died(by=KILL, on_command=True), "on_command", "was killed on command"),
    ],
)
def test_how_it_died(death: Death, kind: str, words: str) -> None:
    """In a word of the known ones, and in a sentence with what it was doing."""
    assert death.kind == kind
    assert kind in DEATHS
    assert words in str(death)
    assert ("short of memory" in str(death)) is ("short of memory" in words)
    assert str(death).endswith("; provider coreml; it was in Python code")


def test_who_died() -> None:
    """A signal is blamed on others only where these may have sent it; a provider may be unknown."""
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert died(by=-number).from_outside
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL):
        assert not died(by=-number).from_outside
    assert not died(by=int(signal.SIGKILL)).from_outside  # an exit code of that number
    ours = ({"hung_s": 1.0}, {"overran_s": 1.0}, {"has_hung_up": True})
    assert not any(died(by=KILL, **how).from_outside for how in ours)
    assert "provider none yet" in str(died(provider=""))


@pytest.mark.parametrize(
    ("function", "arguments", "options", "collection"),
    [
        ("index_images", (["/a"], "holiday"), {}, "holiday"),
        ("index_images", (["/a"],), {"collection": "holiday"}, "holiday"),
        ("index_images", (["/a"],), {}, None),
        ("index_images", (["/a"], 7), {}, None),
        ("embed_texts", (["/a"], "holiday"), {}, None),
        ("thumbnail", (["/a"], "holiday"), {}, None),
    ],
)
def test_collection_of_a_job(
    function: str, arguments: tuple[object, ...], options: dict[str, object], collection: str | None
) -> None:
    """A picture that is set aside tells the collection that it was for."""
    job = Job.create(
        f"warmclip.work.jobs.{function}",
        arguments,
        options,
        connection=Redis(),
        serializer=JSONSerializer,
    )
    assert _collection_of(job) == collection


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    """An empty one."""
    return Quarantine(tmp_path)


def policy_with(quarantine: Quarantine) -> CrashPolicy:
    """A policy that needs no Redis, as no picture is to blame."""
    return CrashPolicy(PoisonedFiles(None), quarantine, max_crashes=2)  # type: ignore[arg-type]


def test_crashes_before_it_is_ready_count(quarantine: Quarantine) -> None:
    """Two in a row quarantine the provider that was being loaded."""
    policy = policy_with(quarantine)
    policy.on_failed_start(died(LOAD))
    assert quarantine.active() == {}
    policy.on_failed_start(died(LOAD))
    assert list(quarantine.active()) == ["coreml"]
    assert "2 crashes in a row" in quarantine.active()["coreml"].reason


def test_every_crash_counts_once(quarantine: Quarantine) -> None:
    """Where four in a row are too many, three are not; under a job and before it is ready alike."""
    policy = CrashPolicy(PoisonedFiles(None), quarantine, max_crashes=4)  # type: ignore[arg-type]  # as above
    policy.on_failed_start(died(LOAD))
    policy.begin(index_job()).on_crash(died(RUN))
    policy.on_failed_start(died(LOAD))
    assert quarantine.active() == {}
    policy.on_failed_start(died(LOAD))
    assert "4 crashes in a row" in quarantine.active()["coreml"].reason


def test_crashes_far_apart(quarantine: Quarantine) -> None:
    """A job that ended well stands between them: they do not add up."""
    policy = policy_with(quarantine)
    policy.on_failed_start(died(LOAD))
    policy.on_success()
    policy.on_failed_start(died(LOAD))
    assert quarantine.active() == {}


def test_death_without_a_provider_at_work(quarantine: Quarantine) -> None:
    """It counts against none."""
    policy = policy_with(quarantine)
    for _ in range(5):
        policy.on_failed_start(died())
    assert quarantine.active() == {}


class SetAside(PoisonedFiles):
    """Where pictures go that kill; it takes so many.

    Attributes:
        files: what it has taken.
    """

    def __init__(self, most: int = 99) -> None:
        self.files: list[PoisonedFile] = []
        self._most = most

    def add(self, file: PoisonedFile) -> bool:
        """Take it, if there is room."""
        if len(self.files) < self._most:
            self.files.append(file)
            return True
        return False


def index_job() -> Job:
    """A job of our own."""
    return Job.create(
        "warmclip.work.jobs.index_images",
        (["/a.jpg"], "holiday"),
        connection=Redis(),
        serializer=JSONSerializer,
        id="a-job",
    )


@pytest.mark.parametrize(
    ("deaths", "follows", "set_aside"),
    [
        # What an attempt has learned holds for the rest of it.
        ([died(A, B), died(A)], [(True, True), (True, True)], ["/a.jpg"]),
        ([died(A, B), died(A, B), died()], [(True, True)] * 3, []),
        ([died()] * 4, [(False, True)] * 3 + [(False, False)], []),
        # A picture does not cost the job anything, so any number may be found.
        ([died(A), died(B)] * 5, [(True, True)] * 10, ["/a.jpg", "/b.jpg"] * 5),
        # Kills from outside: the third that hits the same picture, and counting begins anew.
        ([died(A, by=KILL)] * 3, [(True, True)] * 3, ["/a.jpg"]),
        ([died(A, by=KILL), died(B, by=KILL)], [(True, True)] * 2, []),
        ([died(A, by=KILL)] * 5, [(True, True)] * 4 + [(True, False)], ["/a.jpg"]),
    ],
)
def test_attempt(
    quarantine: Quarantine,
    deaths: list[Death],
    follows: list[tuple[bool, bool]],
    set_aside: list[str],
) -> None:
    """Death by death: whether pictures are decoded singly from then on, and the job runs again."""
    poisoned = SetAside()
    attempt = CrashPolicy(poisoned, quarantine, max_crashes=2).begin(index_job())
    assert not attempt.careful
    found = []
    for death in deaths:
        again = attempt.on_crash(death)
        found.append((attempt.careful, again))
    assert found == follows
    assert [file.path for file in poisoned.files] == set_aside
    assert {(file.job, file.collection) for file in poisoned.files} <= {("a-job", "holiday")}
    assert quarantine.active() == {}


def test_strikes_outlast_an_attempt(quarantine: Quarantine) -> None:
    """Who kills from outside again and again hits one picture in many jobs: it is to blame."""
    poisoned = SetAside()
    policy = CrashPolicy(poisoned, quarantine, max_crashes=2)
    for count in (0, 0, 1, 1, 1, 2):
        assert policy.begin(index_job()).on_crash(died(A, by=KILL))
        assert len(poisoned.files) == count


def test_no_room_for_a_picture(quarantine: Quarantine, caplog: pytest.LogCaptureFixture) -> None:
    """The job is not run again, as the picture would kill again; and it is said."""
    attempt = CrashPolicy(SetAside(most=0), quarantine, max_crashes=2).begin(index_job())
    assert not attempt.on_crash(died(A))
    assert "too many pictures are set aside already" in caplog.text


def test_crashes_under_jobs(quarantine: Quarantine) -> None:
    """Two in a row quarantine the provider, of whatever job; other deaths between them do not."""
    policy = policy_with(quarantine)
    for death in (died(RUN), died()):
        policy.begin(index_job()).on_crash(death)
        assert quarantine.active() == {}
    policy.begin(index_job()).on_crash(died("run cuda"))
    assert quarantine.active() == {}
    policy.begin(index_job()).on_crash(died(RUN))
    assert list(quarantine.active()) == ["coreml"]
    assert "2 crashes in a row" in quarantine.active()["coreml"].reason


def test_quarantine_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a full disk: it is said, and the job runs again."""
    (tmp_path / "home").write_text("no folder")
    policy = policy_with(Quarantine(tmp_path / "home"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert policy.begin(index_job()).on_crash(died(RUN))
    assert "cannot put coreml into quarantine" in caplog.text
