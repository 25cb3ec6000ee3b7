"""A tower's linear layers in eight bits, except those that lose too much by it.

A linear layer's inputs are rounded to 8 bits as they come, each row by its own largest value; its
weights were rounded before, each output channel by its own. The products are integers. So a row
depends on itself alone, bit for bit. onnxruntime's own dynamic quantization rounds a whole batch
by one scale, and a picture's vector would depend on its neighbours (microsoft/onnxruntime#10111).

Weights use 7 of the 8 bits. Processors without VNNI add pairs of products in 16 bits: with 8 they
would saturate there without a word, on another machine than the one that exported.

What else computes, convolutions, layer norms, attention's own products and the projection, stays
in float32: little time is spent there.
"""

import bisect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from warmclip.errors import BadVectors
from warmclip.inference.arrays import Vectors, unit_rows
from warmclip.inference.bundle import Tower
from warmclip_export.errors import ExportRefused
from warmclip_export.fp16.emulation import Feeds, run_rows
from warmclip_export.parity.bounds import cpu_bounds

# Half of what the gate allows: the samples are few, and other pictures are further off.
_TARGET_COSINE = 1 - (1 - cpu_bounds("int8").cosine) / 2
# Of the weights of a tower's layers: with less, it would hardly be faster.
_MIN_SHARE = 0.5
_RANKED_ON = 4  # each so many-th sample: a rank needs fewer than a bound, and layers are many
_DOMAIN = "com.microsoft"
_INPUT_STEPS = 127  # from 0 to a row's largest value
_WEIGHT_STEPS = 64  # 255 * 64 * 2 is the last that 16 bits hold
# What every layer shares, by name.
_CONSTANTS = {
    "int8_step": np.float32(1 / _INPUT_STEPS),
    "int8_zero": np.uint8(128),
    "int8_axis": np.array([-1], np.int64),
    "int8_least": np.float32(1e-30),  # of a row of zeros
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A tower in eight bits.

    Attributes:
        model: the graph.
        layers: how many linear layers could be quantized.
        kept: those that were left in float32, by the names of their nodes, the worst first, each
            with the lowest cosine when it alone is quantized, on a quarter of the samples.
        cosine: the lowest to open_clip's vectors, on the samples.
        cosine_of_all: the same with every layer quantized.
    """

    model: onnx.ModelProto
    layers: int
    kept: Mapping[str, float]
    cosine: float
    cosine_of_all: float

    def as_json(self) -> dict[str, Any]:
        """What the certificate says of it."""
        return {
            "layers": self.layers,
            "kept_in_float32": dict(self.kept),
            "lowest_cosine": self.cosine,
            "lowest_cosine_with_all": self.cosine_of_all,
        }


def quantize_tower(
    graph: Path,
    feeds: Feeds,
    vectors: Vectors,
    tower: Tower,
    *,
    searching: Callable[[], None] = lambda: None,
) -> Quantized:
    """Quantize a float32 file, keeping as many layers as the samples ask for.

    Where not every layer can be quantized, each is tried alone, and those that hurt most are kept.

    Args:
        graph: the file.
        feeds: its inputs by name.
        vectors: open_clip's unit vectors of these, shape (n, dim).
        tower: as it is called in an error.
        searching: called before the layers are tried one by one, which takes minutes.

    Raises:
        ExportRefused: too little of the tower would be left to quantize.
    """
    original = onnx.load(graph)
    layers = _layers(original)
    _check_share(original, layers, tower, "")

    def cosine(chosen: Collection[str], every: int = 1) -> float:
        some = {name: array[::every] for name, array in feeds.items()}
        return _lowest_cosine(quantize_layers(original, chosen), some, vectors[::every])

    cosine_of_all = cosine(layers)
    kept: dict[str, float] = {}
    if not cosine_of_all >= _TARGET_COSINE:
        searching()
        kept = _sensitive(layers, cosine)
        _check_share(original, set(layers) - set(kept), tower, f" beside {', '.join(kept)}")
    model = quantize_layers(original, set(layers) - set(kept))
    return Quantized(
        model=model,
        layers=len(layers),
        kept=kept,
        cosine=_lowest_cosine(model, feeds, vectors) if kept else cosine_of_all,
        cosine_of_all=cosine_of_all,
    )


def int8_notes(found: Mapping[Tower, Quantized]) -> list[str]:
    """A sentence for each tower that is not in eight bits alone."""
    return [
        f"in the {tower} tower's int8 file {len(it.kept)} of {it.layers} linear layers stay "
        f"float32 ({', '.join(it.kept)}): with all of them in int8 the lowest cosine is "
        f"{it.cosine_of_all:.5f}"
        for tower, it in found.items()
        if it.kept
    ]


def quantized_as_json(found: Mapping[Tower, Quantized]) -> dict[str, Any]:
    """What the certificate says of both towers."""
    return {tower: it.as_json() for tower, it in found.items()}


def quantize_layers(model: onnx.ModelProto, chosen: Collection[str]) -> onnx.ModelProto:
    """The same graph with some of its linear layers in eight bits.

    Args:
        model: of float32, as the exporter writes it.
        chosen: the names of the nodes.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    made.opset_import.extend([*model.opset_import, helper.make_opsetid(_DOMAIN, 1)])
    graph = made.graph
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in _CONSTANTS.items()
    )
    rounded: set[str] = set()
    for node in model.graph.node:
        if node.name not in chosen:
            graph.node.append(node)
            continue
        value, weight = node.input[0], weights.pop(node.input[1])
        if value not in rounded:  # queries, keys and values see the same one
            graph.node.extend(_rounding(value))
            rounded.add(value)
        graph.node.extend(_product(node))
        integers, steps = quantize_weight(numpy_helper.to_array(weight))
        graph.initializer.extend(
            [
                numpy_helper.from_array(integers.T.copy(), f"{weight.name}_int8"),
                numpy_helper.from_array(steps, f"{weight.name}_steps"),
            ]
        )
    graph.initializer.extend(weights.values())
    return made


def quantize_weight(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """A weight, shape (outputs, inputs), as integers and what a step of each output is worth."""
    steps = np.abs(weight).max(axis=1) / _WEIGHT_STEPS
    integers = np.rint(weight / np.where(steps == 0, 1, steps)[:, None])
    return integers.astype(np.int8), steps.astype(np.float32)


def _rounding(value: str) -> list[onnx.NodeProto]:
    """Rows divided by their largest absolute value, and rounded."""
    largest, shares = f"{value}_largest", f"{value}_shares"
    steps = [
        ("Abs", [value], f"{value}_absolute"),
        ("ReduceMax", [f"{value}_absolute", "int8_axis"], f"{largest}_or_0"),
        ("Max", [f"{largest}_or_0", "int8_least"], largest),
        ("Div", [value, largest], shares),
        ("QuantizeLinear", [shares, "int8_step", "int8_zero"], f"{value}_int8"),
    ]
    return [
        helper.make_node(kind, inputs, [output], name=f"{output}_{kind}")
        for kind, inputs, output in steps
    ]


def _product(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A layer of rounded inputs and weights; what a row is divided by is multiplied again."""
    value, weight, *bias = node.input
    (output,) = node.output
    scaled = f"{output}_scaled" if bias else output
    product = helper.make_node(
        "MatMulIntegerToFloat",
        [f"{value}_int8", f"{weight}_int8", "int8_step", f"{weight}_steps", "int8_zero"],
        [f"{output}_product"],
        name=node.name,
        domain=_DOMAIN,
    )
    nodes = [
        product,
        helper.make_node(
            "Mul", [f"{output}_product", f"{value}_largest"], [scaled], name=f"{node.name}_Mul"
        ),
    ]
    if bias:
        nodes.append(helper.make_node("Add", [scaled, *bias], [output], name=f"{node.name}_Add"))
    return nodes


def _layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """The linear layers that can be quantized, but for the projection, which sees few rows."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if _is_linear(node) and node.input[1] in constants and not node.name.startswith("project_")
    )


def _is_linear(node: onnx.NodeProto) -> bool:
    """Whether a node is x @ weight.T + bias, as the exporter writes linear layers."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    unsaid = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return node.op_type == "Gemm" and unsaid | given == unsaid | {"transB": 1}


def _check_share(
    model: onnx.ModelProto, layers: Collection[str], tower: Tower, beside: str
) -> None:
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    weights = {
        node.name: sizes.get(node.input[1], 0)
        for node in model.graph.node
        if node.op_type in ("Gemm", "MatMul", "Conv")
    }
    share = sum(weights[layer] for layer in layers) / max(sum(weights.values()), 1)
    if share < _MIN_SHARE:
        raise ExportRefused(
            f"only {share:.0%} of the {tower} tower's weights can be in int8{beside}, too little "
            "to be faster: export it without --precision int8; no bundle was written"
        )


def _sensitive(
    layers: Sequence[str], cosine: Callable[[Collection[str], int], float]
) -> dict[str, float]:
    """The fewest layers to keep so that the aim is reached, of those that hurt most alone."""
    alone = {layer: cosine([layer], _RANKED_ON) for layer in layers}
    worst_first = sorted(layers, key=alone.__getitem__)
    fewest = bisect.bisect_left(
        range(len(layers)), True, key=lambda kept: cosine(worst_first[kept:], 1) >= _TARGET_COSINE
    )
    return {layer: alone[layer] for layer in worst_first[:fewest]}


def _lowest_cosine(model: onnx.ModelProto, feeds: Feeds, vectors: Vectors) -> float:
    features = np.concatenate([run[0] for run in run_rows(model, ["features"], feeds)])
    try:
        ours = unit_rows(features, vectors.shape[1])
    except BadVectors:  # worse than any vector
        return -1.0
    return float((ours * vectors).sum(axis=1).min())
