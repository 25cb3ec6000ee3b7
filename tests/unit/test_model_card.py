"""Unit: what a list of models tells, and where models are looked for."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from warmclip.cli import app
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.model_card import ModelCard, find_bundles
from warmclip.inference.providers import PROVIDERS
from warmclip.inference.selection.trial_store import TrialStore
from warmclip.settings import Settings, export_folder

NAME = "ViT-B-32-openai"


def test_card(demo_bundle: Path) -> None:
    """The demo's figures: those of its manifest, and the worst ones of its certificate."""
    card = ModelCard.read(demo_bundle)
    stages = json.loads((demo_bundle / "certificate.json").read_text())["stages"]
    worst = max(it["figure"] for it in stages if " fp32, " in it["stage"])
    assert (card.dim, card.size_px, card.context_length) == (128, 64, 77)
    assert (card.activation, card.precisions) == ("gelu", ("fp16", "fp32"))
    assert card.weights == "warmclip-demo.safetensors"
    assert card.fp32_difference == worst
    assert card.fp16_cosine == pytest.approx(0.99993, abs=1e-5)
    files = [file for file in demo_bundle.iterdir() if file.name != "manifest.json"]
    assert card.size_bytes == sum(file.stat().st_size for file in files)
    assert card.problem is None


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("manifest.json", "{", "no valid JSON|not valid JSON"),
        ("certificate.json", None, "was altered|has 2 bytes"),
    ],
)
def test_damaged(
    demo_bundle: Path, tmp_path: Path, file: str, content: str | None, words: str
) -> None:
    """One that cannot be used is listed with its problem."""
    copy = tmp_path / "copy"
    shutil.copytree(demo_bundle, copy)
    (copy / file).write_text(content or "{}")
    card = ModelCard.read(copy)
    assert card.problem is not None
    assert any(word in card.problem for word in words.split("|"))
    assert {key for key, value in asdict(card).items() if value} == {"folder", "problem"}


def test_folders_that_are_searched(demo_bundle: Path, tmp_path: Path) -> None:
    """Sorted in each; what is no bundle, or no folder, is passed by."""
    for name in ("b", "a"):
        shutil.copytree(demo_bundle, tmp_path / "one" / name)
    (tmp_path / "one" / "empty").mkdir()
    shutil.copytree(demo_bundle, tmp_path / "two" / "c")
    found = find_bundles([tmp_path / "one", tmp_path / "none", tmp_path / "two"])
    assert [it.name for it in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("here", "at_home", "chosen"),
    [(True, True, "here"), (False, True, "home"), (True, False, "here"), (False, False, "here")],
)
def test_default_model(
    here: bool, at_home: bool, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the current folder, else that of the home folder; an absent one is named."""
    home = tmp_path / "home"
    monkeypatch.chdir(tmp_path)
    if here:
        (tmp_path / "models" / NAME).mkdir(parents=True)
    if at_home:
        (home / "models" / NAME).mkdir(parents=True)
    environ = {"WARMCLIP_HOME": str(home)}
    places = {"here": Path("models") / NAME, "home": home / "models" / NAME}
    assert Settings.from_env(environ).bundle == places[chosen]
    assert Settings.from_env(environ | {"WARMCLIP_BUNDLE": "mine"}).bundle == Path("mine")
    assert export_folder(environ) == (Path("models") if here else home / "models")


def test_command(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It marks the one that is used, and says so where there is none."""
    monkeypatch.chdir(tmp_path)
    nothing = CliRunner().invoke(app, ["models"])
    assert nothing.exit_code == 0
    assert "warmclip-export model" in nothing.stdout
    shutil.copytree(demo_bundle, tmp_path / "models" / NAME)
    listed = CliRunner().invoke(app, ["models"])
    assert f"* models/{NAME}" in listed.stdout
    card = ModelCard.read(demo_bundle)
    figures = f"by {card.fp32_difference:.1e} in fp32, cosine {card.fp16_cosine:.6f} in fp16"
    assert f"differs from open_clip {figures}" in listed.stdout
    as_json = json.loads(CliRunner().invoke(app, ["models", "--json", "models"]).stdout)
    (model,) = as_json["models"]
    assert (model["in_use"], model["dim"]) == (True, 128)


def test_trials_of_a_model_are_listed(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine found of a provider stands with the model; nothing is tried for the list.

    So does whether CoreML takes its towers whole.
    """
    monkeypatch.setenv("WARMCLIP_HOME", str(tmp_path))
    command = ["models", str(demo_bundle.parent)]
    assert "a second" not in CliRunner().invoke(app, command).stdout
    (tmp_path / "verdicts").mkdir()
    trials = TrialStore(ModelBundle.open(demo_bundle), tmp_path, 0)
    trials.run_trial(PROVIDERS["cpu"], "image", 120, lambda: None)

    listed = " ".join(CliRunner().invoke(app, command).stdout.split())

    assert "CoreML takes each tower in one piece" in listed
    assert "cpu on images: passed, " in listed
    (model,) = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["models"]
    assert model["coreml_whole"] is True
    assert [(it["provider"], it["tower"], it["passed"]) for it in model["trials"]] == [
        ("cpu", "image", True)
    ]
