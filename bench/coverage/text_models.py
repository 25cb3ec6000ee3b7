"""Configurations of the text towers that open_clip names on Hugging Face, written down.

They are asked for by no network. Sizes are those of the repositories, as far as they decide how a
tower is exported and how large it is.
"""

import json
from pathlib import Path
from typing import Any

_ROBERTA: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "pad_token_id": 1,
}  # fmt: skip
_XLM_ROBERTA = {**_ROBERTA, "model_type": "xlm-roberta", "vocab_size": 250_002}
_MT5: dict[str, Any] = {
    "model_type": "mt5", "vocab_size": 250_112, "d_kv": 64, "pad_token_id": 0,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_NLLB: dict[str, Any] = {
    "model_type": "m2m_100", "vocab_size": 256_206, "d_model": 1024, "encoder_attention_heads": 16,
    "decoder_attention_heads": 16, "max_position_embeddings": 1024, "scale_embedding": True,
    "pad_token_id": 1,
}  # fmt: skip
_MODELS: dict[str, dict[str, Any]] = {
    "roberta-base": {**_ROBERTA, "model_type": "roberta", "vocab_size": 50_265},
    "xlm-roberta-base": _XLM_ROBERTA,
    "xlm-roberta-large": {
        **_XLM_ROBERTA, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "google/mt5-base": {**_MT5, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/mt5-xl": {**_MT5, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "facebook/nllb-200-distilled-600M": {
        **_NLLB, "encoder_layers": 12, "decoder_layers": 12, "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
    },
    "facebook/nllb-200-distilled-1.3B": {
        **_NLLB, "encoder_layers": 24, "decoder_layers": 24, "encoder_ffn_dim": 8192,
        "decoder_ffn_dim": 8192,
    },
}  # fmt: skip
_LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers")


def write_text_model(name: str, folder: Path, *, layers: int = 0, vocabulary: int = 0) -> str:
    """Write a tower's configuration; returns the folder.

    Args:
        name: on Hugging Face.
        folder: where.
        layers: how many; 0 for as many as it has.
        vocabulary: of how many tokens; 0 for as many as it has.
    """
    config = dict(_MODELS[name])
    if layers:
        config |= {key: layers for key in _LAYERS if key in config}
    if vocabulary:
        config["vocab_size"] = vocabulary
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)
