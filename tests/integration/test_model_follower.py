"""Which worker loads another model and when, with a real Redis between them; no model is loaded."""

import logging
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from standins.choosing_horse import ChoosingHorse
from warmclip.indexing import collection_bundle
from warmclip.settings import Settings
from warmclip.work.follower import ModelFollower
from warmclip.work.horse.models import MissedModel, ModelChoice
from warmclip.work.horse.report import JobReport, Outcome
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.model_switch import (
    ModelSwitch,
    Turn,
    announce,
    read_noted_model,
    read_switches,
)

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
SWITCH = ModelSwitch(collection="images", former=OLD, now=NEW)
BACK = ModelSwitch(collection="images", former=NEW, now=OLD)


@pytest.fixture(autouse=True)
def _bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two models are here."""
    here = {OLD: tmp_path / "old", NEW: tmp_path / "new"}
    for folder in here.values():
        folder.mkdir()
    monkeypatch.setattr(collection_bundle, "find_bundle", lambda _settings, it: here.get(it))


def follower_of(horse: ChoosingHorse, connection: Redis, worker: str = "w") -> ModelFollower:
    """A worker with this horse."""
    settings = Settings(home=Path("/home"), bundle=Path("/models/default"))
    return ModelFollower(connection, worker, settings, cast("WarmHorse", horse))


def missed(fingerprint: str, outcome: Outcome = "success", instead: str = OLD) -> JobReport:
    """A job that would have needed a model."""
    lacks = MissedModel(fingerprint=fingerprint, instead=instead)
    return JobReport(execution="e", outcome=outcome, text="", missed=lacks)


def test_one_after_the_other(connection: Redis) -> None:
    """While one worker loads, the other one serves; it loads when the first has."""
    horses = [ChoosingHorse(OLD), ChoosingHorse(OLD)]
    first, second = (follower_of(it, connection, f"w{n}") for n, it in enumerate(horses))
    for follower in (first, second):
        follower.on_switches([SWITCH])

    def load() -> None:
        second.follow(horses[1].ensure)
        assert horses[1].loaded == []
        horses[0].ensure()

    first.follow(load)
    assert horses[0].loaded == [(NEW,)]
    second.follow(horses[1].ensure)
    assert horses[1].loaded == [(NEW,)]
    for follower, horse in zip((first, second), horses, strict=True):
        follower.on_switches([SWITCH])
        follower.follow(horse.ensure)
        assert (horse.loaded, follower.trouble) == ([(NEW,)], "")


@pytest.mark.parametrize(
    ("outcome", "loads"), [("requeue", True), ("success", False), ("failure", False)]
)
def test_job_that_waits_for_a_model(connection: Redis, outcome: Outcome, loads: bool) -> None:
    """One that was put back for it waits for no turn; one that has ended does."""
    Turn(connection, "another").take()
    horse = ChoosingHorse(OLD)
    follower = follower_of(horse, connection)
    follower.on_report("job", missed(NEW, outcome))
    follower.follow(horse.ensure)
    assert horse.loaded == ([(NEW,)] if loads else [])
    Turn(connection, "w").pass_on()  # which is not this worker's
    assert not Turn(connection, "third").take()


def test_job_that_waits_in_vain(connection: Redis) -> None:
    """It is put back eight times in a row, and no more; the hundredth other has it forgotten."""
    follower = follower_of(ChoosingHorse(OLD), connection)

    def put_back(job: str) -> None:
        assert follower.may_wait(job)
        follower.on_report(job, missed("", "requeue"))

    for _ in range(2):
        for _ in range(8):
            put_back("job")
        assert not follower.may_wait("job")
        follower.on_report("job", missed("", "success"))
    for _ in range(8):
        put_back("job")
    for number in range(99):
        put_back(f"other-{number}")
    assert not follower.may_wait("job")
    put_back("the hundredth")
    assert follower.may_wait("job")


def test_next_model_waits_for_its_turn(connection: Redis) -> None:
    """That a job could not wait for the one before gives the next one no precedence."""
    horse = ChoosingHorse(OLD)
    follower = follower_of(horse, connection)
    follower.on_report("job", missed(NEW, "requeue"))
    follower.follow(horse.ensure)
    assert horse.loaded == [(NEW,)]
    assert Turn(connection, "another").take()
    follower.on_switches([BACK])
    follower.follow(horse.ensure)
    assert horse.loaded == [(NEW,)]


def test_former_model_goes(connection: Redis) -> None:
    """The one that the missed model stands in for is not kept beside it; others are."""
    for instead, loaded in ((OLD, (NEW,)), ("", (NEW, OLD))):
        horse = ChoosingHorse(OLD)
        horse.choice = ModelChoice(wanted=(OLD,))
        follower = follower_of(horse, connection)
        follower.on_report("job", missed(NEW, instead=instead))
        follower.follow(horse.ensure)
        assert horse.loaded == [loaded]


def test_nothing_was_missed(connection: Redis) -> None:
    """Nothing is loaded: the report says nothing, or the horse has that model, or it follows."""
    horse = ChoosingHorse(OLD)
    follower = follower_of(horse, connection)
    for report in (missed(""), missed(OLD)):
        follower.on_report("job", report)
        follower.follow(horse.ensure)
    follower.on_switches([BACK])
    follower.follow(horse.ensure)
    assert horse.loaded == []
    assert Turn(connection, "another").take()


def test_model_that_is_not_here(connection: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and no turn is taken for it; when nobody needs it any more, that is over."""
    horse = ChoosingHorse(OLD)
    follower = follower_of(horse, connection)
    elsewhere = ModelSwitch(collection="images", former=OLD, now=OTHER)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            follower.on_switches([elsewhere])
            follower.on_report("job", missed(OTHER, "requeue"))
            follower.follow(horse.ensure)
    trouble = f"there is no bundle of the model {OTHER[:12]} beside /models/default"
    assert follower.trouble == trouble
    assert [record.getMessage() for record in caplog.records] == [
        f"a collection is of another model now: {trouble}; copy it there"
    ]
    assert horse.loaded == []
    assert Turn(connection, "another").take()
    for former in (NEW, "d" * 64):
        follower.on_switches([ModelSwitch(collection="scans", former=former, now=OLD)])
        assert follower.trouble == trouble  # of another collection
    announce(connection, ModelSwitch(collection="images", former=OTHER, now=OLD))
    follower.on_switches(read_switches(connection))
    assert follower.trouble == ""


def test_model_that_came_later(connection: Redis) -> None:
    """Once the horse has what was lacking, there is no trouble any more."""
    horse = ChoosingHorse(OLD)
    follower = follower_of(horse, connection)
    follower.on_report("job", missed(OTHER))
    horse.ready.models = (OLD, OTHER)
    follower.on_switches([])
    assert follower.trouble == ""
    follower.on_report("job", missed(OTHER))
    follower.on_report("job", missed(NEW))  # which is here
    assert follower.trouble == ""


def test_model_that_cannot_be_loaded(connection: Redis) -> None:
    """The horse has its former models again, says why, and does not try for ever."""
    horse = ChoosingHorse(OLD, cannot=NEW)
    horse.choice = ModelChoice(wanted=(OLD,))
    follower = follower_of(horse, connection)
    for _ in range(3):
        follower.on_report("job", missed(NEW, "requeue"))
        follower.follow(horse.ensure)
        assert follower.trouble == "it cannot be loaded: it is broken"
        assert horse.choice == ModelChoice(wanted=(OLD,), refused=(NEW,))
    assert horse.loaded == []
    assert Turn(connection, "another").take()


def test_model_that_was_mended(connection: Redis, tmp_path: Path) -> None:
    """It is tried again once its bundle has changed, as when it was copied there again."""
    horse = ChoosingHorse(OLD, cannot=NEW)
    horse.choice = ModelChoice(wanted=(OLD,))
    follower = follower_of(horse, connection)
    follower.on_report("job", missed(NEW, "requeue"))
    follower.follow(horse.ensure)
    horse.cannot = ""
    (tmp_path / "new" / "tokenizer.json").write_text("whole now")
    follower.on_report("job", missed(NEW, "failure"))
    follower.follow(horse.ensure)
    assert (horse.loaded, follower.trouble) == ([(NEW,)], "")
    assert horse.choice.refused == ()


def test_turn(connection: Redis) -> None:
    """It is one worker's until that passes it on, or has died a minute ago."""
    ours, theirs = Turn(connection, "ours"), Turn(connection, "theirs")
    theirs.keep()  # which it is not
    assert ours.take()
    (key,) = connection.keys()
    assert not theirs.take()
    theirs.pass_on()
    assert not theirs.take()
    for again in (False, True):
        if again:
            ours.keep()
        assert 55 <= connection.ttl(key) <= 60
        connection.expire(key, 5)
    theirs.keep()
    assert not theirs.take()  # asking for it does not prolong it: whoever has it may be dead
    assert connection.ttl(key) <= 5
    for seconds in (None, 3600):  # as somebody else may write it: it ends all the same
        connection.set(key, "ours", ex=seconds)
        assert not theirs.take()
        assert 0 < connection.ttl(key) <= 60
    connection.expire(key, 5)
    ours.keep()
    assert connection.ttl(key) > 5
    ours.pass_on()
    assert theirs.take()
    ours.pass_on()
    ours.keep()
    assert connection.get(key) == b"theirs"


def test_turn_is_kept_while_it_loads(connection: Redis) -> None:
    """A model may take longer to load than a turn lasts."""
    horse = ChoosingHorse(OLD)
    follower = follower_of(horse, connection)
    follower.on_switches([SWITCH])

    def load() -> None:
        (key,) = connection.keys()
        connection.expire(key, 5)
        follower.keep_turn()
        assert connection.ttl(key) > 5
        horse.ensure()

    follower.follow(load)
    assert horse.loaded == [(NEW,)]
    assert connection.keys() == []


def test_notes(connection: Redis) -> None:
    """The last one of each collection counts."""
    assert read_noted_model(connection, "images") is None
    announce(connection, SWITCH)
    assert read_switches(connection) == [SWITCH]
    announce(connection, BACK)
    assert read_switches(connection) == [BACK]
    assert read_noted_model(connection, "images") == OLD
    assert read_noted_model(connection, "scans") is None
