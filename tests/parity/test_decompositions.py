"""What operations are written as on the way to a graph computes the same."""

import torch
from torch import Tensor, nn

from warmclip_export.traced import DECOMPOSITIONS


class _Everything(nn.Module):
    """Each operation that is decomposed, on activations of more than two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 6)
        self.bare = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.bare(self.linear(self.norm(self.conv(x)).flatten(2).transpose(1, 2)))
        heads = rows.unflatten(-1, (2, 3)).transpose(1, 2)
        mask = torch.linspace(-1, 1, rows.shape[1])[None]
        mixed = nn.functional.scaled_dot_product_attention(heads, -heads, heads, mask)
        scaled = nn.functional.scaled_dot_product_attention(mixed, heads, heads, scale=0.3)
        return scaled.transpose(1, 2).flatten(2) * torch.rsqrt(rows.square() + 0.5)


def test_decomposed_operations_compute_the_same_and_are_gone() -> None:
    """At a batch that was not traced, values are equal, and only linear layers of rows are left."""
    torch.manual_seed(0)
    module = _Everything().eval().requires_grad_(False)
    for tensor in (module.norm.running_mean, module.norm.running_var, module.norm.weight):
        assert tensor is not None
        tensor.data.uniform_(0.5, 2.0)
    batch = torch.export.Dim("batch", min=2)
    traced = torch.export.export(
        module, (torch.randn(2, 3, 6, 6),), dynamic_shapes=({0: batch},)
    ).run_decompositions(DECOMPOSITIONS)

    x = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(traced.module()(x), module(x), atol=1e-6, rtol=1e-5)
    left = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    assert not [name for name in left if "batch_norm" in name or "attention" in name]
    assert not [name for name in left if "aten.neg" in name or "rsqrt" in name]
    linear = [node for node in traced.graph.nodes if str(node.target) == "aten.linear.default"]
    assert [node.args[0].meta["val"].ndim for node in linear] == [2, 2]
