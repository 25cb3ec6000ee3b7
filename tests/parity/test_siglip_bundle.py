"""A SigLIP model from its tokenizer and towers to vectors out of files and strings."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from tiny_models import TINY_SIGLIP, varied, written
from tiny_tokenizers import write_tokenizer
from warmclip import Encoder
from warmclip.inference.arrays import unit_rows
from warmclip.inference.bundle import MANIFEST, ModelBundle
from warmclip_export import exporter
from warmclip_export.catalog import Activation, ModelRecipe, resolve_model
from warmclip_export.reference import Reference
from warmclip_export.samples import load_samples


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> ModelRecipe:
    """SigLIP, small, with random weights and the preprocessing of its tags."""
    folder = tmp_path_factory.mktemp("siglip")
    where = write_tokenizer("t5", folder / "tokenizer")
    model = varied(TINY_SIGLIP, text_cfg={"hf_tokenizer_name": where})
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    return resolve_model(written(folder, "siglip", config), "random:5")


@pytest.fixture(scope="module")
def bundle(recipe: ModelRecipe, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Its bundle."""
    target = tmp_path_factory.mktemp("models") / "siglip"
    return exporter.export_model(recipe, target, force=False, step=lambda _: None).bundle


def test_vectors_are_those_of_open_clip(recipe: ModelRecipe, bundle: ModelBundle) -> None:
    """Pictures and texts of every kind give open_clip's vectors within 1e-5."""
    reference = Reference.build(recipe, None)
    samples = load_samples()
    files = []
    for picture in samples.pictures[:6]:
        stream = BytesIO()
        picture.save(stream, "PNG")
        files.append(stream.getvalue())

    encoder = Encoder.open(bundle.folder, provider="cpu")
    images, texts = encoder.encode_images(files), encoder.encode_texts(samples.strings)

    expected = reference.image_features(reference.pixels(samples.pictures[:6]))
    np.testing.assert_allclose(images, unit_rows(expected, encoder.dim), atol=1e-5)
    expected = reference.text_features(reference.token_ids(samples.strings))
    np.testing.assert_allclose(texts, unit_rows(expected, encoder.dim), atol=1e-5)


def test_other_activation_can_be_computed(recipe: ModelRecipe) -> None:
    """SigLIP 2's texts, with a GELU of a kind, can be compared with QuickGELU as any others."""
    gelu = Reference.build(recipe, None)
    quick = Reference.build(replace(recipe, activation=Activation(quick_gelu=True)), None)

    ids = gelu.token_ids(["a cat", "two dogs"])
    assert np.abs(gelu.text_features(ids) - quick.text_features(ids)).max() > 1e-4


def test_manifest_says_what_siglip_is(bundle: ModelBundle) -> None:
    """Tokenizer, pooling, preprocessing, and the scale and bias of the sigmoid stand in it."""
    manifest = bundle.manifest

    tokens = manifest.tokenizer
    assert (tokens.kind, tokens.cleaning, tokens.pool) == ("huggingface", "canonicalize", "last")
    assert (manifest.image.resize_mode, manifest.image.mean) == ("squash", (0.5, 0.5, 0.5))
    assert manifest.logits is not None
    assert manifest.logits.scale == pytest.approx(1 / 0.07)
    assert manifest.logits.bias == -10.0
    whole = (bundle.folder / MANIFEST).read_text(encoding="utf-8")
    assert str(bundle.folder.parent) not in whole  # nor any other path of this machine
    assert "/" not in manifest.architecture["text_cfg"]["hf_tokenizer_name"]


def test_graphs_are_whole_for_coreml(bundle: ModelBundle) -> None:
    """Both towers are one partition each, in both precisions."""
    certificate = json.loads(bundle.certificate().read_text(encoding="utf-8"))

    assert certificate["coreml"]["notes"] == []
    assert certificate["coreml"]["whole"]
