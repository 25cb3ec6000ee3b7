"""Configurations with fewer layers and tokens, for machines on which the whole takes hours.

Widths, heads, picture and context sizes stay: what decides how a tower is exported is kept, and a
row of the table says what was cut.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import timm

LAYERS = 2
VOCABULARY = 49_408  # of open_clip's own tokenizer, which is cut no shorter
# How an architecture of timm is told its depth, by the beginning of its name.
_DEPTHS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("convnext", {"depths": (1, 1, 1, 1)}),
    ("swin", {"depths": (2, 2, 2, 2)}),  # of two layers, the second has shifted windows
    ("fastvit_mci3", {"layers": (1, 1, 1, 1, 1)}),
    ("fastvit_mci4", {"layers": (1, 1, 1, 1, 1)}),
    ("fastvit", {"layers": (1, 1, 1, 1)}),
    ("", {"depth": LAYERS}),
)


def make_shallow(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A configuration with fewer layers, what timm is to be told beside it, and what was cut."""
    small: dict[str, Any] = copy.deepcopy(dict(config))
    image, text, options = small["vision_cfg"], small["text_cfg"], {}
    if name := image.get("timm_model_name"):
        options = next(told for prefix, told in _DEPTHS if name.startswith(prefix))
        (depth,) = options.values()
    elif isinstance(image["layers"], list):
        depth = image["layers"] = [1] * len(image["layers"])
    else:
        depth = image["layers"] = LAYERS
    text["layers"] = LAYERS
    told = [f"{_told(depth)} image layers", f"{LAYERS} text layers"]
    if text.get("hf_model_name") or text.get("vocab_size", VOCABULARY) > VOCABULARY:
        text["vocab_size"] = VOCABULARY
        told.append(f"{VOCABULARY:,} tokens")
    return small, options, ", ".join(told)


@contextmanager
def timm_told(options: Mapping[str, Any]) -> Iterator[None]:
    """Have timm make its towers with these options: open_clip passes on none of them."""
    with patch.object(timm, "create_model", partial(timm.create_model, **options)):
        yield


def _told(depth: Any) -> str:
    return str(depth) if isinstance(depth, int) else "-".join(map(str, depth))
