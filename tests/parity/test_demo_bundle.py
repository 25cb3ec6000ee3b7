"""The committed demo bundle is what the committed checkpoint exports to."""

import json
from pathlib import Path

import numpy as np
import pytest

from sharing import made_once
from warmclip.inference.bundle import ModelBundle
from warmclip_export.catalog import resolve_model
from warmclip_export.exporter import export_model

DEMO = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The checkpoint, exported afresh."""
    recipe = resolve_model(
        str(DEMO / "warmclip-demo.json"), str(DEMO / "warmclip-demo.safetensors")
    )
    made = made_once(
        tmp_path_factory,
        "demo",
        lambda path: export_model(recipe, path, force=False, step=lambda _what: None),
    )
    return ModelBundle.open(made)


@pytest.fixture(scope="module")
def committed() -> ModelBundle:
    """The bundle in the repository."""
    return ModelBundle.open(DEMO / "bundle")


def test_committed_bundle_is_whole(committed: ModelBundle) -> None:
    """Every file is what its manifest says."""
    committed.verify()


def test_fingerprint_is_the_same(exported: ModelBundle, committed: ModelBundle) -> None:
    """Exporting again gives the same embedding space."""
    assert exported.manifest.fingerprint == committed.manifest.fingerprint


def test_operators_are_the_same(exported: ModelBundle, committed: ModelBundle) -> None:
    """Exporting again gives graphs of the same operators."""
    operators = [
        json.loads((bundle.folder / "certificate.json").read_text("utf-8"))["operators"]
        for bundle in (exported, committed)
    ]

    assert operators[0] == operators[1]


def test_vectors_are_the_same(exported: ModelBundle, committed: ModelBundle) -> None:
    """The golden inputs are the same, and their vectors agree within 1e-5."""
    with np.load(exported.golden()) as new, np.load(committed.golden()) as old:
        assert new.files == old.files
        assert np.array_equal(new["input_ids"], old["input_ids"])
        assert np.array_equal(new["crops"], old["crops"])
        for name in ("image_vectors", "text_vectors"):
            assert np.abs(new[name] - old[name]).max() <= 1e-5
