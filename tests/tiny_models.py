"""Models small enough to export in seconds."""

import json
from pathlib import Path
from typing import Any

TINY_VIT: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
TINY_RESNET: dict[str, Any] = {
    **TINY_VIT,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
}


def varied(base: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    """A configuration with some values of its sections changed."""
    return {
        **base,
        **{key: {**base[key], **value} if key in base else value for key, value in changes.items()},
    }


def written(folder: Path, name: str, config: dict[str, Any]) -> str:
    """Write a configuration; returns its path as ``--model`` takes it."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)
