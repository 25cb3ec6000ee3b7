"""The element types of an ONNX graph: which value has which, and float16 written as float32."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGE_BYTES = 2**16  # constants above are weights: nothing depends on their content
WEIGHT = "weight"  # marks them where they stand among the inputs


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, by name."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its large constants as inputs, which keeps their types and shapes."""
    light = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = "light"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if is_apart(tensor) or tensor.ByteSize() > LARGE_BYTES:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            info.doc_string = WEIGHT
            graph.input.append(info)
        else:
            graph.initializer.append(tensor)
    return light


def widen(model: onnx.ModelProto) -> set[str]:
    """Replace every float16 type in a graph by float32, in place.

    Weights in a file of their own are widened by a Cast; returns what these make.
    """
    graph = model.graph
    cast = _cast_weights_apart(graph)
    for tensor in graph.initializer:
        if not is_apart(tensor):
            _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            is_target = node.op_type == "Cast" and attribute.name == "to"
            if is_target and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    del graph.value_info[:]
    return cast


def is_apart(tensor: TensorProto) -> bool:
    """Whether a constant lies in a file beside the graph's."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _cast_weights_apart(graph: onnx.GraphProto) -> set[str]:
    halves = [
        tensor.name
        for tensor in graph.initializer
        if is_apart(tensor) and tensor.data_type == TensorProto.FLOAT16
    ]
    wide = {name: f"{name}_wide" for name in halves}
    for node in graph.node:
        node.input[:] = [wide.get(name, name) for name in node.input]
    for name in halves:
        cast = helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT)
        graph.node.insert(0, cast)
    return set(wide.values())


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
