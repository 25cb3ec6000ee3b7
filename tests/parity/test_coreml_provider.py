"""The lint beside what onnxruntime's real CoreML provider did with graphs, built on Linux.

That build is no part of the tests. What it was seen to do stands here, a row for each statement:
graphs of one node, and towers of other models as PyTorch exports them, which are narrower here,
or less deep.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from torch import nn

from coreml_cases import CASES, parsed, placed
from warmclip_export.coreml.lint import lint_graph

# What it does with an operator: the case of that rule, and which of its two graphs.
OPERATORS = {
    "Clip with equal bounds is refused": ("bounds that are equal", "broken"),
    "BatchNormalization is taken": ("batch norm of rows", "repaired"),
    "InstanceNormalization is taken": ("computed scale of an instance norm", "repaired"),
    "PRelu is taken": ("slope of rows", "repaired"),
    "Pad is taken": ("pad that cuts off", "repaired"),
    "Resize is taken": ("resized by halves", "repaired"),
    "DepthToSpace is taken": ("depth of bytes", "repaired"),
    "Softmax before opset 13 is taken": ("old form", "repaired"),
    "Tile of bool and int32 is taken": ("tiles of bytes", "repaired"),
    "GatherND of bool and int32 is taken": ("rows of bytes", "repaired"),
    "Neg is refused": ("negation", "broken"),
    "a product with -1 is taken": ("negation", "repaired"),
    "a negative index is undefined": ("index from the end", "broken"),
    "Slice from the end is taken": ("index from the end", "repaired"),
}


@pytest.mark.parametrize("statement", OPERATORS)
def test_operator(statement: str) -> None:
    """The lint has no finding where the provider took it and computed what ONNX says."""
    name, which = OPERATORS[statement]
    case = CASES[name]
    graph = case.broken if which == "broken" else case.repaired

    findings = placed(parsed(graph, case.opset), 2).findings
    assert (not findings) is statement.endswith("is taken")


_DIM = 32
_VIT = {"embed_dim": 64, "num_heads": 4, "img_size": 32}
_TEXT = {"context_length": 16, "vocab_size": 99, "width": 64, "heads": 4, "layers": 12}
_POOLED = {"pool": "avg", "proj": None}
_IMAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "SigLIP image": ("vit_base_patch16_siglip_224", {"pool": "map", "proj": "none"}, _VIT),
    "MobileCLIP2-S0 image": ("fastvit_mci0", _POOLED, {"embed_dims": (32, 32, 32, 64)}),
    "MobileCLIP2-S3 image": ("fastvit_mci3", _POOLED, {"layers": (1, 1, 1, 1, 1)}),
    "ConvNeXt image": (
        "convnext_base",
        {"pool": "", "proj": "linear"},
        {"dims": (16, 32, 32, 64)},
    ),
    "EVA02 image": ("eva02_base_patch16_clip_224", {"pool": "token", "proj": None}, _VIT),
}
_TEXTS: dict[str, dict[str, Any]] = {
    "SigLIP text": {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    "MobileCLIP text": {"no_causal_mask": True},
}
# Partitions, and what was refused.
TOWERS: dict[str, tuple[int, dict[str, int]]] = {
    "SigLIP image": (1, {}),
    "SigLIP text": (1, {}),
    "MobileCLIP2-S0 image": (1, {}),
    "MobileCLIP2-S3 image": (1, {}),
    "MobileCLIP text": (2, {"GatherND": 1}),
    "ConvNeXt image": (1, {}),
    "EVA02 image": (13, {"Neg": 24}),
}
# Nodes, where they were counted.
NODES = {"SigLIP image": 468, "SigLIP text": 509}
# What it takes, and the lint warns of: the position from the end; token ids in float16.
WARNED = {"SigLIP text": {"Gather"}, "MobileCLIP text": {"ArgMax"}}


@pytest.mark.filterwarnings("ignore")  # torch's exporter talks about itself
@pytest.mark.parametrize("name", TOWERS)
def test_tower_as_pytorch_exports_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many partitions as the provider made of it, and the same nodes left out."""
    tower: nn.Module
    if name in _IMAGES:
        timm_name, said, small = _IMAGES[name]
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **small))
        tower = TimmModel(timm_name, _DIM, **said)
        side = small.get("img_size", 64)
        example = torch.zeros(2, 3, side, side)
    else:
        tower = TextTransformer(output_dim=_DIM, **_TEXT, **_TEXTS[name])
        example = torch.ones(2, _TEXT["context_length"], dtype=torch.int64)
    program = torch.onnx.export(
        tower.eval(),
        (example,),
        dynamo=True,
        opset_version=18,
        input_names=["x"],
        output_names=["features"],
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "stock.onnx")

    (placement,) = lint_graph(tmp_path / "stock.onnx")

    refused = Counter(f.operator for f in placement.findings if f.complaint.kind == "refused")
    assert (placement.partitions, dict(refused)) == TOWERS[name]
    assert placement.taken == placement.nodes - sum(refused.values())
    assert placement.nodes == NODES.get(name, placement.nodes)
    warned = {f.operator for f in placement.findings if f.complaint.kind == "inexact"}
    assert warned == WARNED.get(name, set())
