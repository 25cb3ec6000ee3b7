"""Which provider computes a tower, by trials that are values; and what a trial finds."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmclip.errors import BundleError, CacheUnusable, ProviderUnavailable
from warmclip.fsutil import private_folder
from warmclip.inference.arrays import Features
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort.placement import Placement
from warmclip.inference.providers import CPU, PROVIDERS, Candidates, Provider
from warmclip.inference.selection import provider_selection, trial_store
from warmclip.inference.selection import trial as trials
from warmclip.inference.selection.golden import Golden
from warmclip.inference.selection.provider_selection import (
    TOWERS,
    _EligibleProviders,
    _obstacle,
    read_selection,
    select_providers,
)
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.inference.selection.trial import BATCHES, Trial, _compare, _misplaced, try_provider
from warmclip.inference.selection.trial_process import run_trial
from warmclip.inference.selection.trial_store import TrialStore, forget_trials, trials_folder

COREML = PROVIDERS["coreml-fp16"]


def tried(
    provider: str, rate: float = 0.0, *, tower: Tower = "image", elsewhere: float = 0.0, **how: Any
) -> Trial:
    """A trial by what decides; ``elsewhere`` is the rate at all other sizes of a batch."""
    deciding = {"image": 32, "text": 1}[tower]
    rates = {batch: rate if batch == deciding else elsewhere for batch in BATCHES}
    made = Trial(provider=provider, tower=tower, passed=True, images_per_s=rates)
    return replace(made, **how)


FAILED: dict[str, Any] = {"passed": False, "reason": "is wrong", "images_per_s": {}}
DIED: dict[str, Any] = {**FAILED, "died": True, "reason": "gave no answer"}


def chosen(tower: Tower, found: Sequence[Trial], asked: str = "auto") -> tuple[str, str]:
    """The provider of a tower, and why; the other tower has the CPU alone."""
    eligible = _EligibleProviders(asked=asked, providers=(), passed_over={})
    (other,) = set(TOWERS) - {tower}
    selection = eligible.select([*found, tried("cpu", 1, tower=other)])
    assert selection.chosen[other] == "cpu"
    assert len(selection.trials) == len(found) + 1
    return selection.chosen[tower], selection.why[tower]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("cpu", 100), ("coreml-fp16", 200)], "coreml-fp16"),
        ([("coreml-fp16", 200), ("cpu", 100)], "coreml-fp16"),
        ([("cpu", 100), ("coreml-fp16", 111)], "coreml-fp16"),
        ([("cpu", 1000), ("coreml-fp16", 1100)], "coreml-fp16"),
        ([("cpu", 100), ("coreml-fp16", 109)], "cpu"),  # not worth canaries, memory and trust
        ([("cpu", 100), ("coreml-fp16", 50)], "cpu"),
        ([("cpu", 100), ("coreml-fp16", 200), ("coreml-fp32", 300)], "coreml-fp32"),
        ([("cpu", 100)], "cpu"),
        ([("coreml-fp16", 1), ("coreml-fp32", 2)], "coreml-fp32"),  # the CPU was not asked for
    ],
)
@pytest.mark.parametrize(("tower", "unit"), [("image", "images"), ("text", "texts")])
def test_fastest(tower: Tower, unit: str, found: list[tuple[str, float]], expected: str) -> None:
    """At the batch that counts: pictures come in batches, searches one at a time."""
    made = [tried(name, rate, tower=tower, elsewhere=1e6 / rate) for name, rate in found]
    name, why = chosen(tower, made)
    assert name == expected
    assert f"{dict(found)[expected]:.0f} {unit}" in why
    for other, rate in found:
        assert (f"{other} {rate}" in why) == (other != expected)


@pytest.mark.parametrize(
    ("found", "expected", "why"),
    [
        ([tried("cpu", 100), tried("coreml-fp16", **FAILED)], "cpu", "coreml-fp16 is wrong"),
        ([tried("cpu", 100), tried("coreml-fp16", **DIED)], "cpu", "coreml-fp16 gave no answer"),
        # Too busy a machine is no ground to trust anything else.
        ([tried("cpu", **DIED), tried("coreml-fp16", 200)], "cpu", "its own trial gave no answer"),
        (
            [tried("coreml-fp16", **FAILED), tried("coreml-fp32", 5)],
            "coreml-fp32",
            "coreml-fp16 is wrong",
        ),
    ],
)
def test_failed_trial(found: list[Trial], expected: str, why: str) -> None:
    """Nothing that failed is used, however fast, and why is told."""
    name, told = chosen("image", found)
    assert name == expected
    assert why in told


def test_bundle_whose_vectors_the_cpu_does_not_compute() -> None:
    """It is said, whatever another provider computes."""
    with pytest.raises(BundleError, match="golden image vectors: is wrong; export"):
        chosen("image", [tried("cpu", **FAILED), tried("coreml-fp16", 200)])


def test_nothing_that_was_asked_for_works() -> None:
    """Each reason is told, and how to try again."""
    found = [tried("coreml-fp16", **FAILED), tried("coreml-fp32", **DIED)]
    with pytest.raises(ProviderUnavailable) as raised:
        chosen("image", found, asked="coreml")
    for said in ("coreml-fp16 is wrong", "coreml-fp32 gave no answer", "--retry-provider coreml"):
        assert said in str(raised.value)


@pytest.mark.parametrize(
    ("placement", "takes_all", "fault"),
    [
        (None, True, ""),
        (Placement(partitions=1, cpu_nodes=0), True, ""),
        (Placement(partitions=2, cpu_nodes=0), True, "in 2 pieces and leaves 0 nodes"),
        (Placement(partitions=0, cpu_nodes=0), True, "in 0 pieces"),
        (Placement(partitions=1, cpu_nodes=1), True, "in 1 pieces and leaves 1 nodes"),
        (Placement(partitions=2, cpu_nodes=5), False, ""),
    ],
)
def test_graph_in_pieces(placement: Placement | None, takes_all: bool, fault: str) -> None:
    """A provider that takes all of a graph must get it as one."""
    found = _misplaced(replace(COREML, takes_all=takes_all), placement)
    assert bool(found) == bool(fault)
    assert fault in (found or "")


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> ModelBundle:
    """The demo model's."""
    return ModelBundle.open(demo_bundle)


class Computing:
    """A session that answers with the golden vectors, but for what is wrong at one batch."""

    def __init__(self, bundle: ModelBundle, provider: Provider, wrong: int, by: float) -> None:
        self.provider = provider
        self._golden = Golden(bundle)
        self._wrong = wrong
        self._by = by
        self.batches: set[int] = set()
        self.rows: set[bytes] = set()

    def run(self, feeds: dict[str, Any]) -> Features:
        """The last row of the wrong batch is turned away from what it should be."""
        pixels = feeds["pixel_values"]
        self.batches.add(len(pixels))
        self.rows |= {row.tobytes() for row in pixels}
        arrays = self._golden._arrays
        every = self._golden.feeds("image", np.arange(self._golden.rows("image")))["pixel_values"]
        at = [next(i for i, row in enumerate(every) if np.array_equal(row, it)) for it in pixels]
        features: Features = arrays["image_vectors"][at] * arrays["image_norms"][at][:, None]
        if len(pixels) == self._wrong:
            features = features.copy()
            features[-1] = np.roll(features[-1], 1) * (1 + self._by)
        return features


@pytest.mark.parametrize("wrong", [0, 4, *BATCHES])
def test_worst_row_at_any_batch_decides(bundle: ModelBundle, wrong: int) -> None:
    """Shapes that are compiled each for themselves are each compared, and every golden row."""
    session = Computing(bundle, replace(COREML, buckets=(1, 4)), wrong, 0.5)
    golden = Golden(bundle)
    found = _compare(session, golden, "image")  # type: ignore[arg-type]  # what it uses of one
    assert session.batches >= {4, *BATCHES}
    assert len(session.rows) == golden.rows("image")
    if wrong:
        assert found.cosine < 0.9
        assert found.max_abs > 0.1
        assert found.norm == pytest.approx(0.5, abs=1e-3)
    else:
        assert (found.cosine, found.max_abs, found.norm) == pytest.approx((1, 0, 0), abs=1e-5)


def test_cpu_is_tried(bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes, with all its figures; it is said what is done, in this order."""
    monkeypatch.setattr(trials, "_SECONDS", 0.0)
    home = private_folder(tmp_path / "home", private=False)
    stages: list[str] = []
    found = try_provider(bundle, CPU, "text", home=home, threads=1, stage=stages.append)
    assert found.passed, found.reason
    assert (found.provider, found.tower, found.died) == ("cpu", "text", False)
    assert found.cosine == pytest.approx(1, abs=1e-4)
    assert set(found.images_per_s) == set(BATCHES)
    assert min(found.images_per_s.values()) > 0
    assert min(found.load_s or 0, found.peak_rss_mb or 0) > 0
    assert stages == [
        "reading the bundle",
        "loading",
        "computing golden vectors",
        *(f"timing batches of {batch}" for batch in BATCHES),
    ]
    assert Trial.from_dict(found.to_dict()) == found


def test_trial_in_a_process_of_its_own(bundle: ModelBundle, tmp_path: Path) -> None:
    """It answers as if it were ours, and says what it cannot read."""
    home = private_folder(tmp_path / "home", private=False)

    def run(tried: ModelBundle) -> Trial:
        return run_trial(
            tried, CPU, "text", home=home, threads=1, deadline_s=120, waiting=lambda: None
        )

    found = run(bundle)
    assert found.passed, found.reason
    assert set(found.images_per_s) == set(BATCHES)
    broken = Path(shutil.copytree(bundle.folder, tmp_path / "broken"))
    opened = ModelBundle.open(broken)
    (broken / "manifest.json").write_text("{}")
    found = run(opened)
    assert (found.passed, found.died) == (False, True)
    assert "exit code 2" in found.reason
    assert str(broken) in found.reason


_FULL_DISK = """
from warmclip.errors import CacheUnusable
from warmclip.inference.selection import trial

def full(*_, **__):
    print("what a library says", flush=True)
    raise CacheUnusable("the disk is full")

trial.try_provider = full
trial.main()
"""


def test_trial_whose_process_finds_no_room(bundle: ModelBundle, tmp_path: Path) -> None:
    """It ends well, and its answer is that alone: no provider is blamed for a full disk."""
    request = {
        "bundle": str(bundle.folder),
        "provider": "cpu",
        "tower": "text",
        "home": str(tmp_path),
        "threads": 1,
        "alarm_s": 120,
    }
    stdin, ours = os.pipe()  # somebody waits for the answer
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FULL_DISK, json.dumps(request)],
            stdin=stdin,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    finally:
        os.close(stdin)
        os.close(ours)
    assert (done.returncode, done.stdout) == (0, b'{"cache_unusable": "the disk is full"}\n')
    assert b"what a library says" in done.stderr


class Clock:
    """Runs that take as long as they are told to."""

    def __init__(self, runs_s: list[float]) -> None:
        self.now_s, self.runs_s, self.runs = 0.0, runs_s, 0

    def run(self, feeds: object) -> None:  # noqa: ARG002 - a session's
        """One run."""
        self.now_s += self.runs_s[min(self.runs, len(self.runs_s) - 1)]
        self.runs += 1


@pytest.mark.parametrize(
    ("runs_s", "rate", "runs"),
    [
        ([9.0, 2.0], 4, 4),  # slow: three, after one that warms and does not count
        ([9.0, 0.1, 0.1, 8.0], 80, 4),  # the median
        ([9.0, 0.25, 0.125], 64, 4),
        ([9.0, 3.0], 8 / 3, 4),
        ([9.0, 2**-4], 128, 8),  # as many as fit
        ([9.0, 2**-10], 8192, 22),  # and no more than twenty-one
    ],
)
def test_rate(
    bundle: ModelBundle,
    monkeypatch: pytest.MonkeyPatch,
    runs_s: list[float],
    rate: float,
    runs: int,
) -> None:
    """Rows a second, of a few runs."""
    clock = Clock(runs_s)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now_s)
    found = trials._rate(clock, Golden(bundle), "image", 8)  # type: ignore[arg-type]  # as above
    assert found == pytest.approx(rate)
    assert clock.runs == runs


def test_why_a_provider_is_not_tried(bundle: ModelBundle, tmp_path: Path) -> None:
    """It is in quarantine, or the bundle has no graph for it."""
    quarantine = Quarantine(tmp_path)
    assert _obstacle(COREML, bundle, quarantine) is None
    lacking = replace(COREML, name="other", precision="int8")
    assert "'other' cannot serve: " in (_obstacle(lacking, bundle, quarantine) or "")
    quarantine.add("coreml-fp16", "it was wrong")
    told = _obstacle(COREML, bundle, quarantine) or ""
    assert "'coreml-fp16' is in quarantine until" in told
    assert "it was wrong" in told


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (None, set()),
        ("coreml", {"cpu"}),  # a family
        ("coreml-fp16", {"coreml-fp32", "cpu"}),
        ("cpu", {"coreml-fp16", "coreml-fp32"}),
        ("core", {"coreml-fp16", "coreml-fp32", "cpu"}),
    ],
)
def test_trials_that_are_forgotten(
    bundle: ModelBundle, tmp_path: Path, name: str | None, left: set[str]
) -> None:
    """Those of a provider or a family, and no others."""
    store = TrialStore(bundle, tmp_path, 1)
    private_folder(trials_folder(tmp_path), private=False)
    providers = [COREML, PROVIDERS["coreml-fp32"], CPU]
    for provider in providers:
        kept = tried(provider.name, 5)
        store._file(provider, "image").write_text(json.dumps(kept.to_dict()))
        assert store.find_trial(provider, "image") == kept
        assert store.find_trial(provider, "text") is None
        assert TrialStore(bundle, tmp_path, 2).find_trial(provider, "image") is None
    assert forget_trials(tmp_path, name) == 3 - len(left)
    assert {it.name for it in providers if store.find_trial(it, "image")} == left


@pytest.mark.parametrize("torn", ["", "[]", "{}", '{"images_per_s": {"x": 1}}'])
def test_trial_that_is_torn(
    bundle: ModelBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    """It is as if it had not been run, and that is told."""
    store = TrialStore(bundle, tmp_path, 1)
    private_folder(trials_folder(tmp_path), private=False)
    store._file(COREML, "image").write_text(torn)
    assert store.find_trial(COREML, "image") is None
    assert "cannot be read, trying the provider again" in caplog.text


@pytest.mark.parametrize(
    ("provider", "found", "is_kept", "said"),
    [
        (COREML, tried(COREML.name, 5), True, ""),
        (COREML, tried(COREML.name, **DIED), True, "is not used on images: gave no answer"),
        (CPU, tried("cpu", 5), True, ""),
        # The CPU is never tried for good: what it failed by is this machine's load, or the bundle.
        (CPU, tried("cpu", **DIED), False, "cpu is not used on images: gave no answer"),
    ],
)
def test_trial_that_is_kept(
    bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    provider: Provider,
    found: Trial,
    is_kept: bool,
    said: str,
) -> None:
    """All but a reference that failed; why something is not used is told once, as a warning."""
    monkeypatch.setattr(trial_store, "run_trial", lambda *_, **__: found)
    private_folder(trials_folder(tmp_path), private=False)
    store = TrialStore(bundle, tmp_path, 1)
    assert store.run_trial(provider, "image", 60, lambda: None) == found
    assert store.find_trial(provider, "image") == (found if is_kept else None)
    assert len(caplog.messages) == bool(said)
    assert said in caplog.text


def test_trial_that_cannot_be_kept(
    bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It counts this time: a folder that cannot be written into is told, and ends nothing."""
    found = tried(COREML.name, 5)
    monkeypatch.setattr(trial_store, "run_trial", lambda *_, **__: found)
    trials_folder(tmp_path).write_text("a file in the place of the folder")
    assert TrialStore(bundle, tmp_path, 1).run_trial(COREML, "image", 60, lambda: None) == found
    assert "the trial of coreml-fp16 is not kept" in caplog.text


def test_trial_without_room_for_what_is_compiled(
    bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It failed, but it is not dead and not kept: with more room it is tried again."""

    def no_room(*_: object, **__: object) -> Trial:
        raise CacheUnusable("the disk is full")

    monkeypatch.setattr(trial_store, "run_trial", no_room)
    private_folder(trials_folder(tmp_path), private=False)
    store = TrialStore(bundle, tmp_path, 1)
    found = store.run_trial(COREML, "text", 60, lambda: None)
    assert found == Trial(
        provider="coreml-fp16", tower="text", passed=False, reason="the disk is full"
    )
    assert store.find_trial(COREML, "text") is None
    assert "coreml-fp16 is not tried on texts: the disk is full" in caplog.text


class Scripted:
    """Trials that find what a test has written down, on a machine that has these providers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, here: Sequence[Provider]) -> None:
        self.rates = {"cpu": 10.0, "coreml-fp16": 20.0}
        self.ran: list[tuple[str, str]] = []
        self.removed: list[tuple[str, str]] = []
        found = Candidates(here=tuple(here), absent={"cuda": "not in this onnxruntime"})
        monkeypatch.setattr(provider_selection, "candidates", lambda _: found)
        monkeypatch.setattr(trial_store, "run_trial", self._run)
        monkeypatch.setattr(TrialStore, "remove_compiled", self._remove)

    def _run(
        self,
        bundle: ModelBundle,  # noqa: ARG002 - as run_trial has it
        provider: Provider,
        tower: Tower,
        *,
        deadline_s: float,
        waiting: Callable[[], None],
        **_: object,
    ) -> Trial:
        assert deadline_s == 60
        waiting()
        self.ran.append((provider.name, tower))
        rate = self.rates[provider.name] if tower == "image" else 5.0
        return tried(provider.name, rate, tower=tower)

    def _remove(self, provider: Provider, tower: Tower) -> None:
        self.removed.append((provider.name, tower))


def test_what_was_tried_is_not_tried_again(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each provider is tried once on each tower, with how far it is; what lost leaves no model."""
    scripted = Scripted(monkeypatch, [CPU, COREML])
    home = tmp_path / "home"
    home.mkdir(mode=0o755)  # others may read it
    told: list[tuple[int, int, str]] = []
    assert read_selection(bundle, "auto", home=home) is None
    found = select_providers(
        bundle, "auto", home=home, deadline_s=60, progress=lambda *it: told.append(it)
    )
    assert found.chosen == {"image": "coreml-fp16", "text": "cpu"}
    assert found.passed_over == {"cuda": "not in this onnxruntime"}
    pairs = [(name, tower) for name in ("cpu", "coreml-fp16") for tower in TOWERS]
    assert scripted.ran == pairs
    assert set(scripted.removed) == {("cpu", "image"), ("coreml-fp16", "text")}
    assert told == [
        (done, 4, f"trying {name} on {tower}s") for done, (name, tower) in enumerate(pairs)
    ]
    scripted.removed.clear()
    assert select_providers(bundle, "auto", home=home, deadline_s=60) == found
    assert read_selection(bundle, "auto", home=home) == found
    assert (scripted.ran, scripted.removed) == (pairs, [])


@pytest.mark.parametrize(
    ("asked", "why"),
    [("coreml-fp16", "asked for by name"), ("coreml", "there is no other provider here: no trial")],
)
def test_nothing_to_choose(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, why: str
) -> None:
    """One provider is tried only where somebody wants to know; nothing is written otherwise."""
    scripted = Scripted(monkeypatch, [COREML])
    home = tmp_path / "home"
    found = select_providers(bundle, asked, home=home)
    assert found == read_selection(bundle, asked, home=home)
    assert found.chosen == dict.fromkeys(TOWERS, "coreml-fp16")
    assert set(found.why.values()) == {why}
    assert (found.trials, scripted.ran, home.exists()) == ((), [], False)
    found = select_providers(bundle, asked, home=home, deadline_s=60, try_all=True)
    assert [it.tower for it in found.trials] == list(TOWERS)


def test_nothing_that_may_be_tried(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is in quarantine: that is the error; beside the CPU it is passed over."""
    quarantine = Quarantine(private_folder(tmp_path / "home", private=False))
    quarantine.add("coreml-fp16", "it was wrong")
    Scripted(monkeypatch, [COREML])
    with pytest.raises(ProviderUnavailable, match=r"coreml-fp16' is in quarantine until .* wrong"):
        select_providers(bundle, "coreml", home=tmp_path / "home")
    Scripted(monkeypatch, [CPU, COREML])
    found = select_providers(bundle, "auto", home=tmp_path / "home")
    assert found.chosen == dict.fromkeys(TOWERS, "cpu")
    assert "is in quarantine" in found.passed_over["coreml-fp16"]
