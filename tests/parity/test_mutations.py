"""Eight deliberate errors, each of which has happened to somebody: the suite names the stage.

The bundle, its recipe, its graph or the runtime is made wrong, never the suite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from cpu_targets import find_cpu_targets
from tiny_models import TINY_VIT, rewritten, written
from warmclip.inference import resizing
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.text import Tokenizer
from warmclip_export import exporter, onnx_file
from warmclip_export.catalog import ModelRecipe, resolve_model
from warmclip_export.parity import corpus, suite
from warmclip_export.parity.corpus import Corpus
from warmclip_export.parity.result import Result
from warmclip_export.reference import Reference

FAILED_ENDS = {
    "images end to end, fp32 on cpu",
    "texts end to end, fp32 on cpu",
    "scores, fp32 on cpu",
    "searches, fp32 on cpu",
    "other activation, fp32 on cpu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A bundle that is right, to be made wrong in a copy."""

    recipe: ModelRecipe
    bundle: ModelBundle
    samples: Corpus

    def measure(self, bundle: ModelBundle) -> Result:
        """Run the suite on a smaller corpus."""
        targets = find_cpu_targets(bundle)
        return suite.check_bundle(
            bundle, self.recipe, self.samples, targets, "cpu", step=lambda _what: None
        )


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """A tiny QuickGELU model in fp32, whose parameters have no value that hides an error."""
    folder = tmp_path_factory.mktemp("patient")
    config = written(folder, "tiny", {**TINY_VIT, "quick_gelu": True})
    seeded = Reference.build(resolve_model(config, "random:7"), None).model.state_dict()
    generator = torch.Generator().manual_seed(7)
    for tensor in seeded.values():
        if tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
        elif tensor.ndim == 2 and tensor.is_floating_point():
            tensor.mul_(3.0)
    torch.save(seeded, folder / "tiny.pt")
    recipe = resolve_model(config, str(folder / "tiny.pt"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "PRECISIONS", ("fp32",))
        exported = exporter.export_model(recipe, folder / "m", force=False, step=lambda _what: None)
    files = tmp_path_factory.mktemp("corpus")
    samples = corpus.build_corpus(files, TINY_VIT["vision_cfg"]["image_size"]).part(9)
    return Patient(recipe=recipe, bundle=exported.bundle, samples=samples)


def _wrong_recipe(bundle: ModelBundle, folder: Path, **changes: Any) -> ModelBundle:
    image = bundle.manifest.image.model_copy(update=changes)
    return rewritten(bundle, folder, image=image)


def _exported_again(
    patient: Patient, folder: Path, tower: Tower, spoil: Callable[[Any], None]
) -> ModelBundle:
    """The bundle with one tower exported from a wrapper that computes something else."""
    reference = Reference.build(patient.recipe, patient.recipe.weights.path)
    wrapper = exporter.build_wrappers(reference)[tower]
    spoil(wrapper)
    onehot = torch.zeros(2, 1, 77)
    onehot[:, :, 5] = 1.0
    inputs = (
        {"pixel_values": torch.rand(2, 3, 32, 32)}
        if tower == "image"
        else {"input_ids": torch.ones(2, 77, dtype=torch.int64), "eot_onehot": onehot}
    )
    path = folder.with_name(f"{tower}.fp32.onnx")
    onnx_file.write_tower(wrapper, inputs, path, opset=20)
    return rewritten(patient.bundle, folder, files={path.name: path.read_bytes()})


def _first_and_all(result: Result) -> tuple[str, set[str]]:
    assert not result.passed
    return result.failed[0].stage, {finding.stage for finding in result.failed}


def test_right_bundle_passes(patient: Patient) -> None:
    """The control: without an error every stage passes, and the compatibility is yes and no."""
    result = patient.measure(patient.bundle)

    assert [str(finding) for finding in result.failed] == []
    compatibilities = {
        compatibility.activation: compatibility.may_share
        for compatibility in result.record.compatibilities
    }
    assert compatibilities == {"quick_gelu": True, "gelu": False}


def test_wrong_mean(patient: Patient, tmp_path: Path) -> None:
    """ImageNet's mean in place of CLIP's: the pixels."""
    wrong = _wrong_recipe(patient.bundle, tmp_path / "m", mean=(0.485, 0.456, 0.406))

    first, failed = _first_and_all(patient.measure(wrong))

    assert first == "pixels"
    assert failed - FAILED_ENDS == {"pixels"}


def test_bilinear(patient: Patient, tmp_path: Path) -> None:
    """Resized with the other filter: the crops."""
    wrong = _wrong_recipe(patient.bundle, tmp_path / "m", interpolation="bilinear")

    first, failed = _first_and_all(patient.measure(wrong))

    assert first == "crops"
    assert failed - FAILED_ENDS == {"crops"}


def test_crop_off_by_one(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves rounded down, as in most re-implementations: the crops, a quarter of which differ."""
    monkeypatch.setattr(resizing, "_centred", lambda side, target: (side - target) // 2)

    result = patient.measure(patient.bundle)

    first, failed = _first_and_all(result)
    assert first == "crops"
    assert failed - FAILED_ENDS == {"crops"}
    assert 0 < result.failed[0].figure < len(patient.samples.pictures) / 2


def test_blue_and_red_swapped(patient: Patient, tmp_path: Path) -> None:
    """A graph that takes its channels as BGR: the image tower."""
    model = onnx.load(patient.bundle.graph("image", "fp32"))
    (kernel,) = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    swapped = np.ascontiguousarray(numpy_helper.to_array(kernel)[:, ::-1])
    kernel.CopyFrom(numpy_helper.from_array(swapped, kernel.name))
    files = {"image.fp32.onnx": model.SerializeToString()}
    wrong = rewritten(patient.bundle, tmp_path / "m", files=files)

    first, failed = _first_and_all(patient.measure(wrong))

    assert first == "image fp32 on cpu"
    assert failed - FAILED_ENDS == {"image fp32 on cpu"}


def test_gelu_for_quick_gelu(patient: Patient, tmp_path: Path) -> None:
    """The text tower computes with GELU, as open_clip does by default: the text tower."""

    def spoil(tower: Any) -> None:
        for block in tower.blocks:
            block.mlp.activation = nn.GELU()

    wrong = _exported_again(patient, tmp_path / "m", "text", spoil)

    first, failed = _first_and_all(patient.measure(wrong))

    assert first == "text fp32 on cpu"
    assert failed - FAILED_ENDS == {"text fp32 on cpu"}


def test_missing_end_of_text(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime forgets the last token of every text: the tokens."""
    honest = Tokenizer.encode
    end = patient.bundle.manifest.tokenizer.end_id

    def forgetful(self: Tokenizer, texts: Any) -> Any:
        ids, onehot = honest(self, texts)
        ids[ids == end] = 0
        return ids, onehot

    monkeypatch.setattr(Tokenizer, "encode", forgetful)

    result = patient.measure(patient.bundle)

    first, failed = _first_and_all(result)
    assert first == "tokens"
    assert result.failed[0].figure == len(patient.samples.texts)
    assert failed - FAILED_ENDS == {"tokens"}


def test_unscaled_query(patient: Patient, tmp_path: Path) -> None:
    """Attention without its 1 / sqrt(head width): the image tower."""

    def spoil(tower: Any) -> None:
        for block in tower.blocks:
            head = block.attention.width // block.attention.heads
            block.attention.query.weight.data *= math.sqrt(head)
            block.attention.query.bias.data *= math.sqrt(head)

    wrong = _exported_again(patient, tmp_path / "m", "image", spoil)

    first, failed = _first_and_all(patient.measure(wrong))

    assert first == "image fp32 on cpu"
    assert failed - FAILED_ENDS == {"image fp32 on cpu"}


def test_swapped_text_mask(patient: Patient, tmp_path: Path) -> None:
    """Each word sees those after it and not those before it: the text tower.

    A text's vector then depends on how long its neighbours are, which shows in batches.
    """

    def spoil(tower: Any) -> None:
        mask = tower.blocks[0].attention.mask  # that of all blocks
        mask.data = mask.data.transpose(-1, -2).contiguous()

    wrong = _exported_again(patient, tmp_path / "m", "text", spoil)

    first, failed = _first_and_all(patient.measure(wrong))

    assert first == "text fp32 on cpu"
    assert failed - FAILED_ENDS == {"text fp32 on cpu", "text fp32 on cpu, in batches"}
