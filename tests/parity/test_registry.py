"""The list of open_clip's models, and names of Hugging Face, on the open_clip that is installed."""

import json
import re
from pathlib import Path

import open_clip
import pytest
from open_clip.factory import get_model_config
from typer.testing import CliRunner

from bench.coverage.text_models import write_text_model
from warmclip_export.__main__ import app
from warmclip_export.architecture import find_cached_folder, find_text_folder
from warmclip_export.catalog import resolve_model
from warmclip_export.errors import ExportRefused
from warmclip_export.exporter import export_model
from warmclip_export.registry import list_entries, tower_bytes


def test_list_has_every_model_and_says_why_one_is_refused() -> None:
    """All of open_clip's models are there, taken unless a reason stands beside them."""
    entries = {entry.name: entry for entry in list_entries()}

    assert entries.keys() == set(open_clip.list_models())
    assert not entries["ViT-B-32"].reason
    assert "openai" in entries["ViT-B-32"].tags
    assert [name for name, entry in entries.items() if entry.reason] == []


def test_part_of_a_name_adds_sizes() -> None:
    """What a model needs is told before its long download; one of 2.8 GB is taken."""
    listed = CliRunner().invoke(app, ["models", "so400m-16-siglip2-256", "--json"])

    (model,) = json.loads(listed.stdout)["models"]
    assert model["model"] == "ViT-SO400M-16-SigLIP2-256"
    assert (model["size_px"], model["tokens"]) == (256, 64)
    assert 1.6e9 < model["weights_bytes"]["image"] < 1.8e9
    assert 2.7e9 < model["weights_bytes"]["text"] < 2.9e9
    assert model["taken"]
    assert model["repositories"] == {"webli": "timm/ViT-SO400M-16-SigLIP2-256"}
    assert model["export_memory_bytes"] > 3 * sum(model["weights_bytes"].values())


def test_person_reads_what_an_export_takes_and_where_licences_stand() -> None:
    """The memory is an estimate; open_clip's data name no licence, so the cards are named."""
    one = CliRunner().invoke(app, ["models", "mobileclip2-s2"]).stdout
    (many,) = list_entries("RN50-quickgelu")
    whole = CliRunner().invoke(app, ["models"]).stdout

    assert re.search(r"an export takes about \d\.\d GB of memory", one)
    assert "open_clip names none; see the card of timm/MobileCLIP2-S2-OpenCLIP" in one
    assert len(many.tags) > 2
    assert f"and {len(many.tags) - 2} more (--json)" in many.describe(cards=True)
    assert "memory" not in whole
    assert "licence" not in whole


def test_text_towers_of_hugging_face_are_written_down(tmp_path: Path) -> None:
    """`make coverage` has a configuration of each that open_clip names, of its size."""
    configs = {name: get_model_config(name) for name in open_clip.list_models()}
    named = {config["text_cfg"].get("hf_model_name") for config in configs.values()} - {None}

    folders = {name: write_text_model(name, tmp_path / name) for name in named}

    for find in (find_text_folder, find_cached_folder):
        assert {find(folder) for folder in folders.values()} == set(folders.values())
    assert find_cached_folder("no-such-model") is None  # nothing is asked for on the network
    sizes = tower_bytes(configs["xlm-roberta-base-ViT-B-32"], folders["xlm-roberta-base"])
    assert sizes["text"] == pytest.approx(4 * 278e6, rel=0.01)


def test_unknown_part_is_an_error() -> None:
    """Nothing found is said, with the exit code of bad usage."""
    listed = CliRunner().invoke(app, ["models", "no-such-model"])

    assert listed.exit_code == 2
    assert "no-such-model" in listed.stderr


@pytest.mark.parametrize("pretrained", ["", "random:0"])
def test_repository_of_open_clips_table_is_found(pretrained: str) -> None:
    """A name of the hub leads to the model and tag of open_clip's own table."""
    recipe = resolve_model("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", pretrained)

    assert recipe.model == "ViT-B-32"
    assert recipe.pretrained == (pretrained or "laion2b_s34b_b79k")


def test_int8_of_a_large_tower_is_refused_before_its_download(tmp_path: Path) -> None:
    """Nobody waits for gigabytes first; without a network it is the same."""
    recipe = resolve_model("ViT-H-14", "laion2b_s32b_b79k")

    with pytest.raises(ExportRefused, match=r"int8: the image tower has 2\.5 GB"):
        export_model(recipe, tmp_path / "huge", force=False, step=pytest.fail, int8=True)
