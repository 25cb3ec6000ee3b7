"""Which model is meant, where its weights come from, and whether it can become a bundle.

Everything here is decided from names and configurations, before a model is built; what a
configuration does not show, ``graph`` refuses, and the gate checks all the rest.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from warmclip_export.errors import ExportRefused
from warmclip_export.weights import WeightsSource, find_weights, is_path

Cleaning: TypeAlias = Literal["lower", "whitespace", "canonicalize"]
"""What is done to a text before it is encoded, in open_clip's words."""

_VOCABULARY = 49_408
_END_OF_TEXT = 49_407
_HUB = "hf-hub:"  # open_clip's word for a repository of Hugging Face
_NEAR = 0.75  # how alike two names are, of 1, to suggest one for the other

# What a section of open_clip's configuration may say, beside sizes, and why nothing else.
_BLOCKS = "its attention blocks are not open_clip's default ones"
_PLAIN_BLOCK: dict[str, tuple[tuple[Any, ...], str]] = {
    "block_type": ((None, "default"), _BLOCKS),
    "qk_norm": ((False,), _BLOCKS),
    "scaled_cosine_attn": ((False,), _BLOCKS),
    "scale_heads": ((False,), _BLOCKS),
    "scale_attn_inner": ((False,), _BLOCKS),
    "scale_attn": ((False,), _BLOCKS),
    "scale_fc": ((False,), _BLOCKS),
}
_IMAGE_RULES: dict[str, tuple[tuple[Any, ...], str]] = {
    "pool_type": (("tok", "avg"), "its image tower does not pool to one vector"),
    "attentional_pool": ((False, True), "its image tower does not pool to one vector"),
    **_PLAIN_BLOCK,
}
_TEXT_RULES: dict[str, tuple[tuple[Any, ...], str]] = {
    "hf_pooler_type": (
        (None, "mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"),
        "its text tower pools in a way that open_clip cannot compute",
    ),
    "tokenizer_mode": ((None, ""), "its tokenizer appends a class token"),
    "use_pad_mask": ((False,), "its text tower masks the padding"),
    "pool_type": (("argmax", "eos", "first", "last"), "its text tower does not pool to one vector"),
    **_PLAIN_BLOCK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """QuickGELU or GELU, and the sentence to say aloud when that is not what the name says."""

    quick_gelu: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSource:
    """Which tokenizer a model has.

    Attributes:
        name: a folder, or a name on Hugging Face; empty for open_clip's own.
        cleaning: what is done to a text first.
        options: those of open_clip's class, the cleaning among them.
    """

    name: str = ""
    cleaning: Cleaning = "lower"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecipe:
    """All that is needed to build one model.

    Attributes:
        name: what the bundle's folder is called by default.
        model: the model's name in open_clip, or of its configuration's file.
        architecture: open_clip's model configuration without its activation flag, JSON types.
        activation: QuickGELU or GELU.
        preprocess: what departs from open_clip's default preprocessing.
        weights: where the numbers come from.
        tokenizer: which one.
        text_model: of a text tower of Hugging Face, the name, or the folder of its configuration.
        name_says_quick_gelu: what open_clip computes with, if only asked for the model by name.
        rgb_first: whether pictures are converted to RGB before open_clip's transform has them.
        load_truncated: whether what is left of a picture that was cut off gets a vector.
    """

    name: str
    model: str
    architecture: dict[str, Any]
    activation: Activation
    preprocess: dict[str, Any]
    weights: WeightsSource
    name_says_quick_gelu: bool
    tokenizer: TokenizerSource = field(default_factory=TokenizerSource)
    text_model: str = ""
    rgb_first: bool = False
    load_truncated: bool = False

    @property
    def pretrained(self) -> str:
        """The weights as ``--pretrained`` takes them."""
        source = self.weights
        return f"random:{source.name}" if source.kind == "random" else source.name

    @property
    def matches(self) -> str:
        """Which vectors made by open_clip earlier lie in the space of such a bundle."""
        used, note = _activation_name(self.activation.quick_gelu), self.activation.note
        return f"{used}: equal to open_clip's own vectors computed with {used}" + (
            f" ({note})" if note else ""
        )

    @property
    def file_options(self) -> str:
        """The options that name a file instead of a tag, and lead to the same bundle."""
        activation = "--quick-gelu" if self.activation.quick_gelu else "--no-quick-gelu"
        return f"--model {self.model} --pretrained FILE.safetensors {activation}"

    def call(self, *, quick_gelu: bool) -> str:
        """The call of open_clip that computes with an activation; empty if there is none."""
        arguments = f"{Path(self.model).stem!r}, pretrained={self.pretrained!r}"
        if quick_gelu and not self.name_says_quick_gelu:
            arguments += ", force_quick_gelu=True"
        elif self.name_says_quick_gelu and not quick_gelu:
            return ""
        return f"open_clip.create_model({arguments})"


def resolve_model(
    model: str,
    pretrained: str,
    *,
    quick_gelu: bool | None = None,
    tokenizer: str = "",
    rgb_first: bool = False,
    load_truncated: bool = False,
) -> ModelRecipe:
    """Find the model and its weights' source; nothing is downloaded or loaded yet.

    Args:
        model: a name of open_clip, ``hf-hub:`` and a repository that has a tag's weights, or the
            path of a configuration in open_clip's JSON format.
        pretrained: a tag of that model, the path of a checkpoint, or ``random:SEED``; empty for
            the weights of the repository, or ``openai``.
        quick_gelu: the activation, if it shall not be the tag's or the configuration's own.
        tokenizer: the folder of its tokenizer, and of its text tower's configuration, if those
            shall not come from Hugging Face.
        rgb_first: whether pictures are converted to RGB before open_clip's transform has them.
        load_truncated: whether what is left of a picture that was cut off gets a vector.

    Raises:
        ExportRefused: the model or the weights are unknown, or warmclip cannot re-express them;
            or the activation of a file is not known, and was not said.
    """
    if model.startswith(_HUB):
        model, pretrained = find_on_hub(model, pretrained, _repositories())
    pretrained = pretrained or "openai"
    if not is_path(model) and Path(model).suffix != ".json":
        model = model.replace("/", "-")  # ViT-B/32, as open_clip takes it
    config, preprocess = _configuration(model)
    reason = unsupported_reason(config)
    if reason:
        raise ExportRefused(f"{model} cannot become a bundle: {reason}")
    source = find_tokenizer(config["text_cfg"], tokenizer)
    weights = find_weights(model, pretrained)
    if weights.kind == "file" and quick_gelu is None:
        _refuse_to_guess(model, pretrained, config_says=bool(config.get("quick_gelu", False)))
    tag_says = bool(weights.tag.get("quick_gelu", False)) if weights.kind == "tag" else None
    text_model = _find_text_model(config["text_cfg"], tokenizer)
    for key in ("hf_tokenizer_name", "hf_model_name"):  # where they lie decides no vector
        named = config["text_cfg"].get(key)
        if named and Path(named).is_dir():
            config["text_cfg"][key] = Path(named).name
    config_says = bool(config.pop("quick_gelu", False))
    activation = decide_activation(
        config_says=config_says,
        tag_says=tag_says,
        asked=quick_gelu,
        model=model,
        tag=weights.name,
    )
    return ModelRecipe(
        name=_folder_name(model, weights)
        + ("-rgb-first" if rgb_first else "")
        + ("-load-truncated" if load_truncated else ""),
        model=Path(model).name,
        architecture=config,
        activation=activation,
        preprocess={**preprocess, **weights.tag},
        weights=weights,
        name_says_quick_gelu=config_says,
        tokenizer=source,
        text_model=text_model,
        rgb_first=rgb_first,
        load_truncated=load_truncated,
    )


def find_tokenizer(text: Mapping[str, Any], folder: str = "") -> TokenizerSource:
    """The tokenizer that the text section of a configuration names.

    Args:
        text: the section.
        folder: where its files lie, if not where the configuration says.

    Raises:
        ExportRefused: there is no such folder, or nothing to find in it.
    """
    named, options = text.get("hf_tokenizer_name") or "", dict(text.get("tokenizer_kwargs") or {})
    if folder and not named:
        raise ExportRefused(
            f"--tokenizer {folder}: the model has open_clip's own tokenizer, which is installed"
        )
    if folder and not Path(folder).is_dir():
        raise ExportRefused(f"--tokenizer {folder}: there is no such folder")
    cleaning = options.get("clean", "whitespace" if named else "lower")
    return TokenizerSource(name=folder or named, cleaning=cleaning, options=options)


def decide_activation(
    *, config_says: bool, tag_says: bool | None, asked: bool | None, model: str = "", tag: str = ""
) -> Activation:
    """Choose between QuickGELU and GELU: what was asked for, else the tag's, else the model's.

    open_clip itself lets the model's name decide and only warns (mlfoundations/open_clip#771), so
    that weights trained with one activation are computed with the other.
    """
    if asked is not None:
        trained = config_says if tag_says is None else tag_says
        differs = asked != trained
        of = f"the tag {tag!r} was" if tag_says is not None else f"the configuration {model!r} is"
        note = (
            f"{_activation_name(asked)} as asked, though {of} made for {_activation_name(trained)}"
            if differs
            else ""
        )
        return Activation(quick_gelu=asked, note=note)
    if tag_says is None or tag_says == config_says:
        return Activation(quick_gelu=config_says)
    return Activation(
        quick_gelu=tag_says,
        note=f"{_activation_name(tag_says)}, with which the tag {tag!r} was trained; open_clip's "
        f"create_model({model!r}, {tag!r}) computes with {_activation_name(config_says)} and "
        f"only warns. For vectors equal to those, use --{'' if config_says else 'no-'}quick-gelu",
    )


def activation_question(model: str, *, config_says: bool, tags: Mapping[str, bool]) -> str:
    """What must be asked of a file whose activation is not known; empty if there is one answer.

    A checkpoint does not show its activation: QuickGELU has no tensors.

    Args:
        model: the model's name.
        config_says: whether the model's configuration computes with QuickGELU.
        tags: whether each of the model's tags was trained with QuickGELU.
    """
    if all(quick_gelu == config_says for quick_gelu in tags.values()):
        return ""
    sides = [
        f"{option} ({_activation_name(says)}, as {_a_few(names)})"
        for says, option in ((True, "--quick-gelu"), (False, "--no-quick-gelu"))
        for names in ([tag for tag, quick_gelu in tags.items() if quick_gelu == says],)
    ]
    return (
        f"the weights of {model} were trained with one of two activations: say {' or '.join(sides)}"
    )


def unsupported_reason(config: Mapping[str, Any]) -> str:
    """Why a configuration cannot become a bundle; empty if nothing in it speaks against it."""
    image, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" not in config and (image.get("output_tokens") or text.get("output_tokens")):
        return "it returns tokens beside its features (output_tokens = True)"
    if text.get("embed_cls") and not config.get("custom_text"):
        return "open_clip appends a class token to texts with custom_text only (embed_cls = True)"
    for section, rules in ((image, _IMAGE_RULES), (text, _TEXT_RULES)):
        for key, (allowed, reason) in rules.items():
            if key in section and section[key] not in allowed:
                return f"{reason} ({key} = {section[key]!r})"
    size = image.get("image_size", 224)
    if isinstance(size, list) and len(set(size)) != 1:
        return f"its images are not square (image_size = {size})"
    vocabulary = text.get("vocab_size", _VOCABULARY)
    if text.get("hf_tokenizer_name"):
        return _refused_hf_tokenizer(text)
    if vocabulary < _VOCABULARY:
        return f"its vocabulary of {vocabulary} is not open_clip's own, which has {_VOCABULARY}"
    if text.get("pool_type") == "eos" and text.get("eos_id", 2) != _END_OF_TEXT:
        return f"its text ends with token {text.get('eos_id', 2)}, not {_END_OF_TEXT}"
    return ""


def _find_text_model(text: Mapping[str, Any], folder: str) -> str:
    named: str = text.get("hf_model_name") or ""
    is_there = bool(folder) and (Path(folder) / "config.json").is_file()
    return folder if named and is_there else named


def _refused_hf_tokenizer(text: Mapping[str, Any]) -> str:
    options = text.get("tokenizer_kwargs") or {}
    odd = sorted(options.keys() - {"clean", "strip_sep_token"})
    if odd:
        return f"it changes options of its tokenizer that warmclip does not know ({', '.join(odd)})"
    if options.get("clean", "whitespace") not in get_args(Cleaning):
        return f"its tokenizer cleans texts in a way of its own (clean = {options['clean']!r})"
    pools = text.get("pool_type", "argmax")
    if pools == "argmax" and not (text.get("hf_model_name") or text.get("embed_cls")):
        return "its text tower pools at the highest token, which says nothing in its vocabulary"
    return ""


def explain_unknown(model: str, names: Sequence[str]) -> str:
    """Why there is no such model, and which may have been meant."""
    own = "A configuration of your own is named by its path, ending in .json"
    if is_path(model):
        return f"--model {model} is no name of a model. {own}; a checkpoint goes to --pretrained"
    folded = {name.lower(): name for name in names}
    asked = model.lower().replace("@", "-").removesuffix("px")
    near = [folded[each] for each in get_close_matches(asked, folded, 3, _NEAR)]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"open_clip has no model {model!r}{hint} {own}"


def find_on_hub(
    model: str, pretrained: str, repositories: Mapping[tuple[str, str], str]
) -> tuple[str, str]:
    """The model, and the weights, that a repository of Hugging Face stands for.

    Args:
        model: ``hf-hub:`` and the repository.
        pretrained: other weights for the same model; empty for its own.
        repositories: where the weights of each model and tag lie.

    Raises:
        ExportRefused: the repository has the weights of no tag.
    """
    wanted = model.removeprefix(_HUB).strip("/")
    for (name, tag), repository in repositories.items():
        if repository.lower() == wanted.lower():
            return name, pretrained or tag
    raise ExportRefused(
        f"--model {model}: open_clip has no tag whose weights lie in {wanted}. Download its "
        "open_clip_config.json and its weights, and name them: --model open_clip_config.json "
        "--pretrained open_clip_model.safetensors"
    )


def _repositories() -> dict[tuple[str, str], str]:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    return {
        (model, tag): str(get_pretrained_cfg(model, tag).get("hf_hub", "")).rpartition("/")[0]
        for model, tag in list_pretrained()
    }


def _refuse_to_guess(model: str, pretrained: str, *, config_says: bool) -> None:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = {
        tag: bool(get_pretrained_cfg(model, tag).get("quick_gelu", False))
        for tag in list_pretrained_tags_by_model(model)
    }
    question = activation_question(model, config_says=config_says, tags=tags)
    if question:
        raise ExportRefused(
            f"{pretrained} does not show its activation, and {question}. "
            "With the wrong one every vector is wrong"
        )


def _configuration(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    path = Path(model)
    if path.suffix != ".json":
        return _named_configuration(model), {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ExportRefused(f"cannot read the model configuration {path}: {exc}") from exc
    # open_clip_config.json, as on Hugging Face, wraps the configuration; open_clip's own are bare.
    wrapped = isinstance(raw, dict) and "model_cfg" in raw
    config = raw["model_cfg"] if wrapped else raw
    wanted = {"embed_dim", "vision_cfg", "text_cfg"}
    if not isinstance(config, dict) or not wanted <= config.keys():
        raise ExportRefused(
            f"{path} is no model configuration of open_clip: it lacks one of "
            f"{', '.join(sorted(wanted))}"
        )
    return config, dict(raw.get("preprocess_cfg") or {}) if wrapped else {}


def _named_configuration(model: str) -> dict[str, Any]:
    from open_clip import list_models
    from open_clip.factory import get_model_config

    if model not in list_models():
        raise ExportRefused(explain_unknown(model, list_models()))
    config: dict[str, Any] = json.loads(json.dumps(get_model_config(model)))
    return config


def _folder_name(model: str, weights: WeightsSource) -> str:
    architecture = Path(model).stem if model.endswith(".json") else model
    match weights.kind:
        case "file":
            origin = Path(weights.name).stem
        case "random":
            origin = f"random-{weights.name}"
        case "tag":
            origin = weights.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{architecture}-{origin}").lstrip(".-")


def _a_few(tags: Sequence[str]) -> str:
    shown = " and ".join(repr(tag) for tag in tags[:2])
    more = f" and {len(tags) - 2} more" if len(tags) > 2 else ""
    return f"open_clip's {shown}{more}" if tags else "none of open_clip's own"


def _activation_name(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"
