"""Which trials are kept, and which are forgotten."""

import json
from pathlib import Path

import pytest

from standins.trials import COREML, DIED, tried
from warmclip.errors import CacheUnusable
from warmclip.fsutil import private_folder
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.providers import CPU, PROVIDERS, Provider
from warmclip.inference.selection import trial_store
from warmclip.inference.selection.trial import Trial
from warmclip.inference.selection.trial_store import TrialStore, forget_trials, trials_folder


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
        (CPU, tried(CPU.name, 5), True, ""),
        # The CPU is never tried for good: what it failed by is this machine's load, or the bundle.
        (CPU, tried(CPU.name, **DIED), False, "cpu is not used on images: gave no answer"),
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


@pytest.mark.parametrize("tower", ["image", "text"])
def test_graph_that_is_another(bundle: ModelBundle, tmp_path: Path, tower: Tower) -> None:
    """Its trial is its own, though it has the same fingerprint: the weights are the same."""
    graphs = bundle.manifest.graphs
    record = graphs[tower]["fp32"].model_copy(update={"sha256": "0" * 64})
    changed = {**graphs, tower: {**graphs[tower], "fp32": record}}
    again = ModelBundle(bundle.folder, bundle.manifest.model_copy(update={"graphs": changed}))
    private_folder(trials_folder(tmp_path), private=False)
    before = TrialStore(bundle, tmp_path, 1)
    before._file(CPU, tower).write_text(json.dumps(tried(CPU.name, 5).to_dict()))
    assert before.find_trial(CPU, tower) is not None
    assert TrialStore(again, tmp_path, 1).find_trial(CPU, tower) is None
