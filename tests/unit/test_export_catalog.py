"""Which model is meant: rules over names and configurations, without torch."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from warmclip_export import catalog
from warmclip_export.catalog import (
    activation_question,
    decide_activation,
    explain_unknown,
    find_on_hub,
    find_tokenizer,
    resolve_model,
    unsupported_reason,
)
from warmclip_export.errors import ExportRefused
from warmclip_export.weights import explain_missing

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


def _written(folder: Path, name: str, content: object) -> str:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def _with(section: str, **values: object) -> dict[str, Any]:
    return {**TINY, section: {**TINY[section], **values}}


def _tokenizer_options(**options: object) -> dict[str, Any]:
    return _with(
        "text_cfg", hf_tokenizer_name="some/name", pool_type="last", tokenizer_kwargs=options
    )


def test_tag_trained_with_quick_gelu_decides_over_a_name_that_says_gelu() -> None:
    """ViT-B-32 with openai is computed as it was trained, and that is said aloud."""
    chosen = decide_activation(
        config_says=False, tag_says=True, asked=None, model="ViT-B-32", tag="openai"
    )

    assert chosen.quick_gelu
    assert "'openai'" in chosen.note
    assert "--no-quick-gelu" in chosen.note


def test_tag_trained_with_gelu_decides_over_a_name_that_says_quick_gelu() -> None:
    """The rule holds in the other direction, and names the other option."""
    chosen = decide_activation(config_says=True, tag_says=False, asked=None, model="m", tag="t")

    assert not chosen.quick_gelu
    assert "use --quick-gelu" in chosen.note


@pytest.mark.parametrize("says", [True, False])
def test_tag_and_name_that_agree_need_no_words(says: bool) -> None:
    """Nothing is said where nothing could be mistaken."""
    chosen = decide_activation(config_says=says, tag_says=says, asked=None)

    assert chosen == catalog.Activation(quick_gelu=says)


@pytest.mark.parametrize("says", [True, False])
def test_file_or_seed_leaves_the_choice_to_the_name(says: bool) -> None:
    """Without a tag the model's configuration decides."""
    chosen = decide_activation(config_says=says, tag_says=None, asked=None)

    assert chosen == catalog.Activation(quick_gelu=says)


@pytest.mark.parametrize("tag_says", [True, False, None])
@pytest.mark.parametrize("asked", [True, False])
def test_what_was_asked_for_wins(asked: bool, tag_says: bool | None) -> None:
    """--quick-gelu and --no-quick-gelu overrule tag and name; against the training, it is said."""
    chosen = decide_activation(config_says=False, tag_says=tag_says, asked=asked)

    assert chosen.quick_gelu is asked
    assert bool(chosen.note) is (asked is not bool(tag_says))


@pytest.mark.parametrize(
    ("config_says", "tags", "asks"),
    [
        (False, {}, False),
        (False, {"laion": False}, False),
        (False, {"openai": True}, True),
        (False, {"openai": True, "laion": False}, True),
        (True, {"openai": True}, False),
        (True, {"laion": False}, True),
    ],
)
def test_activation_of_a_file_is_asked_unless_there_is_one_answer(
    config_says: bool, tags: dict[str, bool], asks: bool
) -> None:
    """A file is ambiguous where a tag of the same model departs from the model's name."""
    question = activation_question("ViT-X", config_says=config_says, tags=tags)

    assert bool(question) is asks
    assert ("--quick-gelu" in question and "--no-quick-gelu" in question) is asks


def test_activation_flag_is_no_part_of_the_architecture(tmp_path: Path) -> None:
    """ViT-X-quickgelu, and ViT-X asked for QuickGELU, are one model with one fingerprint."""
    named = _written(tmp_path, "tiny-quickgelu.json", {**TINY, "quick_gelu": True})
    plain = _written(tmp_path, "tiny.json", TINY)

    by_name = resolve_model(named, "random:0")
    by_option = resolve_model(plain, "random:0", quick_gelu=True)

    assert by_name.activation.quick_gelu
    assert by_option.activation.quick_gelu
    assert by_name.architecture == by_option.architecture == TINY


def test_wrapped_configuration_brings_its_preprocessing(tmp_path: Path) -> None:
    """open_clip_config.json, as Hugging Face has it, is read with its mean."""
    wrapped = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}

    recipe = resolve_model(_written(tmp_path, "open_clip_config.json", wrapped), "random:3")

    assert recipe.architecture == TINY
    assert recipe.preprocess["mean"] == [0.5, 0.5, 0.5]
    assert recipe.weights.kind == "random"
    assert recipe.name == "open_clip_config-random-3"


def test_bundles_of_both_orders_of_conversion_lie_beside_each_other(tmp_path: Path) -> None:
    """Converting to RGB first is part of the folder's default name."""
    config = _written(tmp_path, "tiny.json", TINY)

    names = [resolve_model(config, "random:0", rgb_first=first).name for first in (False, True)]

    assert names == ["tiny-random-0", "tiny-random-0-rgb-first"]


def test_bundle_that_loads_truncated_pictures_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Beside one that refuses them, also together with the order of conversion."""
    config = _written(tmp_path, "tiny.json", TINY)

    recipe = resolve_model(config, "random:0", rgb_first=True, load_truncated=True)

    assert recipe.name == "tiny-random-0-rgb-first-load-truncated"
    assert recipe.load_truncated


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (_with("text_cfg", hf_model_name="x", hf_pooler_type="max_pooler"), "cannot compute"),
        (_with("text_cfg", tokenizer_mode="clips"), "appends a class token"),
        (_with("text_cfg", hf_tokenizer_name="bert-base"), "pools at the highest token"),
        (_tokenizer_options(language="fr"), r"does not know \(language\)"),
        (_tokenizer_options(clean="mine"), "clean = 'mine'"),
        (_with("vision_cfg", output_tokens=True), "returns tokens"),
        (_with("text_cfg", output_tokens=True), "returns tokens"),
        (_with("vision_cfg", attentional_pool="parallel"), "pool to one vector"),
        (_with("vision_cfg", pool_type="none"), "pool to one vector"),
        (_with("vision_cfg", qk_norm=True), "attention blocks"),
        (_with("text_cfg", scaled_cosine_attn=True), "attention blocks"),
        (_with("text_cfg", block_type="custom"), "attention blocks"),
        (_with("text_cfg", pool_type="none"), "pool to one vector"),
        (_with("text_cfg", use_pad_mask=True), "masks the padding"),
        (_with("text_cfg", pool_type="eos"), "ends with token 2"),
        (_with("text_cfg", embed_cls=True), "with custom_text only"),
        (_with("text_cfg", vocab_size=32000), "vocabulary of 32000"),
        (_with("vision_cfg", image_size=[224, 448]), "not square"),
    ],
)
def test_model_of_another_kind_is_refused_with_its_reason(
    config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """What cannot be re-expressed is refused before anything is built, saying why."""
    with pytest.raises(ExportRefused, match=reason):
        resolve_model(_written(tmp_path, "other.json", config), "random:0")


@pytest.mark.parametrize(
    ("text", "folder", "name", "cleaning"),
    [
        ({}, False, "", "lower"),
        ({"hf_tokenizer_name": "some/name"}, False, "some/name", "whitespace"),
        (
            {"hf_tokenizer_name": "some/name", "tokenizer_kwargs": {"clean": "canonicalize"}},
            False,
            "some/name",
            "canonicalize",
        ),
        ({"hf_tokenizer_name": "some/name"}, True, "FOLDER", "whitespace"),
    ],
)
def test_tokenizer_is_the_configurations_unless_a_folder_is_named(
    text: dict[str, Any], folder: bool, name: str, cleaning: str, tmp_path: Path
) -> None:
    """The name of the configuration holds, with open_clip's cleaning; --tokenizer overrules it."""
    found = find_tokenizer(text, str(tmp_path) if folder else "")

    assert found.name == (str(tmp_path) if name == "FOLDER" else name)
    assert found.cleaning == cleaning


def test_folder_of_a_tokenizer_has_to_be_one_that_is_needed(tmp_path: Path) -> None:
    """A folder that is not there, or that the model has no use for, is named."""
    with pytest.raises(ExportRefused, match="there is no such folder"):
        find_tokenizer({"hf_tokenizer_name": "some/name"}, str(tmp_path / "nothing"))
    with pytest.raises(ExportRefused, match="open_clip's own tokenizer"):
        find_tokenizer({}, str(tmp_path))


def test_folder_of_a_tokenizer_is_no_part_of_the_architecture(tmp_path: Path) -> None:
    """Where a tokenizer lies is no part of what a bundle says of the model, or of its space."""
    config = _with("text_cfg", hf_tokenizer_name=str(tmp_path), pool_type="last")

    recipe = resolve_model(_written(tmp_path, "own.json", config), "random:0")

    assert recipe.tokenizer.name == str(tmp_path)
    assert recipe.architecture["text_cfg"]["hf_tokenizer_name"] == tmp_path.name


def test_plain_model_is_not_refused() -> None:
    """A configuration of CLIP kind has nothing against it."""
    assert unsupported_reason(TINY) == ""


@pytest.mark.parametrize("content", ["{", "[]", '{"embed_dim": 3}'])
def test_file_that_is_no_configuration_is_refused(content: str, tmp_path: Path) -> None:
    """Broken or other JSON is named, with what is wrong."""
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(ExportRefused, match=r"broken\.json"):
        resolve_model(str(path), "random:0")


@pytest.mark.parametrize("seed", ["", "-1", "one", "4294967296", "٣"])
def test_seed_that_is_no_number_is_refused(seed: str, tmp_path: Path) -> None:
    """random:SEED takes whole numbers of 32 bits."""
    with pytest.raises(ExportRefused, match="whole number"):
        resolve_model(_written(tmp_path, "tiny.json", TINY), f"random:{seed}")


NAMES = ("RN50", "RN50x4", "ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("vit-b-32", "did you mean ViT-B-32"),
        ("ViT-L-14@336px", "did you mean ViT-L-14-336"),
        ("RN-50", "did you mean RN50"),
        ("./nope.pt", "--model ./nope.pt is no name of a model.*a checkpoint goes to --pretrained"),
        ("weights.CKPT", "a checkpoint goes to --pretrained"),
        ("SigLIP", "no model 'SigLIP'. A configuration"),
    ],
)
def test_unknown_model_names_what_may_have_been_meant(model: str, says: str) -> None:
    """A name that is near is suggested, and nothing where nothing is."""
    assert re.search(says, explain_unknown(model, NAMES))


@pytest.mark.parametrize(
    ("pretrained", "says", "silent"),
    [
        ("./nope.pt", "no file /.*/nope.pt", "openai"),
        ("nope.safetensors", "no file /.*/nope.safetensors", "openai"),
        ("~/nope", "no file /.*/nope", "openai"),
        ("/", "is a folder", "openai"),
        ("opnai", "did you mean 'openai'", "no file /"),
        ("laion2b-s34b", "did you mean 'laion2b_s34b_b79k'", "no file /"),
        ("anything", "Its tags: openai, laion2b_s34b_b79k", "did you mean"),
    ],
)
def test_missing_weights_are_told_by_what_they_look_like(
    pretrained: str, says: str, silent: str
) -> None:
    """A path is answered as a path, a word as a tag."""
    answer = explain_missing(pretrained, "ViT-B-32", ["openai", "laion2b_s34b_b79k"])

    assert re.search(says, answer)
    assert silent not in answer


@pytest.mark.parametrize(
    ("model", "pretrained", "found"),
    [
        ("hf-hub:timm/ViT-B-16-SigLIP2", "", ("ViT-B-16-SigLIP2", "webli")),
        ("hf-hub:timm/vit-b-16-siglip2/", "", ("ViT-B-16-SigLIP2", "webli")),
        ("hf-hub:timm/ViT-B-16-SigLIP2", "random:3", ("ViT-B-16-SigLIP2", "random:3")),
        ("hf-hub:timm/two", "", ("ViT-B-32", "openai")),  # the first that has its weights there
    ],
)
def test_repository_stands_for_a_model_and_its_weights(
    model: str, pretrained: str, found: tuple[str, str]
) -> None:
    """open_clip's hf-hub: names lead to the tag whose weights lie there, unless others are said."""
    repositories = {
        ("ViT-B-32", "openai"): "timm/two",
        ("ViT-B-32-quickgelu", "openai"): "timm/two",
        ("ViT-B-16-SigLIP2", "webli"): "timm/ViT-B-16-SigLIP2",
    }

    assert find_on_hub(model, pretrained, repositories) == found


def test_repository_without_a_tag_is_refused_with_the_way_out() -> None:
    """Whoever names a repository of their own is told which of its files to name."""
    with pytest.raises(ExportRefused, match=r"lie in me/mine.*open_clip_config\.json --pretrained"):
        find_on_hub("hf-hub:me/mine", "", {("ViT-B-32", "openai"): "timm/two"})
