"""Image towers that are exported as PyTorch traces them: architectures of timm, made small."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from open_clip.timm_model import TimmModel

from warmclip.inference.arrays import unit_rows
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip_export import graph
from warmclip_export.coreml.lint import lint_graph
from warmclip_export.onnx_file import write_tower

DIM = 32
_VIT = {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 56}
_STAGES = {"depths": (1, 1, 2, 1), "dims": (16, 32, 32, 64)}

# Kind: the name in timm, what open_clip's configurations say of it, and how it is made small.
TOWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "eva": ("eva_giant_patch14_224", {"pool": "token", "proj": None}, _VIT),
    "convnext": ("convnext_tiny", {"pool": "", "proj": "linear"}, _STAGES),
    "fastvit": ("fastvit_mci0", {"pool": "avg", "proj": None}, {"layers": (1, 1, 1, 1)}),
    "vitamin": ("vitamin_small_224", {"pool": "", "proj": "linear"}, {}),
}


def _tower(kind: str, monkeypatch: pytest.MonkeyPatch) -> TimmModel:
    """A tower none of whose parameters has a value that hides an error, such as 0 or 1."""
    name, said, small = TOWERS[kind]
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **small))
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tower = TimmModel(name, DIM, **said).eval().requires_grad_(False)
    for tensor in tower.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator).abs() * 0.2)
        elif tensor.is_floating_point():
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
    return tower


@pytest.mark.parametrize("kind", TOWERS)
def test_tower_is_exported_faithfully_and_in_one_piece(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file gives open_clip's vectors at every batch size, and CoreML takes it as one."""
    visual = _tower(kind, monkeypatch)
    side = TOWERS[kind][2].get("img_size") or visual.trunk.default_cfg["input_size"][-1]
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    tower = graph.build_image_tower(visual)
    path = tmp_path / "tower.onnx"

    write_tower(tower, {"pixel_values": pixels[:2]}, path, graph.required_opset(tower))

    expected = unit_rows(visual(pixels).numpy(), DIM)
    assert np.ptp(expected, axis=0).max() > 0.01  # the tower tells pictures apart
    session = OnnxSession(path, find_provider("cpu"))
    for batch in (1, 3):
        vectors = unit_rows(session.run({"pixel_values": pixels[:batch].numpy()}), DIM)
        assert np.abs(vectors - expected[:batch]).max() <= 1e-5
    (placement,) = lint_graph(path, batches=(8,))
    assert placement.is_whole, (str(placement), placement.findings[:3])
