"""Any image tower as PyTorch traces it, for the kinds that ``graph`` does not write again.

Four operations of PyTorch are decomposed on the way into those that accelerators take: a linear
layer becomes one Gemm on rows, with its weight as stored; attention is written out; a batch norm
is a product and a sum, which onnxruntime folds into a convolution before it; a negation is a
product with -1. The rest is what torch exports, and the gate compares it with open_clip.
"""

from typing import Any

import torch
from timm.models import reparameterize_model
from torch import Tensor, nn

_aten = torch.ops.aten


class TracedTower(nn.Module):
    """An image tower as it is, with the branches that it was only trained with merged."""

    precision: Tensor

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.body: nn.Module = reparameterize_model(visual)  # a copy
        # What ``to_fp16`` turns into float16 with the rest, whichever parts stay float32.
        self.register_buffer("precision", torch.zeros(()), persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures, (batch, 3, S, S) -> (batch, dim)."""
        features: Tensor = self.body(pixel_values.to(self.precision.dtype)).float()
        return features


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if x.ndim == 2:
        return NotImplemented  # it is one Gemm already
    rows: Tensor = _aten.linear.default(x.reshape(-1, weight.shape[1]), weight, bias)
    # The batch, or a multiple of it, comes first: all but that is a number.
    return rows.reshape(-1, *x.shape[1:-1], weight.shape[0])


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001  # there is none when a tower is not trained
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if is_causal or enable_gqa or (mask is not None and mask.dtype == torch.bool):
        return NotImplemented  # no image tower has these
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(scores.softmax(dim=-1), value)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    _momentum: float,
    epsilon: float,
) -> Any:
    if weight is None or bias is None:
        return NotImplemented
    scale = weight * torch.rsqrt(variance + epsilon)
    shape = (-1, *(1 for _ in x.shape[2:]))
    normed = x * scale.reshape(shape) + (bias - mean * scale).reshape(shape)
    return normed, x.new_empty(0), x.new_empty(0)  # what training would keep


def _negation(x: Tensor) -> Any:
    return x * -1.0 if x.is_floating_point() else NotImplemented


DECOMPOSITIONS: dict[Any, Any] = {
    _aten.linear.default: _linear,
    _aten.scaled_dot_product_attention.default: _attention,
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten.neg.default: _negation,
}
"""How ``torch.export`` writes an operation, by its overload; NotImplemented leaves it as it is."""
