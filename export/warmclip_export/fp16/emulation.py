"""float16 as an accelerator computes it, on a CPU that does not.

onnxruntime's CPU computes float16 graphs in float32 and so hides what overflows and what is lost.
Here a graph is rewritten in float32, each node's result is rounded to float16 where the file says
float16, and LayerNormalization and Softmax are written out, since their inner results are rounded
too and squares are what overflows first. What is modelled:

- weights and every result, rounded to the nearest float16; beyond 65504 it is infinite;
- in a layer norm the mean, the differences, their squares and what follows; softmax likewise;
- sums inside one operation (products of matrices, means) in float32, rounded once at the end. So do
  Apple's GPUs unless told otherwise; what the Neural Engine does inside is not published.

Some accelerators flush subnormals, below 6.1e-5, to zero; so may the emulation, weights included.
Not modelled: other orders of summing, approximate exp, erf and sqrt.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from warmclip.inference.arrays import Features
from warmclip.inference.ort.loading import load_onnxruntime
from warmclip_export.element_types import is_apart, value_types, widen

Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]

# They move values, and make none that was not there.
MOVES = frozenset(
    (
        *("Concat", "Expand", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Slice"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    )
)
_ROWS = 8  # of one run
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where onnxruntime looks for the weights of a model that it is given in memory."""
_DOMAIN = "fp16"
SQUARES = " squares"  # of a layer norm, as a result of their own
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)

ROUNDED = "Round (x) => (y) { h = Cast<to = 10>(x) y = Cast<to = 1>(h) }"
FLUSHED = f"""Round (x) => (y) {{
    h = Cast<to = 10>(x)  wide = Cast<to = 1>(h)
    normal = Constant<value_float = {_SMALLEST_NORMAL}>()  zero = Constant<value_float = 0.0>()
    size = Abs(wide)  is_below = Less(size, normal)
    y = Where(is_below, zero, wide)
}}"""
EXACT = "Round (x) => (y) { y = Identity(x) }"
_NORM = """LayerNormalization <epsilon> (x, scale, bias) => (y, largest) {
    last = Constant<value_ints = [-1]>()
    mean = ReduceMean(x, last)  mean_r = fp16.Round(mean)
    away = Sub(x, mean_r)       away_r = fp16.Round(away)
    square = Mul(away_r, away_r)  square_r = fp16.Round(square)
    variance = ReduceMean(square_r, last)  variance_r = fp16.Round(variance)
    e = Constant<value_float: float = @epsilon>()  e_r = fp16.Round(e)
    above = Add(variance_r, e_r)  above_r = fp16.Round(above)
    deviation = Sqrt(above_r)   deviation_r = fp16.Round(deviation)
    unit = Div(away_r, deviation_r)  unit_r = fp16.Round(unit)
    scaled = Mul(unit_r, scale) scaled_r = fp16.Round(scaled)
    y = Add(scaled_r, bias)
    largest = fp16.Largest(square)
}"""
_SOFTMAX = """Softmax <axis> (x) => (y) {
    one = Constant<value_ints = [1]>()
    a = Constant<value_int: int = @axis>()  along = Reshape(a, one)
    top = ReduceMax(x, along)
    below = Sub(x, top)         below_r = fp16.Round(below)
    power = Exp(below_r)        power_r = fp16.Round(power)
    sum = ReduceSum(power_r, along)  sum_r = fp16.Round(sum)
    y = Div(power_r, sum_r)
}"""
_LARGEST = "Largest (x) => (y) { a = Abs(x) y = ReduceMax<keepdims = 0>(a) }"


def emulate_fp16(graph: Path, feeds: Feeds, *, flushes: bool = False) -> Features:
    """The features that a float16 file gives where results are rounded, shape (n, dim).

    Args:
        graph: the file.
        feeds: its inputs by name.
        flushes: whether subnormals are taken for zero.
    """
    model = onnx.load(graph, load_external_data=False)
    halves = {name for name, dtype in value_types(model).items() if dtype == TensorProto.FLOAT16}
    cast = widen(model)
    if flushes:
        _flush_weights(model, halves)
        halves |= cast
    add_observers(model, halves, FLUSHED if flushes else ROUNDED)
    runs = run_rows(model, ["features"], feeds, graph.parent)
    features: Features = np.concatenate([run[0] for run in runs])
    return features


def _flush_weights(model: onnx.ModelProto, halves: set[str]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in halves and not is_apart(tensor):
            array = numpy_helper.to_array(tensor)
            normal = np.where(np.abs(array) < _SMALLEST_NORMAL, np.float32(0), array)
            tensor.CopyFrom(numpy_helper.from_array(normal, tensor.name))


def add_observers(
    model: onnx.ModelProto, values: set[str], rounding: str
) -> dict[str, tuple[str, str]]:
    """Round some values where they are made, in place, and add outputs that tell how far they go.

    Returns:
        The name of each such output -> the value's name, and what of it is meant.
    """
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    head = f'<opset_import: ["" : {opset}, "{_DOMAIN}" : 1], domain: "{_DOMAIN}">'
    for text in (rounding, _LARGEST, _NORM, _SOFTMAX):
        model.functions.append(onnx.parser.parse_function(f"{head} {text}"))
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    graph = model.graph
    graph.initializer.append(helper.make_tensor("no_bias", TensorProto.FLOAT, [1], [0.0]))
    observed: dict[str, tuple[str, str]] = {}
    nodes = list(graph.node)
    del graph.node[:]
    for original in nodes:
        node = graph.node.add()
        node.CopyFrom(original)
        value = node.output[0]
        if node.op_type in MOVES or value not in values:
            continue
        exact, largest = f"{value}_exact", f"{value}_largest"
        node.output[0] = exact
        if _is_written_out(node):
            node.domain = _DOMAIN
        if node.domain == _DOMAIN and node.op_type == "LayerNormalization":
            node.input.extend(["no_bias"] * (3 - len(node.input)))
            node.output.append(f"{largest}_{SQUARES.strip()}")
            observed[node.output[1]] = value, SQUARES
        observed[largest] = value, ""
        graph.node.extend(
            [
                helper.make_node("Round", [exact], [value], domain=_DOMAIN),
                helper.make_node("Largest", [exact], [largest], domain=_DOMAIN),
            ]
        )
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in observed
    )
    return observed


def _is_written_out(node: onnx.NodeProto) -> bool:
    """Whether a node is an operator that is written out, over the last axis."""
    defaults: dict[str, dict[str, float]] = {
        "LayerNormalization": {"axis": -1, "epsilon": 1e-5},
        "Softmax": {"axis": -1},
    }
    if node.op_type not in defaults:
        return False
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "axis" in attributes and attributes["axis"].i != -1:
        return False
    for name, default in defaults[node.op_type].items():
        if name not in attributes:
            node.attribute.append(helper.make_attribute(name, default))
    return True


def run_rows(
    model: onnx.ModelProto, outputs: list[str], feeds: Feeds, folder: Path | None = None
) -> Iterator[list[Any]]:
    """Run a model over the rows of its inputs, a few at a time.

    Args:
        model: the model.
        outputs: which of its values are wanted.
        feeds: its inputs by name.
        folder: where the file lies that has its weights, if they are apart.
    """
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    # No pass may fuse, or take two casts that follow each other for one too many.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # An output that tells how far a value goes is made right after it. In the default order all of
    # them come last, and each value is kept for its own: 6 GB for an image tower of 143 MB.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if folder is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, str(folder.absolute()))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows = len(next(iter(feeds.values())))
    for start in range(0, rows, _ROWS):
        part = {name: array[start : start + _ROWS] for name, array in feeds.items()}
        yield session.run(outputs, part)
