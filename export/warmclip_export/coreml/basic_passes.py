"""A graph as the CoreML provider is shown it: axes pinned, onnxruntime's basic passes done.

The provider chooses its nodes after free-dimension overrides and the level-1 passes, and before
any other. onnxruntime on the CPU shows the same graph of a float32 file. Of a float16 file it does
not: having no such kernels, it adds hundreds of Casts. So such a file is given to it in float32,
its own Casts disguised from the passes, and the types are put back after.
"""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, set_external_data

from warmclip.inference.ort import text_lengths
from warmclip.inference.ort.loading import load_onnxruntime
from warmclip.inference.providers import PROVIDERS
from warmclip_export.coreml.node import FLOATS, Operation, Value
from warmclip_export.element_types import (
    LARGE_BYTES,
    WEIGHT,
    is_apart,
    value_types,
    widen,
    without_weights,
)
from warmclip_export.errors import ExportRefused
from warmclip_export.fp16.emulation import WEIGHTS_FOLDER

COREML = next(
    provider
    for provider in PROVIDERS.values()
    if provider.execution_provider == "CoreMLExecutionProvider"
)

# Looks like a Cast to the passes: one input, one output of the same shape, and never folded away.
_DISGUISE = "Softsign"
_MARK = "disguised_cast_"
_ZEROS = "zeros"
_CAST_NAME = re.compile(rf"^{_MARK}\d+_")


def read_graph(path: Path) -> onnx.ModelProto:
    """Load a graph file; large weights that lie in a file of their own stay there.

    Raises:
        ExportRefused: there is none, or it is no ONNX file.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            if is_apart(tensor) and _bytes_of(tensor) <= LARGE_BYTES:
                load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = TensorProto.DEFAULT
    except OSError as exc:
        raise ExportRefused(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (DecodeError, ValueError) as exc:
        raise ExportRefused(f"{path} is not an ONNX file: {exc}") from exc
    if not model.graph.node:
        raise ExportRefused(f"{path} is not an ONNX file: it has no nodes")
    return model


def pin_length(model: onnx.ModelProto, length: int) -> onnx.ModelProto:
    """Give all texts of a graph this length, in place; one that fixes its own keeps it."""
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim[1:]:
            if axis.dim_param == text_lengths.LENGTH_AXIS:
                axis.dim_value = length
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Float32Graph:
    """A graph as onnxruntime's CPU is given it, and what was hidden from it.

    Attributes:
        content: the graph in float32, with its weights.
        apart_bytes: of those weights that lie in a file of their own: zeros stand for them.
        batch_axes: the names of the inputs' first axes, as far as they have names.
        fixed_batch: the length of those axes, if it is a number.
        casts: what each cast of the file makes, by the node's name.
        given: the element types of inputs and constants in the file.
    """

    content: bytes
    apart_bytes: int
    batch_axes: frozenset[str]
    fixed_batch: int | None
    casts: dict[str, int]
    given: dict[str, int]


def to_float32_graph(model: onnx.ModelProto) -> Float32Graph:
    """Write a graph in float32, its casts between float types hidden from the passes.

    Raises:
        ExportRefused: it holds more than fits into one file.
    """
    given = _given_types(model)
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    apart_bytes = _put_zeros_apart(wide)
    casts = _disguise_casts(wide) if TensorProto.FLOAT16 in given.values() else {}
    widen(wide)
    axes = _first_axes(model)
    names = frozenset(axis.dim_param for axis in axes) - {""}
    try:
        content = wide.SerializeToString()
    except (EncodeError, ValueError) as exc:
        raise ExportRefused(f"the graph cannot be looked at in one piece: {exc}") from exc
    return Float32Graph(
        content=content,
        apart_bytes=apart_bytes,
        batch_axes=names,
        fixed_batch=int(axes[0].dim_value) if axes and not names else None,
        casts=casts,
        given=given,
    )


def list_operations(shown: Float32Graph, batch: int) -> list[Operation]:
    """The operations that the provider is shown, in topological order.

    Args:
        shown: the graph.
        batch: what a symbolic first axis of an input is pinned to.

    Raises:
        ExportRefused: onnxruntime cannot load the graph, or the temporary folder is full.
    """
    check_room(len(shown.content) + shown.apart_bytes)
    return list(_operations(_level_1(shown, batch), shown.casts, shown.given))


def check_room(weight_bytes: int) -> None:
    """Look whether the temporary folder can hold a graph's weights, which onnxruntime writes there.

    Args:
        weight_bytes: of a graph, or of the larger tower before it is exported, in float32.

    Raises:
        ExportRefused: it has no room for them.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < weight_bytes:
        raise ExportRefused(
            f"{folder} has {free / 1e9:.2f} GB free; the lint of a graph writes up to "
            f"{weight_bytes / 1e9:.2f} GB there: make room, or name another folder with TMPDIR"
        )


def _given_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element types of the inputs and constants."""
    inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return inputs | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _put_zeros_apart(model: onnx.ModelProto) -> int:
    """Have a file of zeros stand for the weights that are apart, in place; returns its length.

    No pass depends on what is in a large weight.
    """
    end = 0
    for tensor in model.graph.initializer:
        if is_apart(tensor):
            if tensor.data_type == TensorProto.FLOAT16:
                tensor.data_type = TensorProto.FLOAT
            size = _bytes_of(tensor)
            del tensor.external_data[:]
            tensor.raw_data = b""  # that of the file counts; the helper asks for the field
            set_external_data(tensor, _ZEROS, offset=end, length=size)
            tensor.ClearField("raw_data")
            end += size
    return end


def _bytes_of(tensor: TensorProto) -> int:
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims) * kind.itemsize)


def _disguise_casts(model: onnx.ModelProto) -> dict[str, int]:
    """Hide casts between float types from the passes; returns what each cast makes, by name."""
    types = value_types(model)
    casts = {}
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Cast":
            continue
        node.name = f"{_MARK}{number}_{node.name}"
        casts[node.name] = next(a.i for a in node.attribute if a.name == "to")
        if types.get(node.input[0]) in FLOATS and casts[node.name] in FLOATS:
            node.op_type = _DISGUISE
            del node.attribute[:]
    return casts


def _level_1(shown: Float32Graph, batch: int) -> onnx.ModelProto:
    """The graph after the basic passes, its large weights left out, its shapes inferred."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    for axis in shown.batch_axes:
        options.add_free_dimension_override_by_name(axis, batch)
    with tempfile.TemporaryDirectory(prefix="warmclip-") as folder:
        optimised = Path(folder) / "level_1.onnx"
        options.optimized_model_filepath = str(optimised)
        if shown.apart_bytes:
            zeros = Path(folder) / _ZEROS
            zeros.touch()
            os.truncate(zeros, shown.apart_bytes)  # the disk keeps none of them
            options.add_session_config_entry(WEIGHTS_FOLDER, folder)
        for key, value in {
            "session.optimized_model_external_initializers_file_name": "weights",
            "session.optimized_model_external_initializers_min_size_in_bytes": str(LARGE_BYTES),
            "session.disable_prepacking": "1",
        }.items():
            options.add_session_config_entry(key, value)
        try:
            onnxruntime.InferenceSession(
                shown.content,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(COREML.disabled_optimizers),
            )
        except Exception as exc:  # onnxruntime's errors have no other base in common
            raise ExportRefused(f"onnxruntime cannot load the graph: {exc}") from exc
        seen = onnx.load(optimised, load_external_data=False)
    return onnx.shape_inference.infer_shapes(without_weights(seen), data_prop=True)


def _first_axes(model: onnx.ModelProto) -> list[Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = [v.type.tensor_type.shape for v in model.graph.input if v.name not in constants]
    return [shape.dim[0] for shape in shapes if shape.dim]


def _operations(
    model: onnx.ModelProto, casts: dict[str, int], given: dict[str, int]
) -> Iterator[Operation]:
    """The nodes, with float16 put back where it was.

    All floats of a node are of one type, but for a Cast; so types are followed from the inputs
    and constants on, and a constant that the passes made takes the type of what it meets.
    """
    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    values = {v.name: _value(v) for v in (*graph.value_info, *graph.output, *graph.input)}
    values |= {tensor.name: _constant(tensor) for tensor in graph.initializer}
    _mark_float16(values, [name for name, dtype in given.items() if dtype == TensorProto.FLOAT16])
    for node in graph.node:
        known = [values[name] for name in node.input if name in values]
        floats = [value for value in known if value.dtype in FLOATS]
        flowing = [value for value in floats if not value.is_constant] or floats
        is_float16 = any(value.dtype == TensorProto.FLOAT16 for value in flowing)
        made = casts.get(node.name, TensorProto.FLOAT16 if is_float16 else TensorProto.FLOAT)
        _mark_float16(values, (name for name in node.input if is_float16 and name not in given))
        _mark_float16(values, node.output if made == TensorProto.FLOAT16 else ())
        is_cast = node.name in casts
        kind = "Cast" if is_cast else node.op_type
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        yield Operation(
            name=_CAST_NAME.sub("", node.name),
            kind=kind,
            domain=node.domain,
            since=_since(kind, node.domain, opsets),
            attributes={"to": casts[node.name]} if is_cast else attributes,
            inputs=tuple(_named(values, name) if name else None for name in node.input),
            outputs=tuple(_named(values, name) for name in node.output if name),
        )


def _mark_float16(values: dict[str, Value], names: Iterable[str]) -> None:
    for name in names:
        if name in values and values[name].dtype == TensorProto.FLOAT:
            values[name] = replace(values[name], dtype=TensorProto.FLOAT16)


def _named(values: dict[str, Value], name: str) -> Value:
    unknown = Value(name=name, dtype=TensorProto.UNDEFINED, shape=None)
    return values.get(name, unknown)


def _value(info: onnx.ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim
        )
    is_weight = info.doc_string == WEIGHT
    return Value(name=info.name, dtype=kind.elem_type, shape=shape, is_constant=is_weight)


def _constant(tensor: TensorProto) -> Value:
    return Value(
        name=tensor.name,
        dtype=tensor.data_type,
        shape=tuple(tensor.dims),
        is_constant=True,
        array=numpy_helper.to_array(tensor),
    )


def _since(kind: str, domain: str, opsets: dict[str, int]) -> int:
    """The opset that defined an operator as it is used here; 1 for other domains' operators."""
    if domain not in ("", "ai.onnx") or not onnx.defs.has(kind):
        return 1
    schema = onnx.defs.get_schema(kind, opsets.get("", opsets.get("ai.onnx", 1)))
    return int(schema.since_version)
