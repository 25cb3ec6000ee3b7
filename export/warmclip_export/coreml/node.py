"""One node as the CoreML provider looks at it, and a complaint about one."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
NUMBERS = (*FLOATS, TensorProto.INT64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What goes into or comes out of an operation.

    Attributes:
        dtype: ONNX's number of the element type.
        shape: None where it is unknown; an axis is None where it is not fixed.
        is_constant: whether it is a weight, or folded to one.
        array: a constant's content, unless it is large.
    """

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None
    is_constant: bool = False
    array: npt.NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """The number of elements; 0 if the shape is not known."""
        axes = self.shape
        if axes is None or None in axes:
            return 0
        return int(np.prod([axis for axis in axes if axis is not None], dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One node, with what the provider asks about it; an input that is left out is None."""

    name: str
    kind: str
    domain: str
    since: int  # the opset that defined this form of it
    attributes: dict[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]

    @property
    def is_standard(self) -> bool:
        """Whether it is one of ONNX's own operators."""
        return self.domain in ("", "ai.onnx")

    @property
    def qualified(self) -> str:
        """The operator's name, after its domain unless it is ONNX's own."""
        return self.kind if self.is_standard else f"{self.domain}.{self.kind}"

    def input(self, index: int) -> Value | None:
        """An input, None if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Why an operation does not run on CoreML, or not as ONNX says, and what to do.

    Attributes:
        kind: ``refused``: it is left to the CPU and splits the graph;
            ``inexact``: it is taken, and gives other numbers.
    """

    reason: str
    remedy: str
    kind: Literal["refused", "inexact"] = "refused"


def type_name(dtype: int) -> str:
    """An element type as ONNX writes it, in small letters."""
    return str(TensorProto.DataType.Name(dtype)).lower()
