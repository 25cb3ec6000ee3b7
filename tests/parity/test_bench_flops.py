"""What the bench counts of a tower's work, against torch's own counter."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.embedding.flops import tower_shape
from warmclip.inference.bundle import Tower
from warmclip_export.catalog import resolve_model
from warmclip_export.reference import Reference

DEMO = "models/demo/warmclip-demo.json"


@pytest.mark.parametrize("model", [DEMO, "ViT-B-32"])
def test_operations_of_both_towers(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roofline divides by what a tower really computes, counted while open_clip computes it."""
    # The counter does not look into torch's two fused forms of attention.
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    recipe = resolve_model(model, "random:0")
    built = Reference.build(recipe, None).model
    side, length = built.visual.image_size[0], built.context_length
    works: dict[Tower, Callable[[], object]] = {
        "image": lambda: built.encode_image(torch.zeros(1, 3, side, side)),
        "text": lambda: built.encode_text(torch.ones(1, length, dtype=torch.int64)),
    }
    for tower, work in works.items():
        shape = tower_shape(recipe.architecture, tower)
        assert shape is not None
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
        assert shape.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
