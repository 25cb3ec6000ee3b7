"""open_clip's model of a configuration, and what that leaves to Hugging Face: the text tower's.

open_clip would ask the network for that tower's configuration, and for weights that its own
replace. Here the first comes from a folder, from the cache, or is downloaded; the others never.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from open_clip import CLIP, CoCa, CustomTextCLIP

from warmclip_export.errors import ExportRefused, WeightsUnavailable
from warmclip_export.text_config import check_text_config
from warmclip_export.weights import first_line

OpenClipModel: TypeAlias = CLIP | CustomTextCLIP | CoCa

DECODER = "text_decoder."
"""How the names of a CoCa's tensors begin that make no vectors."""

_FILE = "config.json"
# What building a model is known to raise, by a configuration that it does not fit.
_BUILDING = (
    TypeError, ValueError, AssertionError, AttributeError, LookupError, RuntimeError, ImportError,
    ArithmeticError,
)  # fmt: skip
# What decides a vector and is seen in no tensor, as far as a kind has it.
_DECISIVE = (
    "model_type", "pad_token_id", "hidden_act", "layer_norm_eps", "num_attention_heads",
    "activation_function", "encoder_attention_heads", "scale_embedding",
    "feed_forward_proj", "layer_norm_epsilon", "num_heads", "relative_attention_max_distance",
)  # fmt: skip


def build_model(
    config: Mapping[str, Any], text_model: str = "", *, quick_gelu: bool = False
) -> OpenClipModel:
    """open_clip's model with random weights; on the device that is torch's default.

    Args:
        config: open_clip's model configuration.
        text_model: the folder or the name of its text tower's configuration; empty without one.
        quick_gelu: its activation.

    Raises:
        WeightsUnavailable: the text tower's configuration could not be had.
        ExportRefused: open_clip cannot build such a model.
    """
    arguments = {name: value for name, value in config.items() if name != "custom_text"}
    kind: type[OpenClipModel] = CLIP
    if config.get("custom_text") or text_model:
        kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP
    if text_model:
        arguments["text_cfg"] = {
            **config["text_cfg"],
            "hf_model_name": find_text_folder(text_model),
            "hf_model_pretrained": False,
        }
    try:
        return kind(**arguments, quick_gelu=quick_gelu)
    except _BUILDING as exc:
        raise ExportRefused(f"open_clip cannot build such a model: {first_line(exc)}") from exc


def find_text_folder(name: str) -> str:
    """The folder with the configuration of a Hugging Face model: itself, or the cache's.

    What is not in the cache is downloaded: a file of a kilobyte.

    Args:
        name: the folder, or the model's name on Hugging Face.

    Raises:
        WeightsUnavailable: it could not be had.
        ExportRefused: it is of a kind that cannot be exported, or cannot be read.
    """
    folder = find_cached_folder(name)
    if folder is None:
        folder = str(Path(_downloaded(name)).parent)
    check_text_config(Path(folder) / _FILE)
    return folder


def find_cached_folder(name: str) -> str | None:
    """The same without the network, unchecked; None if it is neither a folder nor in the cache."""
    if Path(name).is_dir():
        return str(Path(name))
    found = try_to_load_from_cache(name, _FILE)
    return str(Path(found).parent) if isinstance(found, str) else None


def decisive_settings(config: Any) -> dict[str, Any]:
    """What a text tower's configuration says that its tensors do not show."""
    return {name: getattr(config, name) for name in _DECISIVE if hasattr(config, name)}


def _downloaded(name: str) -> str:
    try:
        return hf_hub_download(name, _FILE)
    except (OSError, ValueError, RuntimeError) as exc:  # its client raises all of these
        raise WeightsUnavailable(
            f"the text tower's configuration, {_FILE} of {name!r}, is not in the cache and could "
            f"not be downloaded from huggingface.co ({first_line(exc)}). Run this where there is "
            "a network, or copy the cache of such a machine (~/.cache/huggingface), or name a "
            f"folder that has its {_FILE}, tokenizer.json and tokenizer_config.json with "
            "--tokenizer FOLDER. Its weights are not needed: open_clip's have them"
        ) from exc
