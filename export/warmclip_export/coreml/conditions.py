"""What CoreML's builders ask of single operators, beyond what they ask of all."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from onnx import TensorProto

from warmclip_export.coreml.node import FLOATS, NUMBERS, Complaint, Operation, type_name

MAX_RANK = 5
_FEWER_AXES = "reshape to at most five axes"
CASTABLE = (*NUMBERS, TensorProto.INT32, TensorProto.BOOL)

Check: TypeAlias = Callable[[Operation], Complaint | None]
"""One condition: None if it holds."""


def constant(index: int, what: str) -> Check:
    """An input that must not be computed."""

    def check(op: Operation) -> Complaint | None:
        value = op.input(index)
        if value is None or value.is_constant:
            return None
        return Complaint(
            reason=f"its {what} is computed, not constant",
            remedy=f"make the {what} a constant, or compute it on the host",
        )

    return check


def attribute(name: str, allowed: Sequence[Any], default: Any) -> Check:
    """An attribute that must have one of a few values."""

    def check(op: Operation) -> Complaint | None:
        found = op.attributes.get(name, default)
        if found in allowed:
            return None
        told = found.decode() if isinstance(found, bytes) else found
        return Complaint(reason=f"{name}={told}", remedy=f"use {name}={allowed[0]}")

    return check


def same_types(op: Operation) -> Complaint | None:
    """All inputs have one element type."""
    if len({value.dtype for value in op.inputs if value is not None}) == 1:
        return None
    return Complaint(reason="its inputs differ in type", remedy="cast them to one type")


def axes_between(least: int, most: int) -> Check:
    """The first input has that many axes."""

    def check(op: Operation) -> Complaint | None:
        rank = len(axis_lengths(op))
        if least <= rank <= most:
            return None
        wanted = str(least) if least == most else f"{least} to {most}"
        return Complaint(
            reason=f"its input has {rank} axes, not {wanted}", remedy="reshape it before"
        )

    return check


def axis_lengths(op: Operation) -> tuple[int, ...]:
    """The shape of the first input; it is known, or the node was refused before."""
    first = op.input(0)
    return tuple(axis or 0 for axis in (first.shape if first and first.shape else ()))


def matmul(op: Operation) -> Complaint | None:
    """Either both factors are vectors or none is."""
    ranks = [len(value.shape or ()) for value in op.inputs if value is not None]
    if ranks.count(1) != 1:
        return None
    return Complaint(reason="one factor is a vector", remedy="make it a matrix of one row")


def gemm(op: Operation) -> Complaint | None:
    """C is one row at most."""
    bias, weight = op.input(2), op.input(1)
    if bias is None or weight is None or weight.shape is None:
        return None
    width = weight.shape[0 if op.attributes.get("transB", 0) else 1]
    if bias.shape in ((), (1,), (width,), (1, width)):
        return None
    return Complaint(reason=f"its C has the shape {bias.shape}", remedy="add a bias of one row")


def one_output(op: Operation) -> Complaint | None:
    """A normalisation gives no mean and no deviation."""
    if len(op.outputs) == 1:
        return None
    return Complaint(reason="it gives mean or deviation", remedy="use its first output alone")


def reciprocal(_op: Operation) -> Complaint | None:
    """It is never exact."""
    return Complaint(reason="CoreML adds 1e-4 before it divides", remedy="use Div", kind="inexact")


def gather(op: Operation) -> Complaint | None:
    """Integer indices, none of them negative, and a result that is not too deep."""
    indices = op.input(1)
    if indices is None or indices.shape is None:
        return None
    if indices.dtype not in (TensorProto.INT32, TensorProto.INT64):
        return Complaint(
            reason=f"its indices are {type_name(indices.dtype)}", remedy="use int64 indices"
        )
    rank = len(axis_lengths(op))
    if rank + len(indices.shape) - 1 > MAX_RANK:
        return Complaint(
            reason=f"its output has more than {MAX_RANK} axes", remedy="gather rows of a matrix"
        )
    if indices.shape == () and rank > MAX_RANK - 1:
        return Complaint(
            reason=f"it takes one slice of {rank} axes", remedy="slice and reshape instead"
        )
    if indices.array is not None and indices.array.min(initial=0) < 0:
        return Complaint(
            reason="an index is negative, which CoreML does not define since iOS 17",
            remedy="use Slice, or count from the beginning",
            kind="inexact",
        )
    return None


def clip(op: Operation) -> Complaint | None:
    """Constant bounds of floats, which differ."""
    bounds = [_bound(op, index, name) for index, name in ((1, "min"), (2, "max"))]
    given = [bound for bound in bounds if bound is not None]
    first = op.input(0)
    if given and first is not None and first.dtype not in FLOATS:
        return Complaint(reason="its bounds are no floats", remedy="clip float32 values")
    if len(given) < 2 or given[0] != given[1]:
        return None
    return Complaint(reason="its bounds are equal", remedy="use the constant itself")


def _bound(op: Operation, index: int, name: str) -> float | None:
    value = op.input(index)
    if value is not None and value.array is not None:
        return float(value.array)
    bound = op.attributes.get(name)  # before opset 11
    return None if bound is None else float(bound)


def prelu(op: Operation) -> Complaint | None:
    """A slope for each channel, or one for all of several channels."""
    slope = op.input(1)
    if slope is None or slope.shape is None:
        return None
    if slope.size == 1:
        fits = axis_lengths(op)[-3] != 1
    else:
        fits = len(slope.shape) == 3 and slope.shape[1:] == (1, 1)
    if fits:
        return None
    return Complaint(
        reason=f"its slope has the shape {slope.shape}",
        remedy="give it one slope for each of several channels, (channels, 1, 1)",
    )


def tile(op: Operation) -> Complaint | None:
    """Each axis at least once."""
    repeats = op.input(1)
    if repeats is None or repeats.array is None or repeats.array.min(initial=1) >= 1:
        return None
    return Complaint(reason="nothing is left of its input", remedy="leave it out")


def reshape(op: Operation) -> Complaint | None:
    """At most five axes, none of them of length 0."""
    target = op.input(1)
    axes = None if target is None or target.array is None else target.array.tolist()
    if axes is None:
        return None
    if len(axes) > MAX_RANK:
        return Complaint(
            reason=f"it makes {len(axes)} axes, CoreML knows {MAX_RANK}", remedy=_FEWER_AXES
        )
    if op.attributes.get("allowzero", 0) and 0 in axes:
        return Complaint(reason="allowzero with a zero", remedy="write the axis out")
    return None


def output_rank(op: Operation) -> Complaint | None:
    """At most five axes come out."""
    shape = op.outputs[0].shape
    if shape is None or len(shape) <= MAX_RANK:
        return None
    return Complaint(
        reason=f"it makes {len(shape)} axes, CoreML knows {MAX_RANK}",
        remedy=_FEWER_AXES,
    )


def several(direction: Literal["inputs", "outputs"]) -> Check:
    """Two or more inputs, or outputs."""

    def check(op: Operation) -> Complaint | None:
        if len(getattr(op, direction)) >= 2:
            return None
        return Complaint(reason=f"fewer than two {direction}", remedy="leave it out")

    return check


def not_empty(op: Operation) -> Complaint | None:
    """Something is left."""
    if 0 not in (op.outputs[0].shape or ()):
        return None
    return Complaint(reason="nothing is left of its input", remedy="leave it out")


def where(op: Operation) -> Complaint | None:
    """It chooses between floats."""
    branches = [value.dtype for value in op.inputs[1:] if value is not None]
    if all(dtype in FLOATS for dtype in branches):
        return None
    return Complaint(reason="its branches are no floats", remedy="choose between float32 values")


def cast(op: Operation) -> Complaint | None:
    """It casts to a type that CoreML has."""
    to = op.attributes["to"]
    if to in CASTABLE:
        return None
    return Complaint(reason=f"it casts to {type_name(to)}", remedy="cast to int64 or float32")


def arg_max(op: Operation) -> Complaint | None:
    """Over floats: not over integers, which may become float16."""
    first = op.input(0)
    if first is None or first.dtype in FLOATS:
        return None
    return Complaint(
        reason="on integers, and float16 tells none above 2048 from its neighbour",
        remedy="find the position on the host and feed it in",
        kind="inexact",
    )
