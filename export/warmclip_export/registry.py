"""open_clip's own models: their weights, their sizes, and which of them become bundles."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from warmclip.inference.bundle import Tower
from warmclip_export.architecture import DECODER, build_model, find_cached_folder
from warmclip_export.catalog import unsupported_reason
from warmclip_export.memory import estimate_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of open_clip.

    Attributes:
        name: as ``--model`` takes it.
        tags: as ``--pretrained`` takes them, each with the repository on Hugging Face where its
            weights lie. The card of the repository names their licence; open_clip's data name none.
        size_px: the side of its pictures.
        tokens: of a text; 0 if its text tower says so itself.
        reason: why it becomes no bundle; empty if it does.
        weights: bytes of each tower's weights in float32; empty if that was not asked for, or the
            text tower's configuration lies on Hugging Face alone.
    """

    name: str
    tags: Mapping[str, str]
    size_px: int
    tokens: int
    reason: str
    weights: Mapping[Tower, int]

    def as_json(self) -> dict[str, Any]:
        """As a program reads it."""
        return {
            "model": self.name,
            "pretrained": list(self.tags),
            "repositories": dict(self.tags),
            "size_px": self.size_px,
            "tokens": self.tokens or None,
            "taken": not self.reason,
            "reason": self.reason,
            "weights_bytes": dict(self.weights),
            "export_memory_bytes": estimate_memory(self.weights) or None,
        }

    def describe(self, *, cards: bool) -> str:
        """As a person reads it, with or without the repositories whose cards name licences."""
        tokens = f", texts of {self.tokens} tokens" if self.tokens else ""
        sizes = "".join(f", {size / 1e9:.1f} GB ({it})" for it, size in self.weights.items())
        memory = estimate_memory(self.weights)
        read = _a_few(dict.fromkeys(self.tags.values())) if cards else ""
        lines = [
            self.name,
            f"  pictures of {self.size_px} px{tokens}{sizes}",
            *([f"  an export takes about {memory / 1e9:.1f} GB of memory"] if memory else []),
            f"  weights: {', '.join(self.tags) or 'none in open_clip'}",
            *([f"  licence: open_clip names none; see the card of {read}"] if read else []),
            *([f"  refused: {self.reason}"] if self.reason else []),
        ]
        return "\n".join(lines)


def list_entries(part: str = "") -> list[Entry]:
    """The models whose names have this part, in any case; with their sizes if there is one.

    The size takes a quarter of a second for each.
    """
    names = sorted(open_clip.list_models(), key=str.lower)
    return [
        describe_model(name, sized=bool(part)) for name in names if part.lower() in name.lower()
    ]


def describe_model(name: str, *, sized: bool) -> Entry:
    """What is known of one model; nothing is downloaded, and no weights are made."""
    config: dict[str, Any] = json.loads(json.dumps(get_model_config(name)))
    reason = unsupported_reason(config)
    text_model = config["text_cfg"].get("hf_model_name") or ""
    weights = known_bytes(config, text_model) if sized and not reason else {}
    size = config["vision_cfg"].get("image_size", 224)
    return Entry(
        name=name,
        tags={tag: _repository(name, tag) for tag in list_pretrained_tags_by_model(name)},
        size_px=size if isinstance(size, int) else size[0],
        tokens=config["text_cfg"].get("context_length", 0),
        reason=reason,
        weights=weights,
    )


def tower_bytes(config: Mapping[str, Any], text_model: str = "") -> dict[Tower, int]:
    """What the weights of each tower take in float32; none are made.

    Args:
        config: the model's, in open_clip's form.
        text_model: the folder or the name of its text tower's configuration; empty without one.

    Raises:
        WeightsUnavailable: the text tower's configuration could not be had.
        ExportRefused: open_clip cannot build such a model.
    """
    arguments = {name: value for name, value in config.items() if name != "quick_gelu"}
    with torch.device("meta"):
        whole = build_model(arguments, text_model)
    sizes: dict[Tower, int] = {"image": 0, "text": 0}
    for name, tensor in whole.named_parameters():
        if not name.startswith(DECODER):
            sizes["image" if name.startswith("visual.") else "text"] += 4 * tensor.numel()
    return sizes


def known_bytes(config: Mapping[str, Any], text_model: str) -> dict[Tower, int]:
    """The same, or nothing where the network would have to be asked."""
    folder = find_cached_folder(text_model) if text_model else ""
    return {} if folder is None else tower_bytes(config, folder)


def _a_few(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 2} more (--json)" if len(shown) > 2 else ""
    return ", ".join(shown[:2]) + more


def _repository(name: str, tag: str) -> str:
    return str(get_pretrained_cfg(name, tag).get("hf_hub", "")).rpartition("/")[0]
