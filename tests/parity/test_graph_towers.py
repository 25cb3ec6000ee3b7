"""The wrappers compute what open_clip's towers compute, for every variant that is accepted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_models import TINY_COCA, TINY_RESNET, TINY_VIT, varied, written
from warmclip.inference.arrays import unit_rows
from warmclip.inference.ort.text_lengths import text_lengths
from warmclip_export import graph
from warmclip_export.catalog import resolve_model
from warmclip_export.reference import Reference

# CoCa takes 0 for padding, which is "!" before another sign as well.
TEXTS = ["", "a cat", "two small red circles on a white background", "word " * 100, "!? what!?"]

VARIANTS = {
    "vit": TINY_VIT,
    "quick-gelu": {**TINY_VIT, "quick_gelu": True},
    "average-pool": varied(TINY_VIT, vision_cfg={"pool_type": "avg"}),
    "norm-after-pool": varied(
        TINY_VIT, vision_cfg={"pool_type": "avg", "final_ln_after_pool": True}
    ),
    "no-first-norm": varied(TINY_VIT, vision_cfg={"no_ln_pre": True}),
    "layer-scale": varied(
        TINY_VIT, vision_cfg={"ls_init_value": 0.1}, text_cfg={"ls_init_value": 0.1}
    ),
    "fixed-positions": varied(TINY_VIT, vision_cfg={"pos_embed_type": "sin_cos_2d"}),
    "patch-dropout": varied(TINY_VIT, vision_cfg={"patch_dropout": 0.5}),
    "projection-bias": varied(TINY_VIT, text_cfg={"proj_bias": True}),
    "last-token": varied(TINY_VIT, text_cfg={"pool_type": "last", "no_causal_mask": True}),
    "first-token": varied(TINY_VIT, text_cfg={"pool_type": "first", "no_causal_mask": True}),
    "tanh-gelu": varied(TINY_VIT, text_cfg={"act_kwargs": {"approximate": "tanh"}}),
    "attention-pool": varied(
        TINY_VIT, vision_cfg={"attentional_pool": True, "attn_pooler_heads": 4}
    ),
    "both-ways": varied(TINY_VIT, text_cfg={"no_causal_mask": True}),
    "short-context": varied(TINY_VIT, text_cfg={"context_length": 16}),
    "end-by-id": varied(TINY_VIT, text_cfg={"pool_type": "eos", "eos_id": 49407}),
    "norm-epsilon": varied(TINY_VIT, vision_cfg={"norm_kwargs": {"eps": 1e-2}}),
    "odd-heads": varied(TINY_VIT, vision_cfg={"width": 72, "head_width": 24}),
    "custom-text": {**TINY_VIT, "custom_text": True},
    "resnet": TINY_RESNET,
    "coca": TINY_COCA,
    "coca-both-ways": varied(TINY_COCA, text_cfg={"no_causal_mask": True}),
    "coca-wider-vectors": varied(TINY_COCA, vision_cfg={"width": 32}),
}


def _reference(folder: Path, config: dict[str, Any]) -> Reference:
    """A model none of whose parameters has a value that hides an error, such as 0 or 1."""
    reference = Reference.build(resolve_model(written(folder, "model", config), "random:7"), None)
    generator = torch.Generator().manual_seed(7)
    for name, tensor in reference.model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return reference


def _difference(ours: torch.Tensor, theirs: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    dim = theirs.shape[1]
    return float(np.abs(unit_rows(ours.numpy(), dim) - unit_rows(theirs, dim)).max())


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_tower_agrees_with_open_clip(variant: str, tmp_path: Path) -> None:
    """Both towers' unit vectors agree within 1e-5, and so do those of texts cut to their length."""
    reference = _reference(tmp_path, VARIANTS[variant])
    size = reference.preprocess.size
    side = size if isinstance(size, int) else size[0]
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    ids = reference.token_ids(TEXTS)

    image = graph.build_image_tower(reference.model.visual)(pixels)
    tower = graph.build_text_tower(reference.text_parts)
    onehot = reference.eot_onehot(ids)
    text = tower(torch.from_numpy(ids), torch.from_numpy(onehot))

    expected = reference.text_features(ids)
    assert _difference(image, reference.image_features(pixels.numpy())) <= 1e-5
    assert _difference(text, expected) <= 1e-5
    if not graph.max_text_length(tower):
        assert variant in ("both-ways", "last-token", "first-token") or "coca" in variant
        return
    for row, length in enumerate(text_lengths(onehot)):
        cut = tower(
            torch.from_numpy(ids[[row], :length]), torch.from_numpy(onehot[[row], :, :length])
        )
        assert _difference(cut, expected[[row]]) <= 1e-5


@torch.inference_mode()
def test_half_leaves_the_reference_alone(tmp_path: Path) -> None:
    """Making the wrapper float16 does not touch open_clip's own weights."""
    reference = _reference(tmp_path, TINY_VIT)
    before = reference.tensors_sha256()

    features = graph.build_image_tower(reference.model.visual).half()(torch.zeros(1, 3, 32, 32))

    assert features.dtype == torch.float32
    assert reference.tensors_sha256() == before
