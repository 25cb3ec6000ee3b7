"""open_clip's own towers, re-expressed over their weights so that accelerators take them whole.

The activations travel as rows, shape (batch * tokens, width), so that every linear layer becomes
one Gemm with its weight as stored; queries, keys and values are three linear layers, with the
attention's scale folded into the first; attention is written out; nothing has more than four axes.
The text's end is an input, and normalising is left to the host. ``parity`` compares each wrapper
with open_clip before anything is exported. Inputs and outputs are float32, also after ``to_fp16``.

An image tower of another kind, and a text tower of Hugging Face, is exported as PyTorch traces it
(``traced``).
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d, Bottleneck, ModifiedResNet
from open_clip.transformer import (
    AttentionalPooler,
    LayerScale,
    QuickGELU,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from warmclip_export.errors import ExportRefused
from warmclip_export.reference import HuggingFaceText, OwnText, TextParts
from warmclip_export.traced import (
    MASKED,
    TracedImageTower,
    TracedTextTower,
    TracedTower,
    mark_tokens,
)


def build_image_tower(visual: nn.Module) -> nn.Module:
    """The wrapper of an image tower: pixels (batch, 3, S, S) -> raw features (batch, dim).

    Raises:
        ExportRefused: it is open_clip's vision transformer, with blocks that are not re-expressed.
    """
    kind: type[nn.Module] = TracedImageTower
    if isinstance(visual, VisionTransformer) and _pools_plainly(visual):
        kind = ImageTower
    elif isinstance(visual, ModifiedResNet):
        kind = ResNetTower
    return kind(visual).eval().requires_grad_(False)


def build_text_tower(parts: TextParts) -> nn.Module:
    """The wrapper of a text tower: (ids, one-hot end) -> raw features (batch, dim)."""
    match parts:
        case HuggingFaceText():
            tower: nn.Module = TracedTextTower(parts)
        case OwnText(class_token=Tensor() as class_token):
            tower = ClassTextTower(parts, class_token)
        case OwnText():
            tower = TextTower(parts)
        case _:
            raise TypeError(f"a text tower of {type(parts).__name__}")
    return tower.eval().requires_grad_(False)


def max_text_length(tower: nn.Module) -> int:
    """How many tokens a text may have, if the tower takes shorter ones as well; else 0."""
    return tower.tokens if isinstance(tower, TextTower) and tower.causal else 0


def required_opset(*towers: nn.Module) -> int:
    """20 if a tower needs the Gelu operator, which 18 does not have; else 18."""
    modules = [module for tower in towers for module in tower.modules()]
    return 20 if any(isinstance(module, nn.GELU | TracedTower) for module in modules) else 18


def scale_stream(tower: nn.Module, factor: float) -> None:
    """Multiply what the blocks of a text tower add up, in place; its layer norms undo it.

    It is the same function, whose epsilons and small squares are no longer subnormal in float16.

    Args:
        tower: a wrapper; what is no text tower with layer norms stays as it is.
        factor: a power of two, which changes no bit of a result in float32.
    """
    if not isinstance(tower, TextTower):
        return
    blocks: list[Any] = list(tower.blocks)
    norms = [tower.norm_out, *(norm for block in blocks for norm in (block.norm_1, block.norm_2))]
    layers = [layer for block in blocks for layer in (block.attention.out, block.mlp.narrow)]
    if not all(isinstance(norm, nn.LayerNorm) for norm in norms):
        return
    tower.position.data *= factor
    if isinstance(tower, ClassTextTower):
        tower.class_token.data *= factor
    for layer in (tower.lookup, *layers):
        for parameter in layer.parameters():
            parameter.data *= factor
    for norm in norms:
        norm.eps *= factor**2


def to_fp16(tower: nn.Module, kept: Iterable[str] = ()) -> nn.Module:
    """Turn a wrapper into float16, in place.

    Args:
        tower: the wrapper; it still takes and gives float32.
        kept: parts of it, by name, that go on computing in float32.
    """
    wide = {name: copy.deepcopy(tower.get_submodule(name)) for name in kept}
    tower.half()
    for name, part in wide.items():
        tower.set_submodule(name, _Wide(part))
    return tower


class _Wide(nn.Module):
    """A part that computes in float32 inside a tower that computes in float16."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *values: Any, **named: Any) -> Any:
        first = next(value for value in (*values, *named.values()) if _is_float(value))
        wide = {name: _with_dtype(value, torch.float32) for name, value in named.items()}
        computed = self.part(*(_with_dtype(value, torch.float32) for value in values), **wide)
        if isinstance(computed, tuple):  # as parts of transformers give it
            return tuple(_with_dtype(value, first.dtype) for value in computed)
        return _with_dtype(computed, first.dtype)


def _with_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if _is_float(value) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


class ImageTower(nn.Module):
    """A vision transformer."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        position = visual.positional_embedding.detach()
        self.patches = copy.deepcopy(visual.conv1)
        self.tokens, self.width = position.shape
        self.class_token = nn.Parameter((visual.class_embedding + position[0]).detach()[None, None])
        self.position = nn.Parameter(position[1:].clone())
        self.norm_in = copy.deepcopy(visual.ln_pre)
        self.blocks = _blocks(visual.transformer.resblocks)
        self.norm_out = copy.deepcopy(visual.ln_post)
        self.average = visual.pool_type == "avg"
        self.pool_first = not self.average or visual.final_ln_after_pool
        pool = visual.attn_pool
        self.attend = None if pool is None else _QueryPool(pool, self.tokens)
        self.project = _projection(visual.proj)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures, (batch, 3, S, S) -> (batch, dim)."""
        grid = self.patches(pixel_values.to(self.position.dtype))
        patches = grid.reshape(-1, self.width, self.tokens - 1).transpose(1, 2) + self.position
        # The only node that needs the batch's size; it folds away once the batch is pinned.
        first = self.class_token.expand(patches.shape[0], -1, -1)
        x = torch.cat([first, patches], dim=1).reshape(-1, self.width)
        x = self.blocks(self.norm_in(x), self.tokens)
        pooled = self.norm_out(self._pool(x)) if self.pool_first else self._pool(self.norm_out(x))
        features: Tensor = self.project(pooled).float()
        return features

    def _pool(self, x: Tensor) -> Tensor:
        if self.attend is not None:
            pooled: Tensor = self.attend(x)
            return pooled
        x = x.reshape(-1, self.tokens, self.width)
        return x[:, 1:].mean(dim=1) if self.average else x[:, :1].reshape(-1, self.width)


class TextTower(nn.Module):
    """A text transformer; the place of each text's vector comes from the host, as a one-hot row.

    Where attention is causal nothing after its end decides a text's vector, so it takes texts that
    are cut to any ``length``; else it takes them whole.
    """

    def __init__(self, parts: OwnText) -> None:
        super().__init__()
        self.tokens, self.width = parts.position.shape
        self.lookup = copy.deepcopy(parts.lookup)
        self.causal = parts.causal
        self.position = nn.Parameter(parts.position.detach().clone())
        self.blocks = _blocks(parts.blocks, _mask(self.tokens) if self.causal else None)
        self.norm_out = copy.deepcopy(parts.norm)
        self.project = _projection(parts.projection)

    def forward(self, input_ids: Tensor, eot_onehot: Tensor) -> Tensor:
        """Encode texts, (batch, length) and (batch, 1, length) -> (batch, dim)."""
        length = input_ids.shape[1] if self.causal else self.tokens
        x = (self.lookup(input_ids) + self.position[:length]).reshape(-1, self.width)
        x = self.blocks(x, length).reshape(-1, length, self.width)
        last = torch.matmul(eot_onehot.to(x.dtype), x).reshape(-1, self.width)
        features: Tensor = self.project(self.norm_out(last)).float()
        return features


class ClassTextTower(TextTower):
    """CoCa's text transformer: a token of its own, after each text's tokens, gives the vector.

    Which tokens it sees is decided by the ids, with open_clip's shift: the mask of the padding
    begins one token late, and hides the class token from itself. So texts are taken whole.
    """

    def __init__(self, parts: OwnText, class_token: Tensor) -> None:
        super().__init__(parts)
        self.causal = False  # texts are not cut, though attention is masked
        self.class_token = nn.Parameter(class_token.detach().clone()[None, None])
        self.shown = mark_tokens(parts)
        self.class_first = not parts.corrects_class_mask

    def forward(self, input_ids: Tensor, eot_onehot: Tensor) -> Tensor:  # noqa: ARG002  # of all texts
        """Encode texts, (batch, length) -> (batch, dim); the ends of the texts decide nothing."""
        x = self.lookup(input_ids)
        last = self.class_token.expand(x.shape[0], -1, -1)
        x = (torch.cat([x, last], dim=1) + self.position).reshape(-1, self.width)
        shown = self.shown(input_ids)
        always = torch.ones_like(shown[:, :1])
        shown = torch.cat([always, shown] if self.class_first else [shown, always], dim=1)
        hidden = (1.0 - shown.reshape(-1, 1, 1, self.tokens)) * MASKED
        x = self.blocks(x, self.tokens, hidden).reshape(-1, self.tokens, self.width)
        features: Tensor = self.project(self.norm_out(x[:, -1:].reshape(-1, self.width))).float()
        return features


class ResNetTower(nn.Module):
    """CLIP's modified ResNet, its batch norms folded into the convolutions."""

    def __init__(self, visual: ModifiedResNet) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in (1, 2, 3):
            conv, norm = getattr(visual, f"conv{number}"), getattr(visual, f"bn{number}")
            layers += [fuse_conv_bn_eval(conv, norm), nn.ReLU()]
        layers.append(copy.deepcopy(visual.avgpool))
        for group in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            layers += [_Residual(block) for block in group]
        self.body = nn.Sequential(*layers)
        self.pool = _AttentionPool(visual.attnpool)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures, (batch, 3, S, S) -> (batch, dim)."""
        features: Tensor = self.pool(self.body(pixel_values.to(self.pool.position.dtype))).float()
        return features


class _Attention(nn.Module):
    """Multi-head attention of rows (batch * tokens, width), written out."""

    def __init__(self, original: nn.MultiheadAttention, mask: nn.Parameter | None) -> None:
        super().__init__()
        if original.kdim != original.embed_dim or original.bias_k is not None:
            raise ExportRefused("its attention has separate or extra projections")
        self.heads, self.width = original.num_heads, original.embed_dim
        weights = original.in_proj_weight.detach().chunk(3)
        biases = original.in_proj_bias.detach().chunk(3)
        scale = 1.0 / math.sqrt(original.head_dim)
        self.query = _linear(weights[0] * scale, biases[0] * scale)
        self.key = _linear(weights[1], biases[1])
        self.value = _linear(weights[2], biases[2])
        self.out = _linear(original.out_proj.weight, original.out_proj.bias)
        self.mask = mask

    def forward(self, x: Tensor, length: int, hidden: Tensor | None = None) -> Tensor:
        query = self._by_head(self.query(x), length).transpose(1, 2)
        key = self._by_head(self.key(x), length).permute(0, 2, 3, 1)
        value = self._by_head(self.value(x), length).transpose(1, 2)
        scores = torch.matmul(query, key)
        if self.mask is not None:
            scores = scores + self.mask[..., :length, :length]
        if hidden is not None:
            scores = scores + hidden
        mixed = torch.matmul(scores.softmax(dim=-1), value)
        rows: Tensor = self.out(mixed.transpose(1, 2).reshape(-1, self.width))
        return rows

    def _by_head(self, x: Tensor, length: int) -> Tensor:
        return x.reshape(-1, length, self.heads, self.width // self.heads)


class _Mlp(nn.Module):
    """The two linear layers of a block, and the activation between them."""

    def __init__(self, original: Any) -> None:  # a Sequential, whose parts have names but no types
        super().__init__()
        activation = original.gelu
        if not isinstance(activation, QuickGELU | nn.GELU):
            raise ExportRefused(f"its activation is {type(activation).__name__}")
        self.widen = copy.deepcopy(original.c_fc)
        self.activation = copy.deepcopy(activation)
        self.narrow = copy.deepcopy(original.c_proj)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.narrow(self.activation(self.widen(x)))
        return rows


class _Block(nn.Module):
    """One residual block; a layer scale is folded into the linear layer before it."""

    def __init__(self, original: ResidualAttentionBlock, mask: nn.Parameter | None) -> None:
        super().__init__()
        if type(original) is not ResidualAttentionBlock:
            raise ExportRefused(f"its blocks are {type(original).__name__}, not the default ones")
        self.norm_1 = copy.deepcopy(original.ln_1)
        self.attention = _Attention(original.attn, mask)
        self.norm_2 = copy.deepcopy(original.ln_2)
        self.mlp = _Mlp(original.mlp)
        _fold_scale(original.ls_1, self.attention.out)
        _fold_scale(original.ls_2, self.mlp.narrow)

    def forward(self, x: Tensor, length: int, hidden: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm_1(x), length, hidden)
        rows: Tensor = x + self.mlp(self.norm_2(x))
        return rows


class _Blocks(nn.ModuleList):
    """The blocks of a transformer, one after the other."""

    def forward(self, x: Tensor, length: int, hidden: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, length, hidden)
        return x


class _Residual(nn.Module):
    """One bottleneck of the modified ResNet."""

    def __init__(self, original: Bottleneck) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            fuse_conv_bn_eval(original.conv1, original.bn1),
            nn.ReLU(),
            fuse_conv_bn_eval(original.conv2, original.bn2),
            nn.ReLU(),
            copy.deepcopy(original.avgpool),
            fuse_conv_bn_eval(original.conv3, original.bn3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if original.downsample is not None:
            pool, conv, norm = original.downsample
            self.shortcut = nn.Sequential(copy.deepcopy(pool), fuse_conv_bn_eval(conv, norm))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class _AttentionPool(nn.Module):
    """The ResNet's pooling: the mean of all positions attends to them and to itself."""

    def __init__(self, original: AttentionPool2d) -> None:
        super().__init__()
        position = original.positional_embedding.detach()
        self.tokens, self.width = position.shape
        self.heads = original.num_heads
        self.position = nn.Parameter(position.clone())
        scale = 1.0 / math.sqrt(self.width // self.heads)
        self.query = _linear(original.q_proj.weight * scale, original.q_proj.bias * scale)
        self.key = copy.deepcopy(original.k_proj)
        self.value = copy.deepcopy(original.v_proj)
        self.out = copy.deepcopy(original.c_proj)

    def forward(self, x: Tensor) -> Tensor:
        spots = x.reshape(-1, self.width, self.tokens - 1).transpose(1, 2)
        x = torch.cat([spots.mean(dim=1, keepdim=True), spots], dim=1) + self.position
        mean = x[:, :1].reshape(-1, self.width)
        rows = x.reshape(-1, self.width)
        head = self.width // self.heads
        query = self.query(mean).reshape(-1, self.heads, 1, head)
        key = self.key(rows).reshape(-1, self.tokens, self.heads, head).permute(0, 2, 3, 1)
        value = self.value(rows).reshape(-1, self.tokens, self.heads, head).transpose(1, 2)
        mixed = torch.matmul(torch.matmul(query, key).softmax(dim=-1), value)
        features: Tensor = self.out(mixed.reshape(-1, self.width))
        return features


class _QueryPool(nn.Module):
    """CoCa's pooling: learned queries attend to all tokens, and the first gives the vector."""

    def __init__(self, original: AttentionalPooler, tokens: int) -> None:
        super().__init__()
        attention = original.attn
        self.tokens, self.heads, self.width = tokens, attention.num_heads, attention.embed_dim
        query, key, value = _pool_weights(attention)
        biases = attention.in_proj_bias.detach().chunk(3)
        scale = 1.0 / math.sqrt(attention.head_dim)
        first = nn.functional.linear(original.ln_q(original.query[:1]), query, biases[0]).detach()
        self.query = nn.Parameter((first * scale).reshape(1, self.heads, 1, -1))
        self.norm = copy.deepcopy(original.ln_k)
        self.key = _linear(key, biases[1])
        self.value = _linear(value, biases[2])
        self.out = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x)
        head = self.width // self.heads
        key = self.key(rows).reshape(-1, self.tokens, self.heads, head).permute(0, 2, 3, 1)
        value = self.value(rows).reshape(-1, self.tokens, self.heads, head).transpose(1, 2)
        mixed = torch.matmul(torch.matmul(self.query, key).softmax(dim=-1), value)
        pooled: Tensor = self.out(mixed.reshape(-1, self.width))
        return pooled


def _pool_weights(attention: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    """Of queries, keys and values; one tensor has all three where their widths are equal."""
    if attention.in_proj_weight is not None:
        return attention.in_proj_weight.detach().chunk(3)
    return tuple(getattr(attention, f"{name}_proj_weight").detach() for name in "qkv")


def _pools_plainly(visual: VisionTransformer) -> bool:
    """Whether the wrapper has its pooling: one token, the mean, or CoCa's first query."""
    return visual.attn_pool is None or (
        visual.attn_pool_contrastive is None and visual.pool_type == "tok"
    )


def _blocks(originals: nn.ModuleList, mask: nn.Parameter | None = None) -> nn.ModuleList:
    return _Blocks(_Block(block, mask) for block in originals)


def _mask(tokens: int) -> nn.Parameter:
    """What is added to scores, (1, 1, tokens, tokens), so that no token sees those after it.

    A parameter, since all blocks share one, and would not share a buffer once it is ``to_fp16``.
    """
    return nn.Parameter(torch.full((1, 1, tokens, tokens), MASKED).triu(1))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear


def _projection(original: nn.Linear | Tensor | None) -> nn.Module:
    if original is None:
        return nn.Identity()
    if isinstance(original, nn.Linear):
        return copy.deepcopy(original)
    return _linear(original.detach().T, None)


def _fold_scale(scale: nn.Module, linear: nn.Linear) -> None:
    if isinstance(scale, LayerScale):
        linear.weight.data *= scale.gamma.detach()[:, None]
        linear.bias.data *= scale.gamma.detach()
