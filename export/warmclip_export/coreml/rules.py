"""Which operations onnxruntime's CoreML provider takes, as data.

The rules are those of its MLProgram builders with static shapes, the same in onnxruntime 1.28 to
1.32 (onnxruntime/core/providers/coreml/builders). An operation that the provider takes and
computes otherwise than ONNX says is a complaint as well, of its own kind.
"""

import numpy as np
from onnx import TensorProto

from warmclip_export.coreml.conditions import (
    CASTABLE,
    MAX_RANK,
    Check,
    arg_max,
    attribute,
    axes_between,
    cast,
    clip,
    constant,
    gather,
    gemm,
    matmul,
    not_empty,
    one_output,
    output_rank,
    prelu,
    reciprocal,
    reshape,
    same_types,
    several,
    tile,
    where,
)
from warmclip_export.coreml.node import FLOATS, NUMBERS, Complaint, Operation, type_name
from warmclip_export.coreml.spatial import conv, pad, plain_windows, pool, resize

_HALF_MAX = float(np.finfo(np.float16).max)

_AXES = constant(1, "list of axes")
_POOL = (pool, attribute("storage_order", (0,), 0), plain_windows)
# Every operator with a builder, but for those whose conditions this lint does not know, and which
# count as refused: ConvTranspose, GridSample, GroupNormalization, LRN.
CONDITIONS: dict[str, tuple[Check, ...]] = {
    **dict.fromkeys(("Add", "And", "Div", "Max", "Mul", "Sub"), ()),
    **dict.fromkeys(("Ceil", "Cos", "Erf", "Exp", "Round", "Sin", "Sqrt"), ()),
    **dict.fromkeys(("Elu", "Gelu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid"), ()),
    **dict.fromkeys(("Softmax", "Softplus", "Tanh"), ()),
    **dict.fromkeys(("DepthToSpace", "Identity", "Shape", "Transpose"), ()),
    "ArgMax": (attribute("select_last_index", (0,), 0), arg_max),
    "AveragePool": _POOL,
    "BatchNormalization": (
        constant(1, "scale"),
        constant(2, "bias"),
        constant(3, "mean"),
        constant(4, "variance"),
        axes_between(4, 4),
        one_output,
    ),
    "Cast": (cast,),
    "Clip": (constant(1, "minimum"), constant(2, "maximum"), clip),
    "Concat": (several("inputs"),),
    "Conv": (conv, constant(2, "bias")),
    "Gather": (gather,),
    "GatherND": (constant(1, "index"), attribute("batch_dims", (0,), 0)),
    "Gemm": (
        constant(1, "weight"),
        constant(2, "bias"),
        attribute("transA", (0,), 0),
        attribute("alpha", (1.0,), 1.0),
        attribute("beta", (1.0,), 1.0),
        gemm,
    ),
    "GlobalAveragePool": (pool,),
    "GlobalMaxPool": (pool,),
    "InstanceNormalization": (constant(1, "scale"), constant(2, "bias"), same_types),
    "LayerNormalization": (
        constant(1, "scale"),
        constant(2, "bias"),
        attribute("stash_type", (1,), 1),
        same_types,
        one_output,
    ),
    "MatMul": (matmul,),
    "MaxPool": _POOL,
    "PRelu": (constant(1, "slope"), axes_between(3, 4), prelu),
    "Pad": (constant(1, "list of pads"), constant(2, "value"), constant(3, "list of axes"), pad),
    "Pow": (same_types,),
    "Reciprocal": (reciprocal,),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), (_AXES,)),
    "Reshape": (constant(1, "shape"), reshape),
    "Resize": (
        constant(2, "list of scales"),
        constant(3, "list of sizes"),
        axes_between(3, MAX_RANK),
        resize,
    ),
    "Slice": (
        constant(1, "start"),
        constant(2, "end"),
        constant(3, "list of axes"),
        constant(4, "step"),
        not_empty,
    ),
    "Split": (constant(1, "list of sizes"), several("outputs")),
    "Squeeze": (_AXES,),
    "Tile": (tile,),
    "Unsqueeze": (_AXES, output_rank),
    "Where": (where,),
    "com.microsoft.FusedConv": (conv, constant(2, "bias"), constant(3, "summand")),
    "com.microsoft.QuickGelu": (),
}

# Of the form that an operator may have, by the opset which defined it.
_OLDEST = {
    **dict.fromkeys(("Add", "BatchNormalization", "Div", "Mul", "Sub"), 7),
    **dict.fromkeys(("Pad", "Resize"), 11),
    "Slice": 10,
}
_NEWEST = 27
_TYPES: dict[str, tuple[int, ...]] = {
    "And": (TensorProto.BOOL,),
    "Cast": CASTABLE,
    "GatherND": CASTABLE,
    "Pad": FLOATS,
    "Tile": CASTABLE,
    "Where": (TensorProto.BOOL,),
}

_REMEDIES = {
    "Attention": "export with opset 22 or older, and attention written out",
    "Expand": "let the next operator broadcast",
    "Flatten": "use Reshape",
    "GatherElements": "multiply by a one-hot row that the host makes",
    "Neg": "multiply by -1",
    "ReduceL2": "normalise on the host, or write Mul, ReduceSum, Sqrt",
    "ScatterND": "multiply by a mask that the host makes",
}


def check_operation(operation: Operation) -> Complaint | None:
    """The first complaint about an operation; None if CoreML takes it and computes it right."""
    general = (_has_builder, _opset, _shapes, _element_types)
    for check in (*general, *CONDITIONS.get(operation.qualified, ()), _finite_constants):
        complaint = check(operation)
        if complaint is not None:
            return complaint
    return None


def _has_builder(op: Operation) -> Complaint | None:
    if op.qualified in CONDITIONS:
        return None
    remedy = "write it with operators that have a builder"
    if not op.is_standard:
        remedy = "give CoreML a file that no optimiser has fused"
    return Complaint(
        reason=f"no builder for {op.qualified}", remedy=_REMEDIES.get(op.qualified, remedy)
    )


def _opset(op: Operation) -> Complaint | None:
    oldest, newest = _OLDEST.get(op.kind, 1), _NEWEST
    if oldest <= op.since <= newest:
        return None
    return Complaint(
        reason=f"its form is that of opset {op.since}, builders know {oldest} to {newest}",
        remedy="export with opset 18 or 20",
    )


def _shapes(op: Operation) -> Complaint | None:
    for value in op.inputs:
        if value is None:
            continue
        if value.shape is None or None in value.shape:
            return Complaint(
                reason="an input's shape is not fixed",
                remedy="make only the first axis symbolic, and pin it",
            )
        if len(value.shape) > MAX_RANK:
            return Complaint(
                reason=f"an input has {len(value.shape)} axes, CoreML knows {MAX_RANK}",
                remedy="reshape to at most five axes",
            )
        if 0 in value.shape:
            return Complaint(
                reason="an input is empty, with an axis of length 0", remedy="leave it out"
            )
    return None


def _element_types(op: Operation) -> Complaint | None:
    first = op.input(0)
    allowed = _TYPES.get(op.kind, NUMBERS)
    if first is None or first.dtype in allowed:
        return None
    names = ", ".join(type_name(dtype) for dtype in allowed)
    return Complaint(
        reason=f"its input is {type_name(first.dtype)}, not one of {names}",
        remedy="compute it on the host, or in int64 or float32",
    )


def _finite_constants(op: Operation) -> Complaint | None:
    is_half = any(v is not None and v.dtype == TensorProto.FLOAT16 for v in op.inputs)
    for value in op.inputs:
        if value is None or value.array is None or value.dtype not in FLOATS:
            continue
        largest = np.abs(value.array).max(initial=0.0)
        if not np.isfinite(largest) or (is_half and largest > _HALF_MAX):
            return Complaint(
                reason="a constant is not finite in its type, and becomes NaN on some devices",
                remedy="mask with -1e4",
                kind="inexact",
            )
    return None
