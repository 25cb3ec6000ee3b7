"""Which files a graph would have onnxruntime open, wherever the name stands in it."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tiny_models import rewritten
from warmclip import Encoder
from warmclip.errors import BundleError
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.external_files import external_files


def outside(location: str = "../weights") -> TensorProto:
    """A tensor whose numbers lie in another file."""
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([*nodes], "g", [], [])


def _initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(outside())


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(outside())


def _constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside()))


def _branch(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=outside())
    branches = {"then_branch": _graph(constant), "else_branch": _graph()}
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], **branches))


def _function(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=outside())
    model.functions.add(name="f").node.append(constant)


@pytest.mark.parametrize("put", [_initializer, _sparse, _constant, _branch, _function])
def test_name_is_found_wherever_it_stands(
    put: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    """Not only among the weights: a constant, a branch or a function may have one as well."""
    graph = tmp_path / "graph.onnx"
    model = helper.make_model(_graph())
    graph.write_bytes(model.SerializeToString())
    assert external_files(graph) == set()
    put(model)
    graph.write_bytes(model.SerializeToString())
    assert external_files(graph) == {"../weights"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x3a",
        b"\x3a\x05ab",
        b"\x3b\x3c",
        b"\xba\x80\x80\x80\x10\x00",  # the number of the graph, and a bit that parsers drop
        b"\xff" * 20,
    ],
    ids=["empty", "no size", "cut", "group", "high bits", "no end"],
)
def test_file_that_is_no_graph(content: bytes, tmp_path: Path) -> None:
    """What is not understood may hide a name, and is refused."""
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(content)
    with pytest.raises(ValueError, match=r"it ends within|no graph has|empty file"):
        external_files(graph)


@pytest.mark.parametrize(
    "location", ["../weights", "/proc/self/environ", "golden.npz", "*/_ORT_MEM_ADDR_/*", ""]
)
def test_graph_that_leads_out_of_its_bundle(
    demo_bundle: Path, tmp_path: Path, location: str
) -> None:
    """Its digest is right, and it is refused all the same: only what a manifest names is read."""
    model = onnx.load(demo_bundle / "image.fp32.onnx")
    model.graph.initializer.append(outside(location))
    files = {"image.fp32.onnx": model.SerializeToString()}
    bundle = rewritten(ModelBundle.open(demo_bundle), tmp_path / "bundle", files=files)

    said = "image.fp32.onnx reads weights from .*manifest does not name"
    with pytest.raises(BundleError, match=said):
        bundle.graph("image", "fp32")
    with pytest.raises(BundleError, match=said):
        Encoder.open(bundle.folder, home=tmp_path / "home", provider="cpu").warm()
