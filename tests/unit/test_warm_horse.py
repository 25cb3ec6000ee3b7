"""How a worker follows its horse: what the horse says is scripted, and so is the clock."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from standins.clock import Clock
from standins.scripted_horse import BEGAN, DECODES, LOADS, Said, ScriptedHorse, ends
from warmclip.errors import HorseDied, ProviderUnavailable, StoreUnreachable
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.work.crash_policy import CrashPolicy, Death
from warmclip.work.horse import warm_horse
from warmclip.work.horse.models import ModelChoice
from warmclip.work.horse.process import LOST_ITS_PIPE
from warmclip.work.horse.report import JobReport
from warmclip.work.horse.warm_horse import Order, Ready, WarmHorse
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles

DONE = ends()
ANOTHER = ends(of="another")
SILENT = [1.0] * 29


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of whoever follows the horse."""
    clock = Clock()
    monkeypatch.setattr(warm_horse, "time", clock)
    return clock


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    """An empty one."""
    return Quarantine(tmp_path)


def follow(quarantine: Quarantine, *horses: ScriptedHorse) -> WarmHorse:
    """Who follows these horses, one after the other, and lets them be silent for 30 s."""
    policy = CrashPolicy(PoisonedFiles(None), quarantine, max_crashes=2)  # type: ignore[arg-type]  # no picture is to blame
    left = list(horses)
    start: Any = lambda _: left.pop(0)  # noqa: E731 - a horse as its worker sees it
    return WarmHorse(start, policy, hang_s=30.0)


def run(
    horse: WarmHorse,
    clock: Clock,
    *,
    timeout_s: float | None = 180.0,
    is_ours: bool = True,
    poisoned: Sequence[PoisonedFile] = (),
    on_tick: Callable[[], None] = lambda: None,
) -> JobReport | Death:
    """Have it run a job."""
    horse.ensure_ready()
    order = Order(
        execution="e", job="j", record={}, is_ours=is_ours, timeout_s=timeout_s, began=clock.now
    )
    return horse.run_job(order, careful=False, poisoned=poisoned, on_tick=lambda _: on_tick())


HANGS, OVERRUNS = "hung", "overran"


@pytest.mark.parametrize(
    ("script", "is_ours", "timeout_s", "became"),
    [
        ([BEGAN, *SILENT, DONE], True, 180.0, "success"),
        # Each message is a sign of life.
        ([BEGAN, *SILENT, {"at": [1, 2, "x"]}, *SILENT, DONE], True, 180.0, "success"),
        ([BEGAN, *SILENT, 1.0, 1.0, DONE], True, 180.0, HANGS),
        ([BEGAN, DECODES, *SILENT, 1.0, 1.0, DONE], False, 180.0, HANGS),
        # Loading may take longer, and says so.
        ([BEGAN, LOADS, *SILENT, *SILENT, DONE], True, 180.0, "success"),
        # A function of the user's own has all of its time, and no more.
        ([BEGAN, *[1.0] * 180, DONE], False, 180.0, "success"),
        ([BEGAN, *[1.0] * 185, DONE], False, 180.0, "success"),
        ([BEGAN, *[1.0] * 186, DONE], False, 180.0, OVERRUNS),
        ([BEGAN, *[1.0] * 500, DONE], False, None, "success"),
        # A job that is short of time hangs sooner, though not at once.
        ([BEGAN, *[1.0] * 6, DONE], True, 2.0, HANGS),
        ([BEGAN, *[1.0] * 4, DONE], True, 2.0, "success"),
        # A callback has a time of its own.
        ([BEGAN, {"extends": 300}, *[1.0] * 200, DONE], False, 180.0, "success"),
        ([BEGAN, {"extends": 10}, *[1.0] * 14, DONE], False, 180.0, "success"),
        ([BEGAN, {"extends": 10}, *[1.0] * 16, DONE], False, 180.0, OVERRUNS),
        # While the worker was stopped for an hour, it heard nothing: that proves nothing.
        ([BEGAN, 3600.0, DONE], True, None, "success"),
        ([BEGAN, *SILENT[2:], 3600.0, DONE], True, None, "success"),
        ([BEGAN, *SILENT, 3600.0, DONE], True, None, HANGS),
        # What is said of another job is not its answer.
        ([BEGAN, ANOTHER, DONE], True, 180.0, "success"),
        ([BEGAN, ANOTHER, None], True, 180.0, "exit"),
    ],
)
def test_silence(
    clock: Clock,
    quarantine: Quarantine,
    script: list[Said],
    is_ours: bool,
    timeout_s: float | None,
    became: str,
) -> None:
    """A horse that is silent for too long, while it is listened to, is taken for hung."""
    horse = follow(quarantine, ScriptedHorse(*script, clock=clock))
    found = run(horse, clock, timeout_s=timeout_s, is_ours=is_ours)
    assert (found.kind if isinstance(found, Death) else found.outcome) == became


@pytest.mark.parametrize(
    ("script", "code", "leaves", "kind", "words"),
    [
        ([None], -signal.SIGSEGV, True, "signal", "SIGSEGV"),
        ([None], 3, True, "exit", "exit code 3"),
        ([None], LOST_ITS_PIPE + 1, True, "exit", f"exit code {LOST_ITS_PIPE + 1}"),
        ([{"message": "the store is gone"}, None], 3, True, "exit", "the store is gone"),
        # It has closed its pipe, and lives on: it is killed by us, not from outside.
        ([None], -signal.SIGKILL, False, "hung_up", "closed its pipe"),
        ([None], LOST_ITS_PIPE, True, "hung_up", "closed its pipe"),
        ([*SILENT, 1.0, 1.0], -signal.SIGKILL, False, "hung", "no sign of life for 31 s"),
    ],
)
def test_death(
    clock: Clock,
    quarantine: Quarantine,
    script: list[Said],
    code: int,
    leaves: bool,
    kind: str,
    words: str,
) -> None:
    """How it ended is told; what it had in flight, and the provider, are those of the moment."""
    scripted = ScriptedHorse(BEGAN, DECODES, *script, clock=clock, code=code, leaves=leaves)
    horse = follow(quarantine, scripted)
    death = run(horse, clock)
    assert isinstance(death, Death)
    assert (death.kind, death.suspect, death.provider) == (kind, "/a.jpg", "coreml")
    assert words in str(death)
    assert death.from_outside is False
    assert death.has_hung_up is (kind == "hung_up")
    assert horse.pid == 0


def test_killed_on_command(clock: Clock, quarantine: Quarantine) -> None:
    """It is told from all other deaths, and the next horse is another one."""
    first, second = ScriptedHorse(BEGAN, clock=clock), ScriptedHorse(DONE, clock=clock)
    horse = follow(quarantine, first, second)
    death = run(horse, clock, on_tick=horse.kill)
    assert isinstance(death, Death)
    assert death.kind == "on_command"
    assert isinstance(run(horse, clock), JobReport)


def test_killed_between_jobs(clock: Clock, quarantine: Quarantine) -> None:
    """A horse that was killed is given no job, though it may still be dying."""
    first, second = ScriptedHorse(DONE, clock=clock), ScriptedHorse(DONE, clock=clock)
    horse = follow(quarantine, first, second)
    run(horse, clock)
    horse.kill()
    run(horse, clock)
    assert (len(first.orders), len(second.orders)) == (1, 1)


def test_horse_that_is_not_to_run_another_job(clock: Clock, quarantine: Quarantine) -> None:
    """It leaves by itself before the next one starts, and the next one is not tainted."""
    tainted = ends("failure", tainted="memory ran out")
    first, second = ScriptedHorse(tainted, clock=clock), ScriptedHorse(DONE, DONE, clock=clock)
    horse = follow(quarantine, first, second)
    for _ in range(3):
        run(horse, clock)
    assert first.was_asked_to_leave
    assert (len(first.orders), len(second.orders)) == (1, 2)


def test_horse_that_does_not_end(clock: Clock, quarantine: Quarantine) -> None:
    """It may hold the store: none is started beside it."""
    first = ScriptedHorse(None, clock=clock)
    horse = follow(quarantine, first, ScriptedHorse(DONE, clock=clock))
    run(horse, clock)
    first.is_alive = True
    with pytest.raises(HorseDied, match="does not end"):
        horse.ensure_ready()
    first.is_alive = False
    assert isinstance(run(horse, clock), JobReport)


def file(path: str) -> PoisonedFile:
    """A picture that was set aside."""
    return PoisonedFile.describe(path, "it kills", job="j", collection=None)


def test_pictures_that_are_set_aside(clock: Clock, quarantine: Quarantine) -> None:
    """A horse is told when they change, a new horse at once: requeued ones are decoded again."""
    first = ScriptedHorse(DONE, DONE, DONE, DONE, None, clock=clock)
    second = ScriptedHorse(DONE, clock=clock)
    horse = follow(quarantine, first, second)
    both, one, none = (file("/a"), file("/b")), (file("/a"),), ()
    for known in (both, both, one, none, none, none):
        run(horse, clock, poisoned=known)
    told = [
        None if "poisoned" not in order else [it["path"] for it in order["poisoned"]]
        for order in [*first.orders, *second.orders]
    ]
    assert told == [["/a", "/b"], None, ["/a"], [], None, []]


def test_new_horse_that_dies(clock: Clock, quarantine: Quarantine) -> None:
    """While it loads: that counts against the provider, and the next one starts."""
    dying = [ScriptedHorse(clock=clock, before=[LOADS, None]) for _ in range(2)]
    horse = follow(quarantine, *dying, ScriptedHorse(DONE, clock=clock))
    assert isinstance(run(horse, clock), JobReport)
    assert list(quarantine.active()) == ["coreml"]


def test_no_horse_survives_its_start(clock: Clock, quarantine: Quarantine) -> None:
    """It is tried ten times, and then said."""
    dying = [ScriptedHorse(clock=clock, before=[None]) for _ in range(11)]
    horse = follow(quarantine, *dying)
    with pytest.raises(HorseDied, match="no horse survives its start"):
        horse.ensure_ready()
    assert [each.is_alive for each in dying] == [False] * 10 + [True]


def test_model_that_cannot_be_loaded(clock: Clock, quarantine: Quarantine) -> None:
    """What the horse found wrong is raised as it is, at once: another horse would find the same."""
    wrong = {"error": "ProviderUnavailable", "message": "no such provider"}
    first, second = ScriptedHorse(clock=clock, before=[wrong]), ScriptedHorse(clock=clock)
    horse = follow(quarantine, first, second)
    with pytest.raises(ProviderUnavailable, match="no such provider"):
        horse.ensure_ready()
    assert (first.is_alive, second.is_alive) == (False, True)


@pytest.mark.parametrize("is_ready", [True, False])
def test_nobody_needs_a_horse_that_loads(
    clock: Clock, quarantine: Quarantine, is_ready: bool
) -> None:
    """A worker that is to stop ends it; one that is ready finishes its job."""
    scripted = ScriptedHorse(clock=clock, before=[] if is_ready else [1.0])
    horse = follow(quarantine, scripted)
    horse.ensure_ready(lambda _: horse.stop_loading())
    assert scripted.was_killed is not is_ready
    assert (horse.pid == 0) is not is_ready
    horse.stop_loading()
    assert scripted.was_killed is not is_ready


def test_what_a_horse_says_of_itself(clock: Clock, quarantine: Quarantine) -> None:
    """It is known once it is ready, and how long it computed is observed."""
    said = {"ready": True, "provider": "cuda", "model": "f", "models": ["f", "g"]}
    scripted = ScriptedHorse(clock=clock, before=[said | {"callbacks": ["a.b"]}])
    observed: list[tuple[str, float]] = []
    policy = CrashPolicy(PoisonedFiles(None), quarantine, max_crashes=2)  # type: ignore[arg-type]  # as above
    start: Any = lambda _: scripted  # noqa: E731 - as above
    horse = WarmHorse(
        start, policy, hang_s=30.0, observe=lambda stage, seconds: observed.append((stage, seconds))
    )
    assert (horse.pid, horse.ready) == (0, Ready())
    assert Ready() == Ready(provider="", model="", models=(), callbacks=frozenset())
    horse.ensure_ready()
    assert horse.pid == scripted.pid
    assert horse.ready == Ready(
        provider="cuda", model="f", models=("f", "g"), callbacks=frozenset({"a.b"})
    )
    horse.ensure_ready()  # it is there: nothing is started
    scripted.will_say(BEGAN, DECODES, {"end": 1}, DONE)
    run(horse, clock)
    assert [stage for stage, _ in observed] == ["decode"]


def test_order(clock: Clock, quarantine: Quarantine) -> None:
    """What a horse is told of a job, and what is seen of it meanwhile."""
    first = ScriptedHorse(BEGAN, DECODES, 1.0, DONE, DONE, clock=clock)
    horse = follow(quarantine, first)
    horse.ensure_ready()
    order = Order(
        execution="e7",
        job="j",
        record={"data": "x"},
        is_ours=True,
        timeout_s=9.0,
        may_wait=False,
    )
    seen: list[list[str]] = []
    report = horse.run_job(
        order, careful=True, poisoned=(), on_tick=lambda it: seen.append(it.images)
    )
    assert isinstance(report, JobReport)
    assert first.orders == [
        {
            "execution": "e7",
            "job": "j",
            "record": {"data": "x"},
            "may_wait": False,
            "careful": True,
            "poisoned": [],
        }
    ]
    assert ["/a.jpg"] in seen
    assert horse.tell_of_death(order, "signal 11", on_tick=lambda _: None) is None
    assert first.orders[1:] == [
        {"execution": "e7", "job": "j", "record": {"data": "x"}, "died": "signal 11"}
    ]


def test_callback_that_kills_its_horse(clock: Clock, quarantine: Quarantine) -> None:
    """It is a death as in a job, and the next horse is another one."""
    first, second = ScriptedHorse(BEGAN, None, clock=clock, code=3), ScriptedHorse(clock=clock)
    horse = follow(quarantine, first, second)
    horse.ensure_ready()
    order = Order(execution="e", job="j", record={}, is_ours=False, timeout_s=None)
    death = horse.tell_of_death(order, "signal 11", on_tick=lambda _: None)
    assert isinstance(death, Death)
    assert (death.kind, death.provider, horse.pid) == ("exit", "coreml", 0)
    horse.ensure_ready()
    assert (first.is_alive, second.is_alive) == (False, True)


def test_another_model(clock: Clock, quarantine: Quarantine) -> None:
    """The horse takes no further job; the next one is told which models to load."""
    first, second = ScriptedHorse(DONE, clock=clock), ScriptedHorse(DONE, clock=clock)
    left, told = [first, second], []

    def start(choice: ModelChoice) -> Any:
        told.append(choice)
        return left.pop(0)

    policy = CrashPolicy(PoisonedFiles(None), quarantine, max_crashes=2)  # type: ignore[arg-type]  # as above
    horse = WarmHorse(start, policy, hang_s=30.0)
    run(horse, clock)
    wanted = ModelChoice(wanted=("f",))
    horse.choose(wanted)
    assert horse.choice == wanted
    run(horse, clock)
    assert told == [ModelChoice(), wanted]
    assert first.was_asked_to_leave
    assert (len(first.orders), len(second.orders)) == (1, 1)


def test_models_of_the_first_horse(clock: Clock, quarantine: Quarantine) -> None:
    """They may be chosen before there is one: then none is replaced."""
    horse = follow(quarantine, ScriptedHorse(DONE, DONE, clock=clock))
    horse.choose(ModelChoice(wanted=("f",)))
    for _ in range(2):
        assert isinstance(run(horse, clock), JobReport)


@pytest.mark.parametrize("is_ready", [True, False])
def test_end_of_a_worker(clock: Clock, quarantine: Quarantine, is_ready: bool) -> None:
    """A horse that is ready is asked to leave; one that loads is not waited for."""
    scripted = ScriptedHorse(clock=clock, before=[] if is_ready else [1.0])
    horse = follow(quarantine, scripted)
    if is_ready:
        horse.ensure_ready()
        horse.close()
    else:

        def close(_: object) -> None:
            horse.close()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            horse.ensure_ready(close)
    assert scripted.was_asked_to_leave is is_ready
    assert (scripted.is_alive, horse.pid) == (False, 0)
    horse.close()  # there is none any more
    horse.kill()


def test_pauses_between_horses_that_die(clock: Clock, quarantine: Quarantine) -> None:
    """They grow, to five seconds: what kills them may pass, and nobody is kept busy by it."""
    dying = [ScriptedHorse(clock=clock, before=[None]) for _ in range(9)]
    horse = follow(quarantine, *dying, ScriptedHorse(clock=clock))
    horse.ensure_ready()
    pauses = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert clock.slept == pytest.approx(pauses)


def test_error_that_may_pass(clock: Clock, quarantine: Quarantine) -> None:
    """Another horse is tried, ten in all; then the last error is raised as it is."""
    away = {"error": "StoreUnreachable", "message": "Qdrant does not answer"}
    first, *others = [ScriptedHorse(clock=clock, before=[away]) for _ in range(11)]
    horse = follow(quarantine, first, ScriptedHorse(clock=clock))
    horse.ensure_ready()
    assert not first.is_alive
    horse = follow(quarantine, *others)
    with pytest.raises(StoreUnreachable, match="Qdrant does not answer"):
        horse.ensure_ready()


def test_horse_that_is_silent_while_it_starts(clock: Clock, quarantine: Quarantine) -> None:
    """Imports may take two minutes on a slow disk; what it loads says how long that may take."""
    slow = ScriptedHorse(clock=clock, before=[1.0] * 120)
    horse = follow(quarantine, slow)
    horse.ensure_ready()
    assert slow.is_alive
    stuck = ScriptedHorse(clock=clock, before=[1.0] * 122)
    loading = ScriptedHorse(clock=clock, before=[LOADS, *[1.0] * 600])
    horse = follow(quarantine, stuck, loading)
    horse.ensure_ready()
    assert (stuck.is_alive, loading.is_alive) == (False, True)


@pytest.mark.parametrize(
    ("timeout_s", "hang_s", "silence_s"),
    [(None, 30.0, 30.0), (180.0, 30.0, 30.0), (20.0, 30.0, 10.0), (10.0, 30.0, 5.0),
     (15.0, 30.0, 7.5), (2.0, 30.0, 5.0), (2.0, 3.0, 3.0)],
)  # fmt: skip
def test_silence_of_a_job(timeout_s: float | None, hang_s: float, silence_s: float) -> None:
    """Half its time, but five heartbeats at least, and never more than usual."""
    order = Order(execution="e", job="j", record={}, is_ours=True, timeout_s=timeout_s, began=100.0)
    assert order.silence_s(hang_s) == silence_s
    assert order.ends_at == (float("inf") if timeout_s is None else 105.0 + timeout_s)
