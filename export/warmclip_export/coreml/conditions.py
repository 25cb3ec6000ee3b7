"""What CoreML's builders ask of single operators, beyond what they ask of all."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from onnx import TensorProto

from warmclip_export.coreml.node import FLOATS, NUMBERS, Complaint, Operation, type_name

MAX_RANK = 5
MAX_CONV_AXIS = 16384
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


def _axes(op: Operation) -> tuple[int, ...]:
    """The shape of the first input; it is known, or the node was refused before."""
    first = op.input(0)
    return tuple(axis or 0 for axis in (first.shape if first and first.shape else ()))


def conv(op: Operation) -> Complaint | None:
    """Convolutions are 1-D or 2-D, of bounded size."""
    if len(_axes(op)) not in (3, 4):
        return Complaint(reason="its input is not 1-D or 2-D", remedy="convolve in 1-D or 2-D")
    values = (op.input(0), op.input(1), op.outputs[0])
    longest = max(axis or 0 for v in values if v is not None for axis in v.shape or ())
    if longest > MAX_CONV_AXIS:
        return Complaint(
            reason=f"an axis is {longest} long, at most {MAX_CONV_AXIS} is taken",
            remedy="split the convolution",
        )
    return None


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
    """Integer indices, and a result that is not too deep."""
    indices = op.input(1)
    if indices is None or indices.shape is None:
        return None
    if indices.dtype not in (TensorProto.INT32, TensorProto.INT64):
        return Complaint(
            reason=f"its indices are {type_name(indices.dtype)}", remedy="use int64 indices"
        )
    rank = len(_axes(op))
    if rank + len(indices.shape) - 1 > MAX_RANK:
        return Complaint(
            reason=f"its output has more than {MAX_RANK} axes", remedy="gather rows of a matrix"
        )
    if indices.shape == () and rank > MAX_RANK - 1:
        return Complaint(
            reason=f"it takes one slice of {rank} axes", remedy="slice and reshape instead"
        )
    return None


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


def pool(op: Operation) -> Complaint | None:
    """Pools are 2-D."""
    if len(_axes(op)) == 4:
        return None
    return Complaint(reason="it does not pool in 2-D", remedy="pool (batch, channels, h, w)")


def plain_windows(op: Operation) -> Complaint | None:
    """Pools have no dilation, and give no indices."""
    if len(op.outputs) == 1 and set(op.attributes.get("dilations", (1,))) == {1}:
        return None
    return Complaint(reason="indices or dilations", remedy="pool without them")


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
