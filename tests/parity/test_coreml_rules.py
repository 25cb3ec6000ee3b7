"""The CoreML lint's rules on single nodes, without a graph: what each operator may have."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto

from warmclip_export.coreml.node import Operation, Value
from warmclip_export.coreml.rules import CONDITIONS, check_operation

FLOAT, HALF, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
)
DOUBLE, BYTE, BOOL = TensorProto.DOUBLE, TensorProto.UINT8, TensorProto.BOOL


def computed(*shape: int | None, dtype: int = FLOAT) -> Value:
    """A value that another node makes."""
    return Value(name="x", dtype=dtype, shape=shape)


def constant(array: npt.ArrayLike, dtype: int = FLOAT) -> Value:
    """A weight, or what was folded to one."""
    known = np.asarray(array)
    return Value(name="c", dtype=dtype, shape=known.shape, is_constant=True, array=known)


def ints(*numbers: int) -> Value:
    """A list of axes, sizes and the like."""
    return constant(np.array(numbers, np.int64), INT64)


def node(kind: str, *inputs: Value | None, **attributes: Any) -> Operation:
    """A node with one output that is shaped as its first input, of opset 17."""
    domain, _, name = kind.rpartition(".")
    first = inputs[0] or computed(1)
    return Operation(
        name="n",
        kind=name,
        domain=domain,
        since=17,
        attributes=attributes,
        inputs=inputs,
        outputs=(replace(first, name="y"),),
    )


def several(op: Operation, outputs: int) -> Operation:
    """The node with so many outputs."""
    return replace(op, outputs=op.outputs * outputs)


REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
ROWS, MAPS = computed(2, 4), computed(1, 4, 4, 4)
FOUR = constant([1.0, 2.0, 3.0, 4.0])
HALVES = replace(FOUR, dtype=HALF)
KERNEL = constant(np.ones((4, 4, 1, 1), np.float32))
SOUND = {
    "ArgMax": node("ArgMax", ROWS),
    "AveragePool": node("AveragePool", MAPS),
    "BatchNormalization": node("BatchNormalization", MAPS, FOUR, FOUR, FOUR, FOUR),
    "Cast": node("Cast", ROWS, to=INT64),
    "Clip": node("Clip", ROWS, constant(0.0), constant(1.0)),
    "Concat": node("Concat", ROWS, ROWS),
    "Conv": node("Conv", MAPS, KERNEL, FOUR),
    "Gather": node("Gather", ROWS, ints(1)),
    "GatherND": node("GatherND", ROWS, constant([[1]], INT64)),
    "Gemm": node("Gemm", ROWS, constant(np.ones((4, 3))), constant([1.0, 2.0, 3.0])),
    "GlobalAveragePool": node("GlobalAveragePool", MAPS),
    "GlobalMaxPool": node("GlobalMaxPool", MAPS),
    "InstanceNormalization": node("InstanceNormalization", MAPS, FOUR, FOUR),
    "LayerNormalization": node("LayerNormalization", ROWS, FOUR, FOUR),
    "MatMul": node("MatMul", ROWS, computed(4, 2)),
    "MaxPool": node("MaxPool", MAPS),
    "PRelu": node("PRelu", MAPS, constant(np.ones((4, 1, 1)))),
    "Pad": node("Pad", ROWS, ints(0, 1, 0, 0), constant(0.0), ints(0, 1)),
    "Pow": node("Pow", ROWS, constant(2.0)),
    "Reshape": node("Reshape", ROWS, ints(8)),
    "Resize": node("Resize", MAPS, None, constant([1.0, 1.0, 1.0, 1.0]), mode="linear"),
    "Slice": node("Slice", ROWS, ints(0), ints(1), ints(0), ints(1)),
    "Split": several(node("Split", ROWS, ints(1, 1)), 2),
    "Tile": node("Tile", ROWS, ints(1, 2)),
    "Unsqueeze": node("Unsqueeze", ROWS, ints(0)),
    "Where": node("Where", computed(2, 4, dtype=BOOL), ROWS, ROWS),
    "And": node("And", computed(2, dtype=BOOL), computed(2, dtype=BOOL)),
    "com.microsoft.FusedConv": node("com.microsoft.FusedConv", MAPS, KERNEL, FOUR, KERNEL),
} | {kind: node(kind, ROWS, ints(1)) for kind in (*REDUCTIONS, "Squeeze")}


def complaint(op: Operation) -> str:
    """What is said of a node; empty if nothing is."""
    found = check_operation(op)
    return "" if found is None else found.reason


@pytest.mark.parametrize("kind", [kind for kind in CONDITIONS if kind != "Reciprocal"])
def test_operator_that_is_taken(kind: str) -> None:
    """With what it has to have, of the oldest opset that is known and of the newest."""
    op = SOUND.get(kind) or node(kind, ROWS)
    oldest = {"Pad": 11, "Resize": 11, "Slice": 10} | dict.fromkeys(
        ("Add", "BatchNormalization", "Div", "Mul", "Sub"), 7
    )
    first = oldest.get(kind, 1)
    assert complaint(op) == ""
    assert [complaint(replace(op, since=since)) for since in (first, 27)] == ["", ""]
    for since in (first - 1, 28):
        said = f"its form is that of opset {since}, builders know {first} to 27"
        assert complaint(replace(op, since=since)) == said


CONSTANTS = {
    "BatchNormalization": {1: "scale", 2: "bias", 3: "mean", 4: "variance"},
    "Clip": {1: "minimum", 2: "maximum"},
    "Conv": {2: "bias"},
    "GatherND": {1: "index"},
    "Gemm": {1: "weight", 2: "bias"},
    "InstanceNormalization": {1: "scale", 2: "bias"},
    "LayerNormalization": {1: "scale", 2: "bias"},
    "PRelu": {1: "slope"},
    "Pad": {1: "list of pads", 2: "value", 3: "list of axes"},
    "Reshape": {1: "shape"},
    "Resize": {2: "list of scales"},
    "Slice": {1: "start", 2: "end", 3: "list of axes", 4: "step"},
    "Split": {1: "list of sizes"},
    "com.microsoft.FusedConv": {2: "bias", 3: "summand"},
} | {kind: {1: "list of axes"} for kind in (*REDUCTIONS, "Squeeze", "Unsqueeze")}


@pytest.mark.parametrize(
    ("kind", "index", "what"),
    [(kind, index, what) for kind, told in CONSTANTS.items() for index, what in told.items()],
)
def test_input_that_may_not_be_computed(kind: str, index: int, what: str) -> None:
    """It is named; left out, it is no reason to complain."""
    op = SOUND[kind]
    inputs = list(op.inputs)
    given = inputs[index]
    assert given is not None
    inputs[index] = replace(given, is_constant=False, array=None)
    assert complaint(replace(op, inputs=tuple(inputs))) == f"its {what} is computed, not constant"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("ArgMax", "select_last_index", 0),
        ("AveragePool", "storage_order", 0),
        ("MaxPool", "storage_order", 0),
        ("GatherND", "batch_dims", 0),
        ("Gemm", "transA", 0),
        ("Gemm", "alpha", 1.0),
        ("Gemm", "beta", 1.0),
        ("LayerNormalization", "stash_type", 1),
    ],
)
def test_attribute_of_one_value(kind: str, name: str, value: float) -> None:
    """The value that it has anyhow may be written out; the next ones are refused."""
    op = SOUND[kind]
    assert complaint(replace(op, attributes={name: value})) == ""
    for other in (value + 1, value - 1):
        found = check_operation(replace(op, attributes={name: other}))
        assert found is not None
        assert (found.reason, found.remedy) == (f"{name}={other}", f"use {name}={value}")


WIDE = computed(1, 1, 1, 1, 4)
TENSORS = (
    (ROWS, ""),
    (WIDE, ""),
    (computed(1, 1, 1, 1, 1, 4), "an input has 6 axes, CoreML knows 5"),
    (computed(2, None), "an input's shape is not fixed"),
    (replace(ROWS, shape=None), "an input's shape is not fixed"),
    (computed(2, 0), "an input is empty, with an axis of length 0"),
    (replace(ROWS, dtype=HALF), ""),
    (replace(ROWS, dtype=INT64), ""),
    *(
        (replace(ROWS, dtype=dtype), f"its input is {name}, not one of float, float16, int64")
        for dtype, name in ((INT32, "int32"), (BYTE, "uint8"), (BOOL, "bool"), (DOUBLE, "double"))
    ),
    (constant([1.0, np.inf]), "a constant is not finite"),
    (constant([1.0, np.nan]), "a constant is not finite"),
    (constant([-1e30, 1.0]), ""),
    (constant([65504.0, 1.0], HALF), ""),
    (constant([1.0, -65520.0], HALF), "a constant is not finite"),
    (constant(np.empty(0), HALF), "an input is empty"),
    (constant([2**40], INT64), ""),
)


@pytest.mark.parametrize(("value", "said"), TENSORS)
def test_value_of_any_operator(value: Value, said: str) -> None:
    """Its shape is fixed, of at most five axes, none of them empty; its numbers are known ones."""
    op = node("Relu", value)
    assert complaint(op).startswith(said)
    assert bool(complaint(op)) is bool(said)
    second = complaint(node("Relu", ROWS, None, value))  # of which any type will do
    assert second == ("" if said.startswith("its input") else complaint(op))


def changed(kind: str, index: int, value: Value | None, **attributes: Any) -> Operation:
    """A sound node with another input."""
    op = SOUND[kind]
    inputs = [*op.inputs[:index], value, *op.inputs[index + 1 :]]
    return replace(op, inputs=tuple(inputs), attributes=op.attributes | attributes)


def giving(kind: str, *shape: int) -> Operation:
    """A sound node whose output has this shape."""
    return replace(SOUND[kind], outputs=(computed(*shape),))


Case = tuple[Operation, str]
CASES: Sequence[Case] = (
    # What an operator's first input may be.
    (changed("Cast", 0, computed(2, dtype=BOOL)), ""),
    (changed("Cast", 0, computed(2, dtype=INT32)), ""),
    (changed("Cast", 0, computed(2, dtype=BYTE)), "its input is uint8"),
    (changed("And", 0, ROWS), "its input is float, not one of bool"),
    (changed("Where", 0, ROWS), "its input is float, not one of bool"),
    (changed("Pad", 0, computed(2, 4, dtype=INT64)), "its input is int64, not one of float"),
    (changed("Tile", 0, computed(2, dtype=BOOL)), ""),
    (changed("GatherND", 0, computed(2, 4, dtype=INT32)), ""),
    (changed("ArgMax", 0, computed(2, 4, dtype=HALF)), ""),
    (changed("ArgMax", 0, computed(2, 4, dtype=INT64)), "on integers"),
    # The types of all of them.
    (changed("Pow", 1, ints(2)), "its inputs differ in type"),
    (changed("LayerNormalization", 2, None), ""),
    (changed("LayerNormalization", 2, HALVES), "its inputs differ in type"),
    (changed("InstanceNormalization", 1, HALVES), "its inputs differ in type"),
    (changed("Where", 1, computed(2, 4, dtype=INT64)), "its branches are no floats"),
    (changed("Where", 2, computed(2, 4, dtype=INT64)), "its branches are no floats"),
    (changed("Where", 2, computed(2, 4, dtype=HALF)), ""),
    *((changed("Cast", 0, ROWS, to=to), "") for to in (FLOAT, HALF, INT32, INT64, BOOL)),
    (changed("Cast", 0, ROWS, to=DOUBLE), "it casts to double"),
    # Axes.
    (changed("BatchNormalization", 0, computed(1, 4, 4)), "its input has 3 axes, not 4"),
    (changed("BatchNormalization", 0, computed(1, 4, 4, 1, 1)), "its input has 5 axes, not 4"),
    (changed("PRelu", 0, ROWS), "its input has 2 axes, not 3 to 4"),
    (changed("PRelu", 0, computed(1, 4, 4)), ""),
    (changed("PRelu", 0, computed(1, 1, 4, 4, 4)), "its input has 5 axes, not 3 to 4"),
    (
        node("Resize", MAPS, None, None, computed(4, dtype=INT64), mode="linear"),
        "its list of sizes is computed, not constant",
    ),
    (changed("Resize", 0, ROWS), "its input has 2 axes, not 3 to 5"),
    (changed("GlobalMaxPool", 0, computed(1, 4, 4)), "it does not pool in 2-D"),
    (giving("Unsqueeze", 1, 1, 1, 2, 4), ""),
    (giving("Unsqueeze", 1, 1, 1, 1, 2, 4), "it makes 6 axes, CoreML knows 5"),
    (changed("Reshape", 1, ints(1, 1, 1, 2, 4)), ""),
    (changed("Reshape", 1, ints(1, 1, 1, 1, 2, 4)), "it makes 6 axes, CoreML knows 5"),
    (changed("Reshape", 1, ints(0, 4)), ""),
    (changed("Reshape", 1, ints(2, 4), allowzero=1), ""),
    (changed("Reshape", 1, ints(0, 4), allowzero=0), ""),
    (changed("Reshape", 1, ints(0, 4), allowzero=1), "allowzero with a zero"),
    (changed("Reshape", 1, replace(ints(2, 4), array=None)), ""),
    # How many.
    (node("Concat", ROWS), "fewer than two inputs"),
    (node("Concat", ROWS, ROWS, ROWS), ""),
    (node("Split", ROWS, ints(2)), "fewer than two outputs"),
    (several(SOUND["Split"], 2), ""),
    (several(SOUND["LayerNormalization"], 2), "it gives mean or deviation"),
    (several(SOUND["BatchNormalization"], 3), "it gives mean or deviation"),
    # Products.
    (changed("MatMul", 0, computed(4)), "one factor is a vector"),
    (changed("MatMul", 1, computed(4)), "one factor is a vector"),
    (node("MatMul", computed(4), computed(4)), ""),
    (changed("Gemm", 2, None), ""),
    (changed("Gemm", 2, constant(1.0)), ""),
    (changed("Gemm", 2, constant([1.0])), ""),
    (changed("Gemm", 2, constant([[1.0, 2.0, 3.0]])), ""),
    (changed("Gemm", 2, FOUR), "its C has the shape (4,)"),
    (changed("Gemm", 2, FOUR, transB=1), ""),
    (changed("Gemm", 2, FOUR, transB=0), "its C has the shape (4,)"),
    (changed("Gemm", 2, constant([[1.0], [2.0]])), "its C has the shape (2, 1)"),
    # Rows.
    (changed("Gather", 1, constant([1], INT32)), ""),
    (changed("Gather", 1, computed(1, dtype=INT64)), ""),
    (changed("Gather", 1, constant([1], BYTE)), "its indices are uint8"),
    (changed("Gather", 1, None), ""),
    (changed("Gather", 1, ints(0, 1)), ""),
    (changed("Gather", 1, ints(0, -1)), "an index is negative"),
    (changed("Gather", 1, constant(0, INT64)), ""),
    (changed("Gather", 0, WIDE), ""),
    (node("Gather", WIDE, constant([[1]], INT64)), "its output has more than 5 axes"),
    (node("Gather", computed(1, 1, 1, 4), constant([[1]], INT64)), ""),
    (node("Gather", computed(1, 1, 1, 4), constant(1, INT64)), ""),
    (node("Gather", WIDE, constant(1, INT64)), "it takes one slice of 5 axes"),
    # Bounds.
    (node("Clip", ROWS), ""),
    (node("Clip", ROWS, constant(1.0)), ""),
    (node("Clip", ROWS, constant(1.0), constant(1.0)), "its bounds are equal"),
    (node("Clip", ROWS, min=1.0, max=1.0), "its bounds are equal"),
    (node("Clip", ROWS, min=0.0, max=1.0), ""),
    (node("Clip", computed(2, dtype=INT64)), ""),
    (node("Clip", computed(2, dtype=INT64), constant(1, INT64)), "its bounds are no floats"),
    (node("Clip", computed(2, dtype=INT64), None, constant(1, INT64)), "its bounds are no floats"),
    # Slopes.
    (changed("PRelu", 1, constant([0.5])), ""),
    (node("PRelu", computed(2, 1, 4, 4), constant([0.5])), "its slope has the shape (1,)"),
    (changed("PRelu", 1, FOUR), "its slope has the shape (4,)"),
    (changed("PRelu", 1, constant(np.ones((1, 4, 1, 1)))), "its slope has the shape (1, 4, 1, 1)"),
    (changed("PRelu", 1, constant(np.ones((4, 4, 1)))), "its slope has the shape (4, 4, 1)"),
    (changed("PRelu", 1, constant(np.ones((4, 1, 4)))), "its slope has the shape (4, 1, 4)"),
    # What is left.
    (changed("Tile", 1, ints(1, 1)), ""),
    (changed("Tile", 1, ints(1, 0)), "nothing is left of its input"),
    (changed("Tile", 1, computed(2, dtype=INT64)), ""),
    (giving("Slice", 1, 4), ""),
    (giving("Slice", 0, 4), "nothing is left of its input"),
    # Half precision is that of any input.
    (node("Add", computed(2, dtype=HALF), constant([70_000.0])), "a constant is not finite"),
    (node("Add", ROWS, constant([70_000.0])), ""),
    (node("Reciprocal", ROWS), "CoreML adds 1e-4"),
    # No builder.
    (node("Neg", ROWS), "no builder for Neg"),
    (node("com.microsoft.Gelu", ROWS), "no builder for com.microsoft.Gelu"),
    (node("ai.onnx.Relu", ROWS), ""),
)


def test_how_many_axes_are_named() -> None:
    """One number where there is no other."""
    op = changed("BatchNormalization", 0, computed(1, 4, 4))
    assert complaint(op) == "its input has 3 axes, not 4"


@pytest.mark.parametrize(("op", "said"), CASES)
def test_condition(op: Operation, said: str) -> None:
    """Each on both sides of its limit."""
    assert complaint(op).startswith(said)
    assert bool(complaint(op)) is bool(said)


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        (node("Reciprocal", ROWS), "inexact"),
        (changed("Gather", 1, ints(-1)), "inexact"),
        (changed("ArgMax", 0, computed(2, 4, dtype=INT64)), "inexact"),
        (node("Add", ROWS, constant([np.inf])), "inexact"),
        (node("Neg", ROWS), "refused"),
        (node("Concat", ROWS), "refused"),
    ],
)
def test_what_is_computed_wrong_is_told_from_what_is_refused(op: Operation, kind: str) -> None:
    """The first runs on CoreML and gives other numbers, the second splits the graph."""
    found = check_operation(op)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("Neg", "multiply by -1"),
        ("Sinh", "write it with operators that have a builder"),
        ("com.microsoft.FusedGemm", "give CoreML a file that no optimiser has fused"),
    ],
)
def test_remedy(kind: str, remedy: str) -> None:
    """What an operator without a builder can be replaced by."""
    found = check_operation(node(kind, ROWS))
    assert found is not None
    assert found.remedy == remedy
