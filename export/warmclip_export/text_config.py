"""The ``config.json`` of a Hugging Face text tower, read before transformers builds from it.

It comes from a folder or from the network, and says how large a model is built, and of what code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmclip.shown import show_value
from warmclip_export.errors import ExportRefused
from warmclip_export.weights import first_line

KINDS = ("bert", "roberta", "xlm-roberta", "mt5", "m2m_100")
"""Those that open_clip knows the sizes of."""

_MOST_BYTES = 2**20
_MOST_PARAMETERS = 10_000_000_000
# The largest that is built, and several times what the largest of open_clip's own has.
_MOST: dict[str, int] = {
    "num_hidden_layers": 200, "num_layers": 200, "num_decoder_layers": 200,
    "encoder_layers": 200, "decoder_layers": 200,
    "num_attention_heads": 1_024, "num_heads": 1_024, "encoder_attention_heads": 1_024,
    "decoder_attention_heads": 1_024,
    "hidden_size": 16_384, "d_model": 16_384, "d_kv": 1_024,
    "intermediate_size": 65_536, "d_ff": 65_536, "encoder_ffn_dim": 65_536,
    "decoder_ffn_dim": 65_536,
    "vocab_size": 2_000_000, "max_position_embeddings": 100_000, "type_vocab_size": 1_000,
    "num_labels": 10_000, "relative_attention_num_buckets": 10_000,
    "relative_attention_max_distance": 100_000,
}  # fmt: skip
# Vectors are compared in float32, and a tower is traced through transformers' own attention.
_ONLY: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32"),
    "torch_dtype": (None, "float32"),
    "attn_implementation": (None, "eager", "sdpa"),
    "_attn_implementation": (None, "eager", "sdpa"),
    "quantization_config": (None,),
}


def check_text_config(file: Path) -> None:
    """See that a text tower's configuration is one that can be built and exported.

    Raises:
        ExportRefused: it cannot be read, is of another kind, larger than any model is, or asks
            for another element type or attention.
    """
    config = _read(file)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ExportRefused(
            f"its text tower is of the kind {str(kind)[:40]!r} ({file}); open_clip has "
            f"{', '.join(KINDS)}"
        )
    for name, most in _MOST.items():
        value = config.get(name, 1)
        if type(value) is not int or not 0 <= value <= most:
            raise ExportRefused(
                f"{file} says {name} = {show_value(value)}; it is a whole number up to {most:,}"
            )
    for name, allowed in _ONLY.items():
        if config.get(name) not in allowed:
            known = ", ".join(map(str, filter(None, allowed))) or "left out"
            raise ExportRefused(
                f"{file} says {name} = {show_value(config[name])}, and a tower is exported with "
                f"{known}: change that line"
            )
    if (parameters := _count(config)) > _MOST_PARAMETERS:
        raise ExportRefused(
            f"{file} describes a text tower of {parameters / 1e9:,.0f} billion parameters; up to "
            f"{_MOST_PARAMETERS // 10**9} are exported"
        )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ExportRefused(f"the text tower's {file} is larger than a megabyte")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ExportRefused(f"cannot read the text tower's {file}: {first_line(exc)}") from exc
    if not isinstance(config, dict):
        raise ExportRefused(f"the text tower's {file} is no JSON object")
    return config


def _count(config: Mapping[str, Any]) -> int:
    """About how many parameters the tower has."""

    def largest(*names: str) -> int:
        return max(int(config.get(name, 0)) for name in names)

    width = largest("hidden_size", "d_model")
    layers = largest("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers")
    inner = largest("intermediate_size", "d_ff", "encoder_ffn_dim")
    tokens = largest("vocab_size") + largest("max_position_embeddings")
    heads = largest("num_heads") * largest("d_kv")
    return width * (tokens + layers * (4 * max(width, heads) + 3 * inner))
