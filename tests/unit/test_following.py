"""Which model a worker loads, and which bundle that is: rules without a process."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import MagicMock

import pytest

from standins.choosing_horse import ChoosingHorse
from tiny_models import rewritten
from warmclip.indexing import collection_bundle
from warmclip.indexing.collection_bundle import bundle_fingerprint, find_bundle
from warmclip.inference.bundle import ModelBundle
from warmclip.settings import Settings
from warmclip.store.protocol import Generation
from warmclip.work import model_switch
from warmclip.work.follower import ModelFollower
from warmclip.work.horse.models import ModelChoice, bundles_to_load, find_former
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.model_switch import (
    ModelSwitch,
    find_differences,
    model_to_load,
    parse_switches,
    wait_for_workers,
)
from warmclip.work.workers import WorkerState

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
DEFAULT = Path("/default")
HERE = {OLD: Path("/old"), NEW: Path("/new")}


@pytest.mark.parametrize(
    ("wanted", "in_use", "folders"),
    [
        ((), None, ["/default"]),
        ((), NEW, ["/new"]),  # the collection says so, whatever WARMCLIP_BUNDLE is
        ((), OTHER, ["/default"]),  # its bundle is not here
        ((NEW,), OLD, ["/new"]),
        ((NEW, OLD), OLD, ["/new", "/old"]),
        ((OTHER,), NEW, ["/new"]),
        ((OTHER,), None, ["/default"]),
    ],
)
def test_bundles_to_load(wanted: tuple[str, ...], in_use: str | None, folders: list[str]) -> None:
    """What jobs asked for, else what the collection is of, else the default."""
    assert list(map(str, bundles_to_load(wanted, in_use, DEFAULT, HERE.get))) == folders


@pytest.mark.parametrize(
    ("in_use", "others", "loaded", "former"),
    [
        (100, {OLD: 100}, (OLD,), OLD),
        (100, {OLD: 80}, (OLD,), OLD),
        (100, {OLD: 79}, (OLD,), None),  # a migration is filling it
        (100, {OLD: 0}, (OLD,), None),
        (0, {OLD: 0}, (OLD,), OLD),
        (0, {OLD: 3}, (OLD,), OLD),
        (100, {OLD: 100}, (OTHER,), None),
        (100, {OLD: 100}, (OTHER, OLD), OLD),
        (100, {OLD: 10, OTHER: 100}, (OLD, OTHER), OTHER),
        (100, {}, (OLD,), None),
    ],
)
def test_former_model(
    in_use: int, others: dict[str, int], loaded: tuple[str, ...], former: str | None
) -> None:
    """A search falls back to vectors that are there, and never to those that are being made."""
    generations = [
        Generation(collection="images", fingerprint=it, points=points, in_use=it == NEW)
        for it, points in {NEW: in_use, **others}.items()
    ]
    assert find_former(generations, loaded) == former


def test_choice_of_models() -> None:
    """The latest first, two at most; a former one goes, and a refused one is remembered."""
    choice = ModelChoice().with_model(OLD).with_model(NEW)
    assert choice.wanted == (NEW, OLD)
    assert choice.with_model(OTHER).wanted == (OTHER, NEW)
    assert choice.with_model(OTHER, instead_of=NEW).wanted == (OTHER, OLD)
    assert choice.with_model(OTHER, loaded=(OLD, NEW)).wanted == (OTHER, OLD)  # used last
    assert ModelChoice().with_model(NEW, loaded=(OLD,)).wanted == (NEW, OLD)
    assert choice.with_model(OLD).wanted == (OLD, NEW)
    assert choice.without(NEW) == ModelChoice(wanted=(OLD,), refused=(NEW,))
    assert choice.without(NEW).without(NEW).refused == (NEW,)
    assert choice.without(OLD).wanted == (NEW,)
    refused = choice.without(OLD).without(NEW)
    assert refused.with_model(OLD).refused == (NEW,)  # one is tried again, the other is not
    assert refused.with_model(str(bytes(OLD, "ascii"), "ascii")).refused == (NEW,)  # as it is read


SWITCH = ModelSwitch(collection="images", former=OLD, now=NEW)


@pytest.mark.parametrize(
    ("loaded", "follows"),
    [
        ((OLD,), True),
        ((OLD, OTHER), True),
        ((NEW,), False),
        ((OLD, NEW), False),
        ((OTHER,), False),  # it serves other collections
        ((), False),
    ],
)
def test_model_to_load(loaded: tuple[str, ...], follows: bool) -> None:
    """A worker follows if it has the former model only."""
    assert model_to_load([SWITCH], loaded) == (SWITCH if follows else None)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{}",
        b"[1]",
        b'["a"]',
        b"[" * 9999,
        b"7",
        b'["a", "b", "c"]',
        b'["a", "b"]',  # no fingerprints
        f'["a", "{NEW}"]'.encode(),
        f'["{OLD}", "b"]'.encode(),
        b"\xff",
    ],
)
def test_note_that_is_none(note: bytes) -> None:
    """It is passed by: others may write to the same Redis."""
    good = f'["{OLD}", "{NEW}"]'.encode()
    assert parse_switches({b"bad": note, b"images": good}) == [SWITCH]


def test_bundle_of_a_fingerprint(tmp_path: Path, demo_bundle: Path) -> None:
    """It is found beside WARMCLIP_BUNDLE and in the folders of models; broken ones are no harm."""
    home = tmp_path / "home"
    old = rewritten(ModelBundle.open(demo_bundle), tmp_path / "old")
    recipe = old.manifest.image.model_copy(update={"rgb_conversion": "before_resize"})
    beside = rewritten(old, tmp_path / "beside", image=recipe)
    (home / "models").mkdir(parents=True)
    recipe = old.manifest.image.model_copy(update={"fill": 7})
    at_home = rewritten(old, home / "models" / "kept", image=recipe)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    settings = Settings(home=home, bundle=old.folder)
    for bundle in (old, beside, at_home):
        assert find_bundle(settings, bundle.manifest.fingerprint) == bundle.folder
    assert find_bundle(settings, OTHER) is None
    turned = Settings(home=home, bundle=old.folder, exif="transpose")  # a space of its own
    assert find_bundle(turned, old.manifest.fingerprint) is None
    assert find_bundle(turned, bundle_fingerprint(beside.folder, turned)) == beside.folder


def test_bundle_that_is_no_longer_there(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without WARMCLIP_BUNDLE, what lies beside it is to be this process's own."""
    beside = rewritten(ModelBundle.open(demo_bundle), tmp_path / "beside")
    settings = Settings(home=tmp_path / "home", bundle=tmp_path / "gone")
    wanted = beside.manifest.fingerprint
    assert find_bundle(settings, wanted) == beside.folder
    monkeypatch.setattr(os, "geteuid", lambda: beside.folder.stat().st_uid + 1)
    assert find_bundle(settings, wanted) is None


@pytest.mark.parametrize("part", ["", "manifest.json"])
def test_bundle_of_another_owner(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A link that another user can turn, or that user's manifest, is passed by."""
    demo = ModelBundle.open(demo_bundle)
    old = rewritten(demo, tmp_path / "old")
    recipe = demo.manifest.image.model_copy(update={"fill": 7})
    (tmp_path / "elsewhere").mkdir()
    new = rewritten(demo, tmp_path / "elsewhere" / "new", image=recipe)
    beside = tmp_path / "beside"
    beside.symlink_to(new.folder)
    settings = Settings(home=tmp_path / "home", bundle=old.folder)
    wanted = new.manifest.fingerprint
    assert find_bundle(settings, wanted) == beside
    lstat = Path.lstat

    def of_another(path: Path) -> os.stat_result | SimpleNamespace:
        found = lstat(path)
        return SimpleNamespace(st_uid=found.st_uid + 1) if path == beside / part else found

    monkeypatch.setattr(Path, "lstat", of_another)
    assert find_bundle(settings, wanted) is None


def test_bundle_that_is_being_replaced(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes away between two looks is not there."""
    old = rewritten(ModelBundle.open(demo_bundle), tmp_path / "old")
    monkeypatch.setattr(
        collection_bundle, "bundle_fingerprint", MagicMock(side_effect=FileNotFoundError)
    )
    settings = Settings(home=tmp_path / "home", bundle=old.folder)
    assert find_bundle(settings, OTHER) is None


def test_two_collections_switched_in_opposite_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker ends up with both models, and loads no more."""
    monkeypatch.setattr(collection_bundle, "find_bundle", lambda _settings, it: HERE.get(it))
    horse, settings = ChoosingHorse(OLD), Settings(home=Path("/home"), bundle=DEFAULT)
    follower = ModelFollower(MagicMock(), "w", settings, cast("WarmHorse", horse))
    switches = [SWITCH, ModelSwitch(collection="scans", former=NEW, now=OLD)]
    for _ in range(10):
        follower.on_switches(switches)
        follower.follow(horse.ensure)
    assert horse.loaded == [(NEW, OLD)]


def worker(*models: str, trouble: str = "") -> WorkerState:
    """One as its record tells."""
    return WorkerState(
        name="w", state="idle", queues=(), job=None, at=None, hostname="h", pid=7,
        last_heartbeat=None, models=models, trouble=trouble,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "in_use", "told"),
    [
        (worker(NEW), NEW, None),
        (worker(OLD, NEW), NEW, None),
        (worker(OLD), None, None),  # nobody knows what the collection is of
        (worker(), NEW, None),  # it loads its first
        (
            worker(OLD),
            NEW,
            "model aaaaaaaaaaaa, and collection 'images' is of bbbbbbbbbbbb",
        ),
        (worker(OLD), NEW, "loads that at its next job"),
        (worker(OLD, trouble="there is no bundle"), NEW, "of bbbbbbbbbbbb: there is no bundle"),
        (worker(OLD, trouble="there is no bundle"), None, "aaaaaaaaaaaa: there is no bundle"),
    ],
)
def test_difference(state: WorkerState, in_use: str | None, told: str | None) -> None:
    """A sentence names the worker, what it has, what it should have, and why it has not."""
    found = find_differences([worker(NEW), state], "images", in_use)
    assert len(found) == (told is not None)
    assert told is None or told in found[0]


@pytest.mark.parametrize(
    ("seen", "polls", "returned"),
    [
        # How many have the former model, each time that somebody looks.
        ([0], [], 0),
        ([2, 1, 0], [(0, 2), (1, 2)], 0),
        ([3, 1, 0], [(0, 3), (2, 3)], 0),
        ([1, 2, 0], [(0, 1), (0, 2)], 0),  # one more has started
        # Patience is since the last of them followed.
        ([2, 2, 2, 2, 2, 2, 2], [(0, 2)] * 5, 2),
        ([2, 2, 2, 2, 1, 1, 1, 1, 0], [(0, 2)] * 4 + [(1, 2)] * 4, 0),
    ],
)
def test_waiting_for_workers(
    monkeypatch: pytest.MonkeyPatch, seen: list[int], polls: list[tuple[int, int]], returned: int
) -> None:
    """Whoever migrates waits for them, as long as one after the other follows."""
    now, left = [1000.0], list(seen)
    looks = SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds)
    )
    monkeypatch.setattr(model_switch, "time", looks)
    monkeypatch.setattr(
        model_switch,
        "read_workers",
        lambda _: [worker(OLD)] * left.pop(0) + [worker(NEW), worker(OTHER)],
    )
    told: list[tuple[int, int]] = []
    behind = wait_for_workers(
        MagicMock(), SWITCH, patience_s=0.9, on_poll=lambda *counts: told.append(counts)
    )
    assert (told, len(behind)) == (polls, returned)


def test_worker_that_cannot_follow_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and it is told of."""
    troubled = worker(OLD, trouble="there is no bundle")
    monkeypatch.setattr(model_switch, "read_workers", lambda _: [troubled, worker(NEW)])
    assert wait_for_workers(MagicMock(), SWITCH, patience_s=3600) == [troubled]


def test_many_notes() -> None:
    """A hundred collections are followed, whatever others write there."""
    note = f'["{OLD}", "{NEW}"]'.encode()
    assert len(parse_switches({b"%d" % number: note for number in range(200)})) == 100
