"""Small graphs that break one rule of CoreML's each, and the same graphs repaired.

Each is the inside of ONNX's own text form: inputs => outputs <constants> { nodes }.
"""

from typing import NamedTuple

import onnx

from warmclip_export.coreml.basic_passes import to_float32_graph
from warmclip_export.coreml.lint import Placement, place_nodes


class Case(NamedTuple):
    """One rule."""

    reason: str  # what the lint says of the broken graph
    broken: str
    repaired: str
    kind: str = "refused"
    opset: int = 20


_ROW = "(float[batch,4] x) => (float[batch,4] y)"
_MATRIX = "float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}"
_VECTOR = "float[4] v = {1,2,3,4}"
_LONG = 16385

CASES = {
    "no builder": Case(
        "no builder for ReduceL2",
        f"{_ROW} <int64[1] a = {{1}}> {{ n = ReduceL2(x, a) y = Div(x, n) }}",
        f"{_ROW} <int64[1] a = {{1}}>"
        " { q = Mul(x, x) s = ReduceSum(q, a) n = Sqrt(s) y = Div(x, n) }",
    ),
    "another domain": Case(
        r"no builder for com\.microsoft\.BiasGelu",
        f"{_ROW} <{_VECTOR}> {{ y = com.microsoft.BiasGelu(x, v) }}",
        f"{_ROW} <{_VECTOR}> {{ z = Add(x, v) y = Gelu(z) }}",
    ),
    "old form": Case(
        "its form is that of opset 1,",
        "(float[batch,4] x) => (float[batch,2] y)"
        " { y = Slice<axes = [1], starts = [0], ends = [2]>(x) }",
        "(float[batch,4] x) => (float[batch,4] y) { y = Softmax<axis = 1>(x) }",
        opset=9,
    ),
    "negation": Case(
        "no builder for Neg",
        f"{_ROW} {{ y = Neg(x) }}",
        f"{_ROW} <float less = {{-1}}> {{ y = Mul(x, less) }}",
    ),
    "second axis symbolic": Case(
        "shape is not fixed",
        "(float[batch,n] x) => (float[batch,n] y) { y = Relu(x) }",
        "(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }",
    ),
    "six axes": Case(
        "an input has 6 axes",
        "(float[batch,1,1,1,1,4] x) => (float[batch,1,1,1,1,4] y) { y = Relu(x) }",
        "(float[batch,1,1,1,4] x) => (float[batch,1,1,1,4] y) { y = Relu(x) }",
    ),
    "nothing in it": Case(
        "an input is empty",
        "(float[batch,0] x) => (float[batch,0] y) { y = Relu(x) }",
        "(float[batch,1] x) => (float[batch,1] y) { y = Relu(x) }",
    ),
    "int32": Case(
        "its input is int32, not one of float, float16, int64",
        "(int32[batch,4] x) => (int32[batch,4] y) { y = Add(x, x) }",
        "(int64[batch,4] x) => (int64[batch,4] y) { y = Add(x, x) }",
    ),
    "pixels as bytes": Case(
        "its input is uint8",
        "(uint8[batch,4] x) => (float[batch,4] y) { z = Cast<to = 1>(x) y = Relu(z) }",
        "(int64[batch,4] x) => (float[batch,4] y) { z = Cast<to = 1>(x) y = Relu(z) }",
    ),
    "cast to bytes": Case(
        "it casts to uint8",
        "(float[batch,4] x) => (uint8[batch,4] y) { z = Relu(x) y = Cast<to = 2>(z) }",
        "(float[batch,4] x) => (int32[batch,4] y) { z = Relu(x) y = Cast<to = 6>(z) }",
    ),
    "convolution in 3-D": Case(
        "not 1-D or 2-D",
        "(float[batch,1,2,2,2] x) => (float[batch,1,2,2,2] y)"
        " <float[1,1,1,1,1] w = {2}> { y = Conv(x, w) }",
        "(float[batch,1,2,2] x) => (float[batch,1,2,2] y)"
        " <float[1,1,1,1] w = {2}> { y = Conv(x, w) }",
    ),
    "long convolution": Case(
        "an axis is 16385 long",
        f"(float[batch,1,1,{_LONG}] x) => (float[batch,1,1,{_LONG}] y)"
        " <float[1,1,1,1] w = {2}> { y = Conv(x, w) }",
        f"(float[batch,1,1,{_LONG - 1}] x) => (float[batch,1,1,{_LONG - 1}] y)"
        " <float[1,1,1,1] w = {2}> { y = Conv(x, w) }",
    ),
    "computed bias of a convolution": Case(
        "its bias is computed",
        "(float[batch,1,2,2] x, float[1] b) => (float[batch,1,2,2] y)"
        " <float[1,1,1,1] w = {2}> { y = Conv(x, w, b) }",
        "(float[batch,1,2,2] x) => (float[batch,1,2,2] y)"
        " <float[1,1,1,1] w = {2}, float[1] b = {1}> { y = Conv(x, w, b) }",
    ),
    "matrix by vector": Case(
        "one factor is a vector",
        f"(float[batch,4] x) => (float[batch] y) <{_VECTOR}> {{ y = MatMul(x, v) }}",
        "(float[batch,4] x) => (float[batch,1] y) <float[4,1] v = {1,2,3,4}> { y = MatMul(x, v) }",
    ),
    "computed weight": Case(
        "its weight is computed",
        "(float[batch,4] x, float[4,4] w) => (float[batch,4] y) { y = Gemm(x, w) }",
        f"{_ROW} <{_MATRIX}> {{ y = Gemm<transB = 1>(x, w) }}",
    ),
    "computed bias": Case(
        "its bias is computed",
        f"(float[batch,4] x, float[4] b) => (float[batch,4] y) <{_MATRIX}>"
        " { y = Gemm<transB = 1>(x, w, b) }",
        f"{_ROW} <{_MATRIX}, {_VECTOR}> {{ y = Gemm<transB = 1>(x, w, v) }}",
    ),
    "transposed activations": Case(
        "transA=1",
        f"(float[4,4] x) => (float[4,4] y) <{_MATRIX}> {{ y = Gemm<transA = 1>(x, w) }}",
        f"(float[4,4] x) => (float[4,4] y) <{_MATRIX}> {{ y = Gemm<transB = 1>(x, w) }}",
    ),
    "scaled product": Case(
        "alpha=2",
        f"{_ROW} <{_MATRIX}> {{ y = Gemm<alpha = 2.0>(x, w) }}",
        f"{_ROW} <{_MATRIX}> {{ y = Gemm(x, w) }}",
    ),
    "scaled bias": Case(
        "beta=2",
        f"{_ROW} <{_MATRIX}, {_VECTOR}> {{ y = Gemm<beta = 2.0>(x, w, v) }}",
        f"{_ROW} <{_MATRIX}, {_VECTOR}> {{ y = Gemm(x, w, v) }}",
    ),
    "bias of several rows": Case(
        r"its C has the shape \(2, 1\)",
        f"(float[2,4] x) => (float[2,4] y) <{_MATRIX}, float[2,1] c = {{1,2}}>"
        " { y = Gemm(x, w, c) }",
        f"(float[2,4] x) => (float[2,4] y) <{_MATRIX}, float[1,4] c = {{1,2,3,4}}>"
        " { y = Gemm(x, w, c) }",
    ),
    "computed scale": Case(
        "its scale is computed",
        "(float[batch,4] x, float[4] s) => (float[batch,4] y)"
        " { y = LayerNormalization<axis = -1>(x, s) }",
        f"{_ROW} <{_VECTOR}> {{ y = LayerNormalization<axis = -1>(x, v) }}",
    ),
    "mean of a layer norm": Case(
        "it gives mean or deviation",
        f"(float[batch,4] x) => (float[batch,4] y, float[batch,1] m) <{_VECTOR}>"
        " { y, m = LayerNormalization<axis = -1>(x, v) }",
        f"{_ROW} <{_VECTOR}> {{ y = LayerNormalization<axis = -1>(x, v) }}",
    ),
    "reciprocal": Case(
        "adds 1e-4",
        f"{_ROW} {{ y = Reciprocal(x) }}",
        f"{_ROW} <float one = {{1}}> {{ y = Div(one, x) }}",
        kind="inexact",
    ),
    "one slice of five axes": Case(
        "one slice of 5 axes",
        "(float[batch,1,1,2,4] x) => (float[batch,1,1,4] y) <int64 i = {1}>"
        " { y = Gather<axis = 3>(x, i) }",
        "(float[batch,1,1,2,4] x) => (float[batch,1,1,1,4] y) <int64[1] i = {1}>"
        " { y = Gather<axis = 3>(x, i) }",
    ),
    "gather that deepens": Case(
        "its output has more than 5 axes",
        "(float[batch,1,1,2,4] x) => (float[batch,1,1,1,1,4] y) <int64[1,1] i = {1}>"
        " { y = Gather<axis = 3>(x, i) }",
        "(float[batch,1,1,2,4] x) => (float[batch,1,1,1,4] y) <int64[1] i = {1}>"
        " { y = Gather<axis = 3>(x, i) }",
    ),
    "index from the end": Case(
        "an index is negative",
        "(float[batch,2,4] x) => (float[batch,4] y) <int64 i = {-1}>"
        " { y = Gather<axis = 1>(x, i) }",
        "(float[batch,2,4] x) => (float[batch,1,4] y)"
        " <int64[1] s = {-1}, int64[1] e = {2}, int64[1] a = {1}> { y = Slice(x, s, e, a) }",
        kind="inexact",
    ),
    "rows by computed index": Case(
        "its index is computed",
        "(float[batch,4] x, int64[1,1] i) => (float[1,4] y) { y = GatherND(x, i) }",
        "(float[batch,4] x, int64[1] i) => (float[1,4] y) { y = Gather(x, i) }",
    ),
    "computed shape": Case(
        "its shape is computed",
        "(float[batch,4] x, int64[2] s) => (float[2,m] y) { y = Reshape(x, s) }",
        "(float[batch,4] x) => (float[2,m] y) <int64[2] s = {2,-1}>"
        " { z = Relu(x) y = Reshape(z, s) }",
    ),
    "reshape to six axes": Case(
        "it makes 6 axes",
        "(float[4] x) => (float[1,1,1,1,1,4] y) <int64[6] s = {1,1,1,1,1,4}> { y = Reshape(x, s) }",
        "(float[4] x) => (float[1,1,1,1,4] y) <int64[5] s = {1,1,1,1,4}> { y = Reshape(x, s) }",
    ),
    "computed start": Case(
        "its start is computed",
        "(float[batch,4] x, int64[1] s) => (float[batch,m] y) <int64[1] e = {4}, int64[1] a = {1}>"
        " { y = Slice(x, s, e, a) }",
        "(float[batch,4] x) => (float[batch,m] y)"
        " <int64[1] s = {1}, int64[1] e = {4}, int64[1] a = {1}> { y = Slice(x, s, e, a) }",
    ),
    "nothing left": Case(
        "nothing is left of its input",
        "(float[batch,4] x) => (float[batch,0] y)"
        " <int64[1] s = {4}, int64[1] e = {4}, int64[1] a = {1}> { y = Slice(x, s, e, a) }",
        "(float[batch,4] x) => (float[batch,1] y)"
        " <int64[1] s = {3}, int64[1] e = {4}, int64[1] a = {1}> { y = Slice(x, s, e, a) }",
    ),
    "computed sizes": Case(
        "its list of sizes is computed",
        "(float[batch,4] x, int64[2] s) => (float[batch,m] y, float[batch,n] z)"
        " { y, z = Split<axis = 1>(x, s) }",
        "(float[batch,4] x) => (float[batch,m] y, float[batch,n] z) <int64[2] s = {1,3}>"
        " { y, z = Split<axis = 1>(x, s) }",
    ),
    "computed axes": Case(
        "its list of axes is computed",
        "(float[batch,4] x, int64[1] a) => (float[m,n] y) { y = ReduceSum(x, a) }",
        "(float[batch,4] x) => (float[batch,1] y) <int64[1] a = {1}> { y = ReduceSum(x, a) }",
    ),
    "unsqueeze to six axes": Case(
        "it makes 6 axes",
        "(float[batch,1,1,1,4] x) => (float[batch,1,1,1,4,1] y) <int64[1] a = {5}>"
        " { y = Unsqueeze(x, a) }",
        "(float[batch,1,1,4] x) => (float[batch,1,1,4,1] y) <int64[1] a = {4}>"
        " { y = Unsqueeze(x, a) }",
    ),
    "computed bound": Case(
        "its minimum is computed",
        "(float[batch,4] x, float m) => (float[batch,4] y) { y = Clip(x, m) }",
        f"{_ROW} <float m = {{-1}}> {{ y = Clip(x, m) }}",
    ),
    "bounds that are equal": Case(
        "its bounds are equal",
        f"{_ROW} <float m = {{1}}> {{ y = Clip(x, m, m) }}",
        f"{_ROW} <float m = {{1}}, float n = {{2}}> {{ y = Clip(x, m, n) }}",
    ),
    "bounds of integers": Case(
        "its bounds are no floats",
        "(int64[batch,4] x) => (int64[batch,4] y) <int64 m = {1}> { y = Clip(x, m) }",
        f"{_ROW} <float m = {{1}}> {{ y = Clip(x, m) }}",
    ),
    "batch norm of rows": Case(
        "its input has 2 axes, not 4",
        f"{_ROW} <{_VECTOR}> {{ y = BatchNormalization(x, v, v, v, v) }}",
        f"(float[batch,4,2,2] x) => (float[batch,4,2,2] y) <{_VECTOR}>"
        " { y = BatchNormalization(x, v, v, v, v) }",
    ),
    "computed scale of an instance norm": Case(
        "its scale is computed",
        f"(float[batch,4,2] x, float[4] s) => (float[batch,4,2] y) <{_VECTOR}>"
        " { y = InstanceNormalization(x, s, v) }",
        f"(float[batch,4,2] x) => (float[batch,4,2] y) <{_VECTOR}>"
        " { y = InstanceNormalization(x, v, v) }",
    ),
    "slope of rows": Case(
        "its input has 2 axes, not 3 to 4",
        f"{_ROW} <{_VECTOR}> {{ y = PRelu(x, v) }}",
        "(float[batch,4,2] x) => (float[batch,4,2] y)"
        " <float[4,1,1] v = {1,2,3,4}> { y = PRelu(x, v) }",
    ),
    "one slope of one channel": Case(
        r"its slope has the shape \(1,\)",
        "(float[batch,1,2,2] x) => (float[batch,1,2,2] y) <float[1] v = {0.5}> { y = PRelu(x, v) }",
        "(float[batch,2,2,2] x) => (float[batch,2,2,2] y) <float[1] v = {0.5}> { y = PRelu(x, v) }",
    ),
    "pad that cuts off": Case(
        "it cuts off",
        "(float[batch,4] x) => (float[batch,3] y) <int64[4] p = {0,-1,0,0}> { y = Pad(x, p) }",
        "(float[batch,4] x) => (float[batch,5] y) <int64[4] p = {0,1,0,0}> { y = Pad(x, p) }",
    ),
    "pad with the edge": Case(
        "mode=edge",
        "(float[batch,4] x) => (float[batch,5] y)"
        ' <int64[4] p = {0,1,0,0}> { y = Pad<mode = "edge">(x, p) }',
        "(float[batch,4] x) => (float[batch,5] y)"
        ' <int64[4] p = {0,1,0,0}> { y = Pad<mode = "reflect">(x, p) }',
    ),
    "reflected channels": Case(
        "it reflects another axis",
        "(float[batch,2,4,4] x) => (float[batch,3,4,4] y)"
        ' <int64[8] p = {0,1,0,0,0,0,0,0}> { y = Pad<mode = "reflect">(x, p) }',
        "(float[batch,2,4,4] x) => (float[batch,2,4,5] y)"
        ' <int64[8] p = {0,0,0,1,0,0,0,0}> { y = Pad<mode = "reflect">(x, p) }',
    ),
    "padded integers": Case(
        "its input is int64, not one of float, float16",
        "(int64[batch,4] x) => (int64[batch,5] y) <int64[4] p = {0,1,0,0}> { y = Pad(x, p) }",
        "(float[batch,4] x) => (float[batch,5] y) <int64[4] p = {0,1,0,0}> { y = Pad(x, p) }",
    ),
    "resized by halves": Case(
        "other than whole factors",
        "(float[batch,1,2,2] x) => (float[batch,1,3,3] y) <float[4] s = {1,1,1.5,1.5}>"
        ' { y = Resize<mode = "linear">(x, , s) }',
        "(float[batch,1,2,2] x) => (float[batch,1,4,4] y) <float[4] s = {1,1,2,2}>"
        ' { y = Resize<mode = "linear">(x, , s) }',
    ),
    "resized by cubes": Case(
        "no such resizing: cubic",
        "(float[batch,1,2,2] x) => (float[batch,1,4,4] y) <float[4] s = {1,1,2,2}>"
        ' { y = Resize<mode = "cubic">(x, , s) }',
        "(float[batch,1,4,4] x) => (float[batch,1,2,2] y) <float[4] s = {1,1,0.5,0.5}>"
        ' { y = Resize<mode = "nearest", nearest_mode = "floor",'
        ' coordinate_transformation_mode = "asymmetric">(x, , s) }',
    ),
    "resized channels": Case(
        "it resizes another axis",
        "(float[batch,1,2,2] x) => (float[batch,2,2,2] y) <float[4] s = {1,2,1,1}>"
        ' { y = Resize<mode = "linear">(x, , s) }',
        "(float[2,1,2,2] x) => (float[2,1,3,3] y) <int64[4] s = {2,1,3,3}>"
        ' { y = Resize<mode = "linear">(x, , , s) }',
    ),
    "depth of bytes": Case(
        "its input is uint8",
        "(uint8[batch,4,1,1] x) => (uint8[batch,1,2,2] y) { y = DepthToSpace<blocksize = 2>(x) }",
        "(float[batch,4,1,1] x) => (float[batch,1,2,2] y)"
        ' { y = DepthToSpace<blocksize = 2, mode = "CRD">(x) }',
    ),
    "tiles of bytes": Case(
        "its input is uint8",
        "(uint8[batch,4] x) => (uint8[batch,8] y) <int64[2] r = {1,2}> { y = Tile(x, r) }",
        "(int32[batch,4] x, bool[batch,4] b) => (int32[batch,8] y, bool[batch,8] c)"
        " <int64[2] r = {1,2}> { y = Tile(x, r) c = Tile(b, r) }",
    ),
    "rows of bytes": Case(
        "its input is uint8",
        "(uint8[2,4] x) => (uint8[1,4] y) <int64[1,1] i = {1}> { y = GatherND(x, i) }",
        "(int32[2,4] x, bool[2,4] b) => (int32[1,4] y, bool[1,4] c)"
        " <int64[1,1] i = {1}> { y = GatherND(x, i) c = GatherND(b, i) }",
    ),
    "pool in 1-D": Case(
        "does not pool in 2-D",
        "(float[batch,1,4] x) => (float[batch,1,2] y)"
        " { y = AveragePool<kernel_shape = [2], strides = [2]>(x) }",
        "(float[batch,1,4,4] x) => (float[batch,1,2,2] y)"
        " { y = AveragePool<kernel_shape = [2,2], strides = [2,2]>(x) }",
    ),
    "dilated pool": Case(
        "indices or dilations",
        "(float[batch,1,4,4] x) => (float[batch,1,2,2] y)"
        " { y = MaxPool<kernel_shape = [2,2], dilations = [2,2]>(x) }",
        "(float[batch,1,4,4] x) => (float[batch,1,3,3] y)"
        " { y = MaxPool<kernel_shape = [2,2], dilations = [1,1]>(x) }",
    ),
    "pool that tells where": Case(
        "indices or dilations",
        "(float[batch,1,4,4] x) => (float[batch,1,3,3] y, int64[batch,1,3,3] i)"
        " { y, i = MaxPool<kernel_shape = [2,2]>(x) }",
        "(float[batch,1,4,4] x) => (float[batch,1,3,3] y) { y = MaxPool<kernel_shape = [2,2]>(x) }",
    ),
    "choice between integers": Case(
        "its branches are no floats",
        "(bool[batch,4] x, int64[batch,4] p) => (int64[batch,4] y) { y = Where(x, p, p) }",
        "(bool[batch,4] x, float[batch,4] p) => (float[batch,4] y) { y = Where(x, p, p) }",
    ),
    "power of two types": Case(
        "its inputs differ in type",
        f"{_ROW} <int64 two = {{3}}> {{ y = Pow(x, two) }}",
        f"{_ROW} <float two = {{3}}> {{ y = Pow(x, two) }}",
    ),
    "last of the largest": Case(
        "select_last_index=1",
        "(float[batch,4] x) => (int64[batch,1] y)"
        " { y = ArgMax<axis = 1, select_last_index = 1>(x) }",
        "(float[batch,4] x) => (int64[batch,1] y) { y = ArgMax<axis = 1>(x) }",
    ),
    "largest token id": Case(
        "float16 tells none above 2048",
        "(int64[batch,4] x) => (int64[batch,1] y) { y = ArgMax<axis = 1>(x) }",
        "(float[batch,4] x) => (int64[batch,1] y) { y = ArgMax<axis = 1>(x) }",
        kind="inexact",
    ),
    "mask of minus infinity": Case(
        "a constant is not finite",
        f"{_ROW} <float[4] m = {{0, 0, 0, -inf}}> {{ y = Add(x, m) }}",
        f"{_ROW} <float[4] m = {{0, 0, 0, -1e4}}> {{ y = Add(x, m) }}",
        kind="inexact",
    ),
}


def parsed(inside: str, opset: int = 20) -> onnx.ModelProto:
    """The graph of a case."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    return onnx.parser.parse_model(f"{head} g {inside}")


def placed(model: onnx.ModelProto, batch: int) -> Placement:
    """What the lint says of it at one batch size."""
    return place_nodes(to_float32_graph(model), batch)
