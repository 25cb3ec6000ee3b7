"""Text towers of Hugging Face, from a local folder with their configuration to vectors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_models import TINY_COCA, TINY_TEXT_MODELS, TINY_VIT, write_text_model, written
from tiny_tokenizers import write_tokenizer
from warmclip import Encoder
from warmclip.inference.arrays import unit_rows
from warmclip.inference.bundle import MANIFEST
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip_export import exporter, graph, registry
from warmclip_export.architecture import build_model, find_text_folder
from warmclip_export.catalog import TokenizerSource, resolve_model
from warmclip_export.checkpoint import load_checkpoint
from warmclip_export.coreml.lint import lint_graph
from warmclip_export.errors import ExportRefused, WeightsUnavailable
from warmclip_export.hf_tokenizer import open_hf_tokenizer
from warmclip_export.onnx_file import write_tower
from warmclip_export.parity.gate import Feeds
from warmclip_export.reference import Reference
from warmclip_export.samples import SENTENCES

TOKENIZERS = {"mt5": "t5", "m2m_100": "nllb"}
# Longer than the tower, with padding in the middle, and with nothing but padding and ends.
TEXTS = ["a cat", "word " * 100, "a <pad> cat [PAD] sits <pad>", "<pad><pad>", "", *SENTENCES[5:12]]


def _model(kind: str, folder: Path, **text: object) -> str:
    """The path of a model's configuration, whose text tower and tokenizer lie in a folder."""
    files = folder / "text"
    config = write_text_model(kind, files)
    write_tokenizer(TOKENIZERS.get(kind, kind), files)
    write_text_model(kind, files)  # which the tokenizer's class may write as well
    config["text_cfg"] |= {"hf_tokenizer_name": str(files), **text}
    return written(folder, "model", config)


def _reference(model: str) -> Reference:
    """A model none of whose parameters has a value that hides an error, such as 0 or 1."""
    reference = Reference.build(resolve_model(model, "random:7"), None)
    generator = torch.Generator().manual_seed(7)
    for tensor in reference.model.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
        elif tensor.ndim > 1:  # drawn by transformers, they would tell no texts apart
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
    return reference


@pytest.mark.parametrize("kind", TINY_TEXT_MODELS)
def test_tower_is_exported_faithfully_and_in_one_piece(kind: str, tmp_path: Path) -> None:
    """The file gives open_clip's vectors at every batch size, and CoreML takes it as one."""
    reference = _reference(_model(kind, tmp_path))
    ids = reference.token_ids(TEXTS)
    feeds: Feeds = {"input_ids": ids, "eot_onehot": reference.eot_onehot(ids)}
    inputs = {name: torch.from_numpy(array[:2]) for name, array in feeds.items()}
    expected = unit_rows(reference.text_features(ids), 32)
    tower = graph.build_text_tower(reference.text_parts)
    path = tmp_path / "text.onnx"

    write_tower(tower, inputs, path, graph.required_opset(tower))
    half = tmp_path / "half.onnx"
    write_tower(graph.to_fp16(tower), inputs, half, graph.required_opset(tower))

    assert np.ptp(expected, axis=0).max() > 0.01  # the tower tells texts apart
    session = OnnxSession(path, find_provider("cpu"))
    for batch in (1, len(TEXTS)):
        vectors = unit_rows(session.run({name: it[:batch] for name, it in feeds.items()}), 32)
        assert np.abs(vectors - expected[:batch]).max() <= 1e-5
    halves = unit_rows(OnnxSession(half, find_provider("cpu")).run(feeds), 32)
    assert (halves * expected).sum(axis=1).min() >= 0.999
    for file in (path, half):
        (placement,) = lint_graph(file, (8,), ids.shape[1])
        assert placement.is_whole, (file.name, str(placement), placement.findings[:3])


def test_bundle_gives_open_clips_vectors(tmp_path: Path) -> None:
    """A whole export by the folder's name on the command line: gate, tokenizer, golden vectors."""
    model = _model("xlm-roberta", tmp_path / "made")
    config = json.loads(Path(model).read_text("utf-8"))
    config["text_cfg"] |= {"hf_model_name": "some/name", "hf_tokenizer_name": "some/name"}
    recipe = resolve_model(
        written(tmp_path, "named", config), "random:5", tokenizer=str(tmp_path / "made" / "text")
    )

    exported = exporter.export_model(recipe, tmp_path / "b", force=False, step=lambda _: None)

    reference = Reference.build(recipe, None)
    texts = Encoder.open(tmp_path / "b", provider="cpu").encode_texts(TEXTS)
    expected = reference.text_features(reference.token_ids(TEXTS))
    np.testing.assert_allclose(texts, unit_rows(expected, 32), atol=1e-5)
    architecture = exported.bundle.manifest.architecture
    assert architecture["text_cfg"]["hf_model_name"] == "some/name"
    assert architecture["hf_text_cfg"]["num_attention_heads"] == 4
    assert exported.notes == ()
    whole = (tmp_path / "b" / MANIFEST).read_text(encoding="utf-8")
    assert str(tmp_path) not in whole


def test_heads_are_part_of_the_space(tmp_path: Path) -> None:
    """What no tensor shows, such as the number of heads, is what a bundle says of its model."""
    found = []
    for heads in (4, 2):
        model = _model("bert", tmp_path / str(heads))
        file = tmp_path / str(heads) / "text" / "config.json"
        config = json.loads(file.read_text("utf-8")) | {"num_attention_heads": heads}
        file.write_text(json.dumps(config), "utf-8")
        found.append(Reference.build(resolve_model(model, "random:1"), None))

    assert found[0].tensors_sha256() == found[1].tensors_sha256()
    assert found[0].text_settings() != found[1].text_settings()


def test_checkpoint_of_older_transformers_is_loaded(tmp_path: Path) -> None:
    """The numbers of positions that they stored beside the weights are passed by."""
    model = _model("roberta", tmp_path)
    reference = Reference.build(resolve_model(model, "random:1"), None)
    state = dict(reference.model.state_dict())
    state["text.transformer.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(state, tmp_path / "old.pt")
    other = Reference.build(resolve_model(model, "random:2"), None)

    load_checkpoint(other.model, tmp_path / "old.pt")

    assert other.tensors_sha256() == reference.tensors_sha256()


def test_configuration_out_of_reach_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network one sentence says what is missing and where to get it; a list asks none."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = write_text_model("bert", tmp_path / "text")
    config["text_cfg"]["hf_model_name"] = "nobody/nothing"
    recipe = resolve_model(written(tmp_path, "model", config), "random:1")

    with pytest.raises(WeightsUnavailable, match=r"config\.json of 'nobody/nothing'.*--tokenizer"):
        exporter.export_model(recipe, tmp_path / "b", force=False, step=print)
    assert registry.describe_model("xlm-roberta-base-ViT-B-32", sized=True).weights == {}


def _of_another_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")


def _of_no_kind(folder: Path) -> None:
    (folder / "config.json").write_text("{}", "utf-8")


def _missing(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_of_another_kind, r"of the kind 'gpt2' .*config\.json.*open_clip has bert, roberta"),
        (_of_no_kind, r"of the kind 'None' .*config\.json"),
        (_missing, r"cannot read the text tower's .*config\.json"),
    ],
)
def test_folder_without_a_tower_of_a_known_kind_is_refused(
    spoil: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    """What the folder lacks is said with the file's name."""
    model = _model("bert", tmp_path)
    spoil(tmp_path / "text")

    with pytest.raises(ExportRefused, match=says):
        Reference.build(resolve_model(model, "random:1"), None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 100_000}, "num_hidden_layers = 100000; it is .* up to 200"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1; it is a whole number"),
        ({"hidden_size": "huge"}, "hidden_size = 'huge'; it is a whole number"),
        ({"num_attention_heads": 0.5}, "num_attention_heads = 0.5; it is a whole number"),
        ({"num_labels": 10**9}, "num_labels = 1000000000; it is .* up to 10,000"),
        ({"hidden_size": 16_384, "vocab_size": 2_000_000}, "35 billion parameters; up to 10"),
        ({"dtype": "float16"}, "dtype = 'float16', and a tower is exported with float32"),
        ({"torch_dtype": ["x"] * 99}, "torch_dtype = .*exported with float32"),
        ({"attn_implementation": "flash_attention_2"}, "exported with eager, sdpa: change that"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = .*with left out"),
    ],
)
def test_configuration_beyond_bounds_is_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """It may come from anywhere: nothing is built of it that no model has, and a line says why."""
    write_text_model("bert", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")

    with pytest.raises(ExportRefused, match=says):
        find_text_folder(str(tmp_path))


def test_configuration_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    """What transformers says of it is one line, and no traceback."""
    write_text_model("bert", tmp_path)
    file = tmp_path / "config.json"
    changes = {"hidden_act": "no such function", "num_attention_heads": 0}
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")
    config = {**TINY_VIT, "text_cfg": {"hf_model_name": str(tmp_path), "context_length": 20}}

    with pytest.raises(ExportRefused, match="open_clip cannot build such a model"):
        build_model(config, str(tmp_path))


def test_code_in_the_folder_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers yes to all questions at a terminal has not asked for that either."""
    ran = tmp_path / "ran"
    (tmp_path / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    auto_map = {"AutoConfig": "theirs.Configuration", "AutoTokenizer": ["theirs.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        text = json.dumps({"model_type": "theirs", "auto_map": auto_map})
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(ExportRefused, match="of the kind 'theirs'"):
        find_text_folder(str(tmp_path))
    with pytest.raises(ExportRefused, match="cannot read the tokenizer"):
        open_hf_tokenizer(TokenizerSource(name=str(tmp_path)), 16)
    assert not ran.exists()


def test_tower_without_a_projection_is_refused(tmp_path: Path) -> None:
    """open_clip builds such a model, and cannot compute it."""
    model = _model("bert", tmp_path, hf_proj_type=None)
    config: dict[str, Any] = json.loads(Path(model).read_text("utf-8")) | {"embed_dim": 24}

    with pytest.raises(ExportRefused, match="lacks the projection"):
        Reference.build(resolve_model(written(tmp_path, "other", config), "random:1"), None)


def test_coca_is_exported_without_its_decoder(tmp_path: Path) -> None:
    """CoCa's vectors are open_clip's, the decoder decides none of them, and CoreML takes both."""
    recipe = resolve_model(written(tmp_path, "coca", TINY_COCA), "random:5")
    reference = Reference.build(recipe, None)
    digest = reference.tensors_sha256()
    for name, tensor in reference.model.state_dict().items():
        if name.startswith("text_decoder."):
            tensor.zero_()

    exported = exporter.export_model(recipe, tmp_path / "b", force=False, step=lambda _: None)

    assert exported.bundle.manifest.tensors_sha256 == digest == reference.tensors_sha256()
    texts = [*TEXTS, "!? what!?"]
    vectors = Encoder.open(tmp_path / "b", provider="cpu").encode_texts(texts)
    expected = reference.text_features(reference.token_ids(texts))
    np.testing.assert_allclose(vectors, unit_rows(expected, 32), atol=1e-5)
    assert exported.notes == ()


def test_coca_takes_its_texts_from_hugging_face_too(tmp_path: Path) -> None:
    """coca_roberta's text tower, which returns tokens beside its vector."""
    config = json.loads(Path(_model("roberta", tmp_path, output_tokens=True)).read_text("utf-8"))
    config["vision_cfg"]["output_tokens"] = True
    config["multimodal_cfg"] = TINY_COCA["multimodal_cfg"]
    reference = _reference(written(tmp_path, "coca", config))
    ids = torch.from_numpy(reference.token_ids(TEXTS))

    tower = graph.build_text_tower(reference.text_parts)
    with torch.inference_mode():
        features = tower(ids, torch.from_numpy(reference.eot_onehot(ids.numpy())))

    expected = unit_rows(reference.text_features(ids.numpy()), 32)
    assert np.abs(unit_rows(features.numpy(), 32) - expected).max() <= 1e-5
