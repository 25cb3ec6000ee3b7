"""Which provider computes a tower, by trials that are values."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from standins.trials import COREML, DIED, FAILED, tried
from warmclip.errors import BundleError, ProviderUnavailable
from warmclip.fsutil import private_folder
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.providers import CPU, Candidates, Provider
from warmclip.inference.selection import provider_selection, trial_store
from warmclip.inference.selection.provider_selection import (
    TOWERS,
    _EligibleProviders,
    _obstacle,
    read_selection,
    select_providers,
)
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.inference.selection.trial import Trial
from warmclip.inference.selection.trial_store import TrialStore


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
    told: list[tuple[int, int]] = []
    found = select_providers(
        bundle, asked, home=home, deadline_s=60, try_all=True,
        progress=lambda done, total, _: told.append((done, total)),
    )  # fmt: skip
    assert [it.tower for it in found.trials] == list(TOWERS)
    assert told == [(0, 2), (1, 2)]


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
