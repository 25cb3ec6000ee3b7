"""The demo model with int8 graphs: from the export through the gate and the provider to a store."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from cpu_targets import find_cpu_targets
from tiny_models import TINY_VIT, written
from warmclip import Encoder, Indexer, Settings
from warmclip.errors import BundleError
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.selection.golden import TOLERANCES
from warmclip.inference.selection.provider_selection import select_providers
from warmclip.store.open import open_store
from warmclip_export import drawing, quantize
from warmclip_export.__main__ import app
from warmclip_export.catalog import resolve_model
from warmclip_export.errors import ParityFailed
from warmclip_export.exporter import export_model
from warmclip_export.parity import corpus, suite
from warmclip_export.parity.bounds import cpu_bounds
from warmclip_export.parity.gate import BATCHES

DEMO = Path(__file__).parents[2] / "models" / "demo"
MODEL, WEIGHTS = str(DEMO / "warmclip-demo.json"), str(DEMO / "warmclip-demo.safetensors")
TOWERS: tuple[Tower, ...] = ("image", "text")


def _silent(_what: str) -> None:
    pass


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The demo checkpoint, exported with int8."""
    target = tmp_path_factory.mktemp("models") / "bundle"
    recipe = resolve_model(MODEL, WEIGHTS)
    return export_model(recipe, target, force=False, step=_silent, int8=True).bundle


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve drawn pictures."""
    drawing.write_gallery(tmp_path / "pictures", 12, seed=0)
    return tmp_path / "pictures"


def test_same_space_with_one_precision_more(bundle: ModelBundle) -> None:
    """The fingerprint is that of the committed bundle, so that collections stay as they are."""
    committed = ModelBundle.open(DEMO / "bundle")
    bundle.verify()

    assert bundle.manifest.fingerprint == committed.manifest.fingerprint
    for tower in TOWERS:
        assert set(bundle.manifest.graphs[tower]) == {"fp32", "fp16", "int8"}
        sizes = {name: it.size_bytes for name, it in bundle.manifest.graphs[tower].items()}
        assert sizes["int8"] < sizes["fp32"]
    assert "int8" not in committed.manifest.graphs["image"]


def test_certificate_has_its_figures(bundle: ModelBundle) -> None:
    """The lowest cosine at every batch size, and which layers stayed float32."""
    certificate = json.loads(bundle.certificate().read_text("utf-8"))
    stages = {stage["stage"]: stage for stage in certificate["stages"]}

    for tower in TOWERS:
        for batch in BATCHES:
            stage = stages[f"{tower} int8, batch {batch}"]
            assert stage["measure"] == "lowest cosine"
            assert cpu_bounds("int8").cosine == stage["threshold"] <= stage["figure"] < 1 - 1e-6
        told = certificate["int8"][tower]
        assert told["layers"] > len(told["kept_in_float32"])
        assert told["lowest_cosine"] >= told["lowest_cosine_with_all"]
    assert "MatMulIntegerToFloat" in certificate["operators"]["image"]["int8"]
    assert not any("int8" in name for name in certificate["coreml"]["graphs"])


def test_suite_measures_it(bundle: ModelBundle, tmp_path: Path) -> None:
    """int8 is a target of its own, served, with its own bounds and compatibility."""
    recipe = resolve_model(MODEL, WEIGHTS)
    part = corpus.build_corpus(tmp_path, 64).part(6)
    targets = find_cpu_targets(bundle)

    result = suite.check_bundle(bundle, recipe, part, targets, "cpu", step=_silent)

    assert [str(target) for target in targets.present] == [
        "fp32 on cpu",
        "fp16 on cpu",
        "int8 on cpu-int8",
    ]
    assert [str(finding) for finding in result.failed] == []
    stages = {finding.stage for finding in result.record.findings}
    assert {"images end to end, int8 on cpu-int8", "searches, int8 on cpu-int8"} <= stages
    compatibilities = {
        compatibility.activation: compatibility
        for compatibility in result.record.compatibilities
        if compatibility.target == "int8 on cpu-int8"
    }
    assert all(compatibility.is_served for compatibility in compatibilities.values())
    assert (compatibilities["gelu"].may_share, compatibilities["quick_gelu"].may_share) == (
        True,
        False,
    )


def test_provider_computes_it(bundle: ModelBundle, tmp_path: Path, pictures: Path) -> None:
    """Asked for by name it passes its trial, and its vectors are near those of fp32, not equal."""
    home = tmp_path / "home"
    found = select_providers(bundle, "cpu-int8", home=home, try_all=True)
    files = sorted(pictures.iterdir())

    eight = Encoder.open(bundle.folder, provider="cpu-int8", home=home)
    full = Encoder.open(bundle.folder, provider="cpu", home=home)

    assert [(trial.tower, trial.passed) for trial in found.trials] == [
        ("image", True),
        ("text", True),
    ]
    for ours, theirs in (
        (eight.encode_images(files), full.encode_images(files)),
        (eight.encode_texts(["a", "a red circle"]), full.encode_texts(["a", "a red circle"])),
    ):
        cosines = (ours * theirs).sum(axis=1)
        assert TOLERANCES["int8"].cosine < cosines.min() < 1 - 1e-6
    assert eight.providers == {"image": "cpu-int8", "text": "cpu-int8"}
    assert full.providers == {"image": "cpu", "text": "cpu"}


def test_neighbours_change_no_vector(bundle: ModelBundle, pictures: Path) -> None:
    """A picture has the same vector alone, among others and in any batch size."""
    files = sorted(pictures.iterdir())
    vectors = [
        Encoder.open(bundle.folder, provider="cpu-int8", batch_size=size).encode_images(files)
        for size in (1, 5, 32)
    ]

    for others in vectors[1:]:
        assert np.abs(others - vectors[0]).max() <= cpu_bounds("int8").batches


def test_variable_leads_into_the_store(
    bundle: ModelBundle, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WARMCLIP_PROVIDER=cpu-int8: pictures are stored with that name and found by fp32 as well."""
    monkeypatch.setenv("WARMCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WARMCLIP_BUNDLE", str(bundle.folder))
    monkeypatch.setenv("WARMCLIP_PROVIDER", "cpu-int8")
    settings = Settings.from_env(os.environ)
    words = ["a red circle", "two squares", "a blue triangle"]
    with open_store(settings) as store:
        indexer = Indexer.from_settings(Encoder.from_settings(settings), store, settings)
        report = indexer.index([pictures])
        found = [indexer.search(text, limit=3) for text in words]
        monkeypatch.setenv("WARMCLIP_PROVIDER", "cpu")
        full = Settings.from_env(os.environ)
        other = Indexer.from_settings(Encoder.from_settings(full), store, full)
        again = [other.search(text, limit=3) for text in words]
        points = list(store.scroll("images", with_vectors=False))

    assert report.indexed == len(points) == 12
    assert {point.payload.provider for point in points} == {"cpu-int8"}
    assert not any(point.payload.canary for point in points)
    for eight, thirty_two in zip(found, again, strict=True):
        assert [hit.score for hit in eight] == pytest.approx(
            [hit.score for hit in thirty_two], abs=0.02
        )


def test_broken_quantization_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not what was measured is stopped by the gate, and what to do is said."""
    honest = quantize.quantize_tower

    def spoilt(*arguments: Any, **options: Any) -> quantize.Quantized:
        found = honest(*arguments, **options)
        for tensor in found.model.graph.initializer:
            if tensor.name.endswith("_steps"):
                tensor.raw_data = numpy_helper.to_array(tensor)[::-1].tobytes()
        return found

    monkeypatch.setattr(quantize, "quantize_tower", spoilt)
    monkeypatch.setattr("warmclip_export.exporter.PRECISIONS", ("fp32",))
    recipe = resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:5")

    with pytest.raises(ParityFailed, match=r"text int8, batch \d+: .*Without --precision int8"):
        export_model(recipe, tmp_path / "models" / "m", force=False, step=_silent, int8=True)

    assert list((tmp_path / "models").iterdir()) == []


def test_command_takes_it_by_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--precision int8 adds it to a bundle that is there, keeping the fingerprint."""
    monkeypatch.setattr("warmclip_export.exporter.PRECISIONS", ("fp32",))
    model, out = written(tmp_path, "tiny", TINY_VIT), tmp_path / "models"
    export = ["model", "--model", model, "--pretrained", "random:2", "--out", str(out), "--json"]
    run = CliRunner().invoke

    plain = run(app, export)
    more = run(app, [*export, "--precision", "fp32,int8", "--force"])
    unknown = run(app, [*export, "--precision", "int4", "--force"])

    assert (plain.exit_code, more.exit_code, unknown.exit_code) == (0, 0, 2)
    first, second = json.loads(plain.stdout), json.loads(more.stdout)
    assert first["fingerprint"] == second["fingerprint"]
    assert not any("int8" in stage["stage"] for stage in first["stages"])
    assert any(stage["stage"] == "text int8, batch 32" for stage in second["stages"])
    assert "'int4': fp32 and fp16 are always made" in unknown.stderr
    graphs = ModelBundle.open(out / "tiny-random-2").manifest.graphs
    assert set(graphs["text"]) == {"fp32", "int8"}


def test_bundle_without_it_says_how_to_make_it() -> None:
    """Naming a graph that is not there is an error that names the command."""
    committed = ModelBundle.open(DEMO / "bundle")

    with pytest.raises(BundleError, match="make export-model PRECISION=int8"):
        committed.graph("image", "int8")
