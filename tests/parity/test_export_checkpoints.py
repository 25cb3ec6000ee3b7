"""Where weights may come from, and what becomes of files that are none."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.factory import get_model_config
from PIL import Image
from safetensors.torch import save_file

from tiny_models import TINY_RESNET, TINY_VIT, written
from warmclip_export.catalog import resolve_model, unsupported_reason
from warmclip_export.errors import ExportRefused
from warmclip_export.reference import Reference


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


def test_torchscript_archive_is_refused_by_its_name(trained: Path, tmp_path: Path) -> None:
    """OpenAI's own .pt files are programs; the message says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files still about
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "jit.pt"))

        with pytest.raises(ExportRefused, match="TorchScript"):
            _load_file(trained, tmp_path / "jit.pt")


def test_missing_file_is_told_from_a_tag(trained: Path) -> None:
    """A path that is not there is refused with the tags that are."""
    with pytest.raises(ExportRefused, match=r"neither a file nor a tag of ViT-B-32 .*laion2b"):
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
    """All of open_clip's configurations are judged; the classic ones are taken."""
    reasons = {name: unsupported_reason(get_model_config(name)) for name in open_clip.list_models()}

    taken = {name for name, reason in reasons.items() if not reason}
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14-336", "RN50", "RN101", "ViT-B-32-quickgelu"} <= taken
    assert "CoCa" in reasons["coca_ViT-B-32"]
    assert "timm" in reasons["convnext_base"]


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
