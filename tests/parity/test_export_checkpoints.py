"""Where weights may come from, and what becomes of files that are none."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import open_clip
import pytest
import torch
from open_clip.factory import get_model_config
from PIL import Image
from safetensors.torch import save_file

from tiny_models import TINY_RESNET, TINY_VIT, written
from warmclip_export.catalog import resolve_model, unsupported_reason
from warmclip_export.checkpoint import shared_prefix
from warmclip_export.errors import ExportRefused
from warmclip_export.reference import Reference

State: TypeAlias = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model's configuration and its weights in every format."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = resolve_model(written(folder, "tiny", TINY_VIT), "random:11")
    state = Reference.build(recipe, None).model.state_dict()
    torch.save(state, folder / "plain.bin")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
        folder / "training.pt",
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "safe.safetensors"
    )
    return folder


def _load(folder: Path, name: str) -> Reference:
    recipe = resolve_model(str(folder / "tiny.json"), str(folder / name))
    return Reference.build(recipe, recipe.weights.path)


def test_checkpoint_formats_give_one_fingerprint(trained: Path) -> None:
    """.bin, a training checkpoint .pt and .safetensors are the same weights, and so is the seed."""
    digests = {
        _load(trained, name).tensors_sha256()
        for name in ("plain.bin", "training.pt", "safe.safetensors")
    }
    seeded = Reference.build(resolve_model(str(trained / "tiny.json"), "random:11"), None)

    assert digests == {seeded.tensors_sha256()}


def test_half_precision_checkpoint_is_its_own_weights(trained: Path, tmp_path: Path) -> None:
    """Rounded weights are other weights: the digest is over the numbers that are computed with."""
    state = torch.load(trained / "plain.bin", weights_only=True)
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pt")
    recipe = resolve_model(str(trained / "tiny.json"), str(tmp_path / "half.pt"))

    rounded = Reference.build(recipe, recipe.weights.path)

    assert rounded.tensors_sha256() != _load(trained, "plain.bin").tensors_sha256()
    assert rounded.image_features(np.zeros((1, 3, 32, 32), np.float32)).dtype == np.float32


def test_seed_decides_the_random_weights(trained: Path) -> None:
    """One seed gives one model, whatever was drawn before; another seed another."""
    config = str(trained / "tiny.json")
    torch.manual_seed(99)
    first = Reference.build(resolve_model(config, "random:1"), None).tensors_sha256()
    torch.rand(10)
    again = Reference.build(resolve_model(config, "random:1"), None).tensors_sha256()
    other = Reference.build(resolve_model(config, "random:2"), None).tensors_sha256()

    assert first == again != other


@pytest.mark.parametrize("config", [TINY_VIT, {**TINY_VIT, "quick_gelu": True}, TINY_RESNET])
def test_reference_is_what_open_clip_s_users_run(config: dict[str, object], tmp_path: Path) -> None:
    """Pixels, tokens and features equal those of create_model_and_transforms."""
    recipe = resolve_model(written(tmp_path, "tiny", config), "random:4")
    reference = Reference.build(recipe, None)
    written(tmp_path, "open_clip_config", {"model_cfg": config, "preprocess_cfg": {}})
    state = reference.model.state_dict()
    save_file(
        {k: v.contiguous() for k, v in state.items()}, tmp_path / "open_clip_model.safetensors"
    )
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    picture = Image.effect_noise((90, 60), 64)
    text = "Two Cats &amp; a dog"
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")([text])

    pixels = reference.pixels([picture])

    assert np.array_equal(pixels[0], transform(picture).numpy())
    assert np.array_equal(reference.token_ids([text]), ids.numpy())
    with torch.inference_mode():
        image = model.eval().encode_image(torch.from_numpy(pixels)).numpy()
        said = model.encode_text(ids).numpy()
    assert np.abs(image - reference.image_features(pixels)).max() <= 1e-6
    assert np.abs(said - reference.text_features(ids.numpy())).max() <= 1e-6


class _Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_checkpoint_that_carries_code_is_refused_and_not_run(trained: Path, tmp_path: Path) -> None:
    """A pickle that calls a function is refused, and the function is not called."""
    path = tmp_path / "bomb.pt"
    path.write_bytes(pickle.dumps({"visual.proj": _Bomb(tmp_path / "boom")}, protocol=2))
    with pytest.raises(ExportRefused, match=r"bomb\.pt"):
        _load_file(trained, path)

    assert not (tmp_path / "boom").exists()


def _load_file(trained: Path, path: Path) -> Reference:
    recipe = resolve_model(str(trained / "tiny.json"), str(path))
    return Reference.build(recipe, recipe.weights.path)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut"])
def test_file_that_is_no_checkpoint_is_refused(
    trained: Path, tmp_path: Path, suffix: str, content: bytes
) -> None:
    """Rubbish under a checkpoint's name is named, with what is wrong."""
    path = tmp_path / f"rubbish{suffix}"
    path.write_bytes(content)

    with pytest.raises(ExportRefused, match=r"cannot load the checkpoint .*rubbish"):
        _load_file(trained, path)


@pytest.mark.parametrize("name", ["plain.bin", "safe.safetensors"])
def test_truncated_checkpoint_is_refused(trained: Path, tmp_path: Path, name: str) -> None:
    """A download that was cut short is named."""
    content = (trained / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) // 2])

    with pytest.raises(ExportRefused, match="cannot load the checkpoint"):
        _load_file(trained, path)


def _without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {other: tensor for other, tensor in state.items() if other != name}


@pytest.mark.parametrize(
    "name",
    [
        "visual.proj",
        "visual.transformer.resblocks.1.mlp.c_proj.bias",
        "token_embedding.weight",
        "transformer.resblocks.0.attn.in_proj_weight",
        "text_projection",
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoint_that_lacks_a_tensor_is_refused(
    trained: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    """A tensor that is missing would stay random, in the reference as well: it is named."""
    state = _without(torch.load(trained / "plain.bin", weights_only=True), name)
    path = tmp_path / f"lacking{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)

    with pytest.raises(ExportRefused, match=rf"lacking.*{re.escape(name)}"):
        _load_file(trained, path)


def test_checkpoint_with_a_tensor_too_many_is_refused(trained: Path, tmp_path: Path) -> None:
    """A tensor that the configuration has no place for is of another model: it is named."""
    state = torch.load(trained / "plain.bin", weights_only=True)
    torch.save(state | {"visual.head.weight": torch.zeros(2, 2)}, tmp_path / "more.pt")

    with pytest.raises(ExportRefused, match=r"more\.pt.*visual\.head\.weight"):
        _load_file(trained, tmp_path / "more.pt")


def test_checkpoint_is_loaded_whole(trained: Path) -> None:
    """Both towers compute exactly what the model computes whose weights were saved."""
    pixels = np.linspace(-1, 1, 2 * 3 * 32 * 32, dtype=np.float32).reshape(2, 3, 32, 32)
    loaded = _load(trained, "plain.bin")
    seeded = Reference.build(resolve_model(str(trained / "tiny.json"), "random:11"), None)
    ids = loaded.token_ids(["a red star", "two cats"])

    np.testing.assert_array_equal(loaded.image_features(pixels), seeded.image_features(pixels))
    np.testing.assert_array_equal(loaded.text_features(ids), seeded.text_features(ids))


def test_another_model_s_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    """Weights that do not fit the configuration are refused, not half loaded."""
    other = Reference.build(resolve_model(written(tmp_path, "rn", TINY_RESNET), "random:0"), None)
    torch.save(other.model.state_dict(), tmp_path / "rn.pt")

    with pytest.raises(ExportRefused, match=r"rn\.pt"):
        _load_file(trained, tmp_path / "rn.pt")


OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")


class _Archive(torch.nn.Module):
    """A model with the sizes that OpenAI's archives hold among their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        for name in OPENAI_SIZES:
            self.register_buffer(name, torch.tensor(77))


def test_torchscript_archive_is_refused_with_the_call_that_saves_its_tensors(
    trained: Path, tmp_path: Path
) -> None:
    """OpenAI's own .pt files are programs; the message's call makes a file of their tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files still about
        torch.jit.save(torch.jit.script(_Archive()), str(tmp_path / "jit.pt"))

        with pytest.raises(ExportRefused, match="TorchScript") as refused:
            _load_file(trained, tmp_path / "jit.pt")
    call = re.search(r"torch\.save\(.*'weights\.pt'\)", str(refused.value))
    assert call is not None

    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"FILE = 'jit.pt'; import torch; {call[0]}"],
        cwd=tmp_path,
        timeout=60,
        check=True,
    )

    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert saved.keys() == {"layer.weight", "layer.bias", *OPENAI_SIZES}


def _renamed(prefix: str) -> Callable[[State], object]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain.PT", dict),
        ("sizes.pt", lambda state: state | {name: torch.tensor(77) for name in OPENAI_SIZES}),
        ("parallel.pth", _renamed("module.")),
        ("compiled.pt", _renamed("_orig_mod.")),
        ("both.pt", _renamed("module._orig_mod.")),
        ("lightning.ckpt", lambda state: {"epoch": 1, "state_dict": _renamed("model.")(state)}),
        ("trainer.bin", lambda state: {"model": state, "step": 7}),
    ],
)
def test_spellings_of_a_checkpoint_are_the_same_weights(
    trained: Path, tmp_path: Path, name: str, change: Callable[[State], object]
) -> None:
    """Wrappers' prefixes, a training run's record and OpenAI's sizes are no other model."""
    torch.save(change(torch.load(trained / "plain.bin", weights_only=True)), tmp_path / name)

    loaded = _load_file(trained, tmp_path / name)

    assert loaded.tensors_sha256() == _load(trained, "plain.bin").tensors_sha256()


def test_safetensors_is_told_by_its_suffix_in_any_case(trained: Path, tmp_path: Path) -> None:
    """A suffix in capitals is read like any other."""
    path = tmp_path / "SAFE.SAFETENSORS"
    path.write_bytes((trained / "safe.safetensors").read_bytes())

    loaded = _load_file(trained, path)

    assert loaded.tensors_sha256() == _load(trained, "plain.bin").tensors_sha256()


def test_tensors_with_different_prefixes_are_named(trained: Path, tmp_path: Path) -> None:
    """What stands beside the model in a training run is shown, not guessed away."""
    state = torch.load(trained / "plain.bin", weights_only=True)
    mixed = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save(mixed | {"loss.scale": torch.ones(1)}, tmp_path / "mixed.ckpt")

    with pytest.raises(ExportRefused, match=r"lacks .* and .*no place for model\."):
        _load_file(trained, tmp_path / "mixed.ckpt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"state_dict": {}, "epoch": 3}, "no tensors by name"),
        ([torch.ones(1)], "no tensors by name, but list"),
        ({"epoch": 3, "visual.proj": torch.ones(1)}, "epoch in it are no tensors"),
        ({"args": Namespace(lr=1), "visual.proj": torch.ones(1)}, r"it holds argparse\.Namespace"),
    ],
)
def test_file_of_something_else_is_refused_without_torch_s_advice(
    trained: Path, tmp_path: Path, content: object, says: str
) -> None:
    """Nobody is told to set weights_only=False, with which a file's code would run."""
    torch.save(content, tmp_path / "other.pt")

    with pytest.raises(ExportRefused, match=says) as refused:
        _load_file(trained, tmp_path / "other.pt")

    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        ((), ""),
        (("visual.proj", "ln_final.weight"), ""),
        (("module.a", "module.b"), "module."),
        (("module.model.a", "module.model._orig_mod.b"), "module.model."),
        (("model.a", "b"), ""),
        (("model.a", "module.b"), ""),
    ],
)
def test_prefix_is_what_every_name_begins_with(names: tuple[str, ...], prefix: str) -> None:
    """Only a prefix that all tensors share is a wrapper's."""
    assert shared_prefix(names) == prefix


def test_model_s_other_spelling_is_the_same_model() -> None:
    """ViT-B/32 and a tag with hyphens, as open_clip takes them, name the same bundle."""
    assert resolve_model("ViT-B/32", "laion2b-s34b-b79k") == resolve_model(
        "ViT-B-32", "laion2b_s34b_b79k"
    )


def test_missing_file_is_answered_as_a_file(trained: Path) -> None:
    """A path that is not there is no misspelt tag."""
    with pytest.raises(ExportRefused, match=r"no file .*missing\.pt$"):
        resolve_model("ViT-B-32", str(trained / "missing.pt"))


@pytest.mark.parametrize(
    ("model", "tag", "quick_gelu", "said"),
    [
        ("ViT-B-32", "openai", True, True),
        ("ViT-B-32-quickgelu", "openai", True, False),
        ("ViT-B-32", "laion2b_s34b_b79k", False, False),
        ("RN50", "openai", True, True),
    ],
)
def test_open_clip_s_own_tags_decide_the_activation(
    model: str, tag: str, quick_gelu: bool, said: bool
) -> None:
    """The rule, on open_clip's real table of tags."""
    recipe = resolve_model(model, tag)

    assert recipe.activation.quick_gelu is quick_gelu
    assert bool(recipe.activation.note) is said
    assert recipe.weights.kind == "tag"


@pytest.mark.parametrize(
    ("model", "asks"),
    [("ViT-B-32", True), ("RN50", True), ("ViT-B-32-quickgelu", False), ("ViT-g-14", False)],
)
def test_file_of_a_model_with_both_activations_must_say_which(
    trained: Path, model: str, asks: bool
) -> None:
    """No silent GELU: openai's own weights in a file were GELU vectors by default."""
    file = str(trained / "plain.bin")
    if not asks:
        assert resolve_model(model, file).activation.quick_gelu is model.endswith("quickgelu")
        return

    with pytest.raises(
        ExportRefused, match=r"plain\.bin .*--quick-gelu .*'openai'.*--no-quick-gelu"
    ):
        resolve_model(model, file)

    assert resolve_model(model, file, quick_gelu=True).activation.quick_gelu
    assert not resolve_model(model, file, quick_gelu=False).activation.quick_gelu


def test_name_and_option_agree_on_the_architecture() -> None:
    """ViT-B-32 and ViT-B-32-quickgelu with openai are one model, and so one fingerprint."""
    assert (
        resolve_model("ViT-B-32", "openai").architecture
        == resolve_model("ViT-B-32-quickgelu", "openai").architecture
    )


def test_every_model_of_open_clip_is_taken_or_refused_with_a_reason() -> None:
    """All of open_clip's configurations are judged by their kinds, and all kinds are taken."""
    reasons = {name: unsupported_reason(get_model_config(name)) for name in open_clip.list_models()}

    taken = {name for name, reason in reasons.items() if not reason}
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14-336", "RN50", "RN101", "ViT-B-32-quickgelu"} <= taken
    assert {"convnext_base", "ViT-B-16-SigLIP2-256", "EVA02-B-16", "MobileCLIP2-S2"} <= taken
    assert {"coca_ViT-B-32", "coca_base", "roberta-ViT-B-32", "nllb-clip-base-siglip"} <= taken
    assert len(taken) >= 144


def test_unknown_model_is_refused_with_its_neighbours() -> None:
    """A misspelt name is answered with names that are near."""
    with pytest.raises(ExportRefused, match=r"no model 'ViT-B-33'.*ViT-B-32"):
        resolve_model("ViT-B-33", "openai")


def test_tag_without_network_and_cache_is_one_paragraph(tmp_path: Path) -> None:
    """The command names the three ways on, ends with 3, quickly, and leaves nothing."""
    ended = subprocess.run(
        [sys.executable, "-m", "warmclip_export", "model", "--out", str(tmp_path / "models")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HOME": str(tmp_path),
            "HF_HOME": str(tmp_path / "hub"),
            "https_proxy": "http://127.0.0.1:9",  # the port that discards: nobody answers
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    assert "Retrying" not in ended.stderr
    error = next(line for line in ended.stderr.splitlines() if line.startswith("error:"))
    assert all(way in error for way in ("cache", "random:0"))
    assert "--model ViT-B-32 --pretrained FILE.safetensors --quick-gelu" in error
    assert not (tmp_path / "models").exists()
