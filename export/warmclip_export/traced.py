"""Any image tower, and text towers of Hugging Face, as PyTorch traces them.

They are the kinds that ``graph`` does not write again.
Five operations of PyTorch are decomposed on the way into those that accelerators take: a linear
layer becomes one Gemm on rows, with its weight as stored; attention is written out; a batch norm
is a product and a sum, which onnxruntime folds into a convolution before it; a negation is a
product with -1; the inverse of a root is a quotient. The rest is what torch exports, and the gate
compares it with open_clip.
"""

import copy
from typing import Any

import torch
from timm.models import reparameterize_model
from torch import Tensor, nn

from warmclip_export.reference import HuggingFaceText, TextParts

_aten = torch.ops.aten
# Finite, and within float16: a row of -inf becomes NaN on some accelerators.
MASKED = -1e4


class TracedTower(nn.Module):
    """A tower that is exported as PyTorch traces it."""


class TracedImageTower(TracedTower):
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


class TracedTextTower(TracedTower):
    """A text tower of Hugging Face, which is given what it would work out from the ids.

    Which tokens are padding, and where the others stand, it finds with operators that accelerators
    lack. Here a second lookup says which tokens are real, and a product with a triangle of ones
    counts them. All that follows is its own.
    """

    counting: Tensor
    types: Tensor

    def __init__(self, parts: HuggingFaceText) -> None:
        super().__init__()
        encoder = copy.deepcopy(parts.encoder)
        self.body, self.pooler, self.project = encoder.transformer, encoder.pooler, encoder.proj
        self.lookup = self.body.get_input_embeddings()
        self.real = mark_tokens(parts)
        self.padding_id = parts.padding_id
        self.kind = encoder.config.model_type
        length = parts.context_length
        self.register_buffer("counting", torch.ones(length, length).triu(), persistent=False)
        self.register_buffer("types", torch.zeros(1, length, dtype=torch.int64), persistent=False)
        if self.kind == "m2m_100":  # it takes no positions, and adds those of ids to embeddings
            self.positions = _lookup(self.body.embed_positions.weights)
            self.body.embed_positions = _Nothing()

    def forward(self, input_ids: Tensor, eot_onehot: Tensor) -> Tensor:  # noqa: ARG002  # of all texts
        """Encode texts, (batch, length) -> (batch, dim); the ends of the texts decide nothing."""
        real = self.real(input_ids).flatten(1)
        x = self.lookup(input_ids)
        given: dict[str, Tensor] = {}
        if self.kind in ("bert", "roberta", "xlm-roberta"):
            given["token_type_ids"] = self.types
        if self.kind in ("roberta", "xlm-roberta"):
            given["position_ids"] = self._places(real)
        if self.kind == "mt5":  # which in float16 clamps its sums, with operators of their own
            x = x.float()
        if self.kind == "m2m_100":
            x = x + self.positions(self._places(real))
        hidden = ((1.0 - real) * MASKED)[:, None, None]
        found = self.body(inputs_embeds=x, attention_mask=hidden, **given)
        features: Tensor = self.project(self.pooler(found, real)).float()
        return features

    def _places(self, real: Tensor) -> Tensor:
        """Where each token stands among the real ones; padding has the number of its id."""
        return (torch.matmul(real, self.counting) * real + self.padding_id).long()


class _Nothing(nn.Module):
    """What is added where something was added before."""

    def forward(self, _ids: Tensor | None, embeddings: Tensor) -> Tensor:
        return embeddings.new_zeros(())


def mark_tokens(parts: TextParts) -> nn.Embedding:
    """A lookup that gives 1 for each token, and 0 for padding: exact in any precision."""
    marks = torch.ones(parts.vocabulary, 1)
    marks[parts.padding_id] = 0.0
    return _lookup(marks)


def _lookup(table: Tensor) -> nn.Embedding:
    lookup = nn.Embedding(table.shape[0], table.shape[1], device="meta")
    lookup.weight = nn.Parameter(table.detach().clone())
    return lookup


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


def _inverse_root(x: Tensor) -> Tensor:
    # A number over a tensor would be a Reciprocal, to which CoreML adds 1e-4.
    return torch.div(torch.ones((), dtype=x.dtype), torch.sqrt(x))


DECOMPOSITIONS: dict[Any, Any] = {
    _aten.linear.default: _linear,
    _aten.scaled_dot_product_attention.default: _attention,
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten.neg.default: _negation,
    _aten.rsqrt.default: _inverse_root,
}
"""How ``torch.export`` writes an operation, by its overload; NotImplemented leaves it as it is."""
