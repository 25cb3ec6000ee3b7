"""Models small enough to export in seconds, and bundles made wrong."""

import hashlib
import json
from pathlib import Path
from typing import Any

from warmclip.inference.bundle import MANIFEST, GraphRecord, ImageRecipe, Logits, ModelBundle

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
# CoCa's two towers, and the decoder that its checkpoints hold.
TINY_COCA: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        **TINY_VIT["vision_cfg"],
        "attentional_pool": True,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": {
        **TINY_VIT["text_cfg"], "context_length": 20, "embed_cls": True, "output_tokens": True
    },
    "multimodal_cfg": {
        "context_length": 20, "vocab_size": 100, "width": 32, "heads": 4, "layers": 1
    },
}  # fmt: skip
_ROBERTA: dict[str, Any] = {
    "vocab_size": 1000, "pad_token_id": 1, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 40,
    "type_vocab_size": 1,
}  # fmt: skip
# Of each kind of text towers of Hugging Face, its configuration, and open_clip's pooling.
TINY_TEXT_MODELS: dict[str, tuple[dict[str, Any], str | None]] = {
    "bert": ({**_ROBERTA, "pad_token_id": 0, "type_vocab_size": 2}, "cls_pooler"),
    "roberta": (_ROBERTA, "cls_last_hidden_state_pooler"),
    "xlm-roberta": (_ROBERTA, None),
    "mt5": (
        {
            "vocab_size": 1000, "pad_token_id": 0, "d_model": 32, "d_kv": 8, "d_ff": 64,
            "num_layers": 2, "num_heads": 4,
        },
        "mean_pooler",
    ),
    "m2m_100": (
        {
            "vocab_size": 1000, "pad_token_id": 1, "d_model": 32, "encoder_layers": 2,
            "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 40,
        },
        "cls_pooler",
    ),
}  # fmt: skip


def write_text_model(kind: str, folder: Path) -> dict[str, Any]:
    """Write the configuration of a text tower; returns the model's, without its tokenizer."""
    config, pooler = TINY_TEXT_MODELS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **config}), "utf-8")
    text = {"hf_model_name": str(folder), "hf_pooler_type": pooler, "context_length": 20}
    return {**TINY_VIT, "text_cfg": text}


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
    logits: Logits | None = None,
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
        update={
            "graphs": graphs,
            "image": image or bundle.manifest.image,
            "logits": logits or bundle.manifest.logits,
        }
    )
    manifest = manifest.model_copy(update={"fingerprint": manifest.derive_fingerprint()})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return ModelBundle.open(folder)


def _recorded(path: Path) -> GraphRecord:
    content = path.read_bytes()
    return GraphRecord(
        file=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )
