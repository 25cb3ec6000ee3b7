"""What a tower computes, from its architecture: its matrix products, its operations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """(rows, inner) x (inner, columns), for one picture or text."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition each."""
        return 2 * self.rows * self.inner * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerShape:
    """One tower's work for one picture or text."""

    gemms: tuple[Gemm, ...]  # with weights, in order
    attention_flops: int  # scores, and values by them: products without weights

    @property
    def flops(self) -> int:
        """All of it but the additions, norms and activations in between."""
        return sum(it.flops for it in self.gemms) + self.attention_flops


def tower_shape(
    architecture: Mapping[str, Any], tower: Literal["image", "text"] | str
) -> TowerShape | None:
    """A transformer tower of open_clip's configuration, texts whole; None for a ResNet."""
    dim = architecture["embed_dim"]
    if tower == "text":
        text = architecture["text_cfg"]
        tokens = text.get("context_length", 77)
        return _transformer(text, tokens=tokens, default_width=512, before=(), dim=dim)
    image = architecture["vision_cfg"]
    if not isinstance(image.get("layers", 12), int):
        return None
    side, patch = image.get("image_size", 224), image.get("patch_size", 16)
    patches = (side // patch) ** 2
    width = image.get("width", 768)
    embedding = Gemm(rows=patches, inner=3 * patch**2, columns=width)
    return _transformer(image, tokens=patches + 1, default_width=768, before=(embedding,), dim=dim)


def _transformer(
    config: Mapping[str, Any],
    *,
    tokens: int,
    default_width: int,
    before: tuple[Gemm, ...],
    dim: int,
) -> TowerShape:
    width = config.get("width", default_width)
    layers = config.get("layers", 12)
    inner = int(width * config.get("mlp_ratio", 4.0))
    block = (
        Gemm(rows=tokens, inner=width, columns=3 * width),
        Gemm(rows=tokens, inner=width, columns=width),
        Gemm(rows=tokens, inner=width, columns=inner),
        Gemm(rows=tokens, inner=inner, columns=width),
    )
    projection = Gemm(rows=1, inner=width, columns=dim)
    return TowerShape(
        gemms=(*before, *(block * layers), projection),
        attention_flops=layers * 2 * (2 * tokens * tokens * width),
    )
