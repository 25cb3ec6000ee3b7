"""Models small enough to export in seconds, and bundles made wrong."""

import hashlib
import json
from pathlib import Path
from typing import Any

from warmclip.inference.bundle import MANIFEST, FileRecord, ImageRecipe, ModelBundle

TINY_VIT: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
TINY_RESNET: dict[str, Any] = {
    **TINY_VIT,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
}
# SigLIP's two towers; the tokenizer is a test's own.
TINY_SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 500,
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 4,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
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


def rewritten(
    bundle: ModelBundle,
    folder: Path,
    *,
    image: ImageRecipe | None = None,
    files: dict[str, bytes] | None = None,
) -> ModelBundle:
    """A copy with another recipe or other files, whose digests and fingerprint are in order."""
    folder.mkdir()
    changed = files or {}
    for record in bundle.files():
        content = changed.get(record.file) or (bundle.folder / record.file).read_bytes()
        (folder / record.file).write_bytes(content)
    graphs = {
        tower: {precision: _recorded(folder / record.file) for precision, record in graphs.items()}
        for tower, graphs in bundle.manifest.graphs.items()
    }
    manifest = bundle.manifest.model_copy(
        update={"graphs": graphs, "image": image or bundle.manifest.image}
    )
    manifest = manifest.model_copy(update={"fingerprint": manifest.derive_fingerprint()})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return ModelBundle.open(folder)


def _recorded(path: Path) -> FileRecord:
    content = path.read_bytes()
    return FileRecord(
        file=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )
