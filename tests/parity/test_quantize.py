"""Linear layers in eight bits: which are taken, which are kept, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from warmclip.inference.arrays import Features, Vectors, unit_rows
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip_export.errors import ExportRefused
from warmclip_export.parity.bounds import cpu_bounds
from warmclip_export.quantize import Quantized, int8_notes, quantize_tower

_WIDTH = 256
_ROWS = 16

Weights = npt.NDArray[np.float32]


def _plain(rng: np.random.Generator) -> Weights:
    return rng.standard_normal((_WIDTH, _WIDTH), np.float32) / np.float32(_WIDTH**0.5)


def _deaf(rng: np.random.Generator) -> Weights:
    """Deaf to its first two inputs, which are enormous: beside them eight bits hear nothing else.

    The layer before it makes them so; see ``_tower``.
    """
    weight = _plain(rng)
    weight[:, :: _WIDTH // 2] = 0
    return weight


def _tower(folder: Path, kinds: list[Any]) -> tuple[Path, dict[str, Features], Vectors]:
    """A file of linear layers, inputs for it, and the unit vectors that float32 makes of them."""
    rng = np.random.default_rng(1)
    nodes, tensors, value = [], [], "x"
    for number, kind in enumerate(kinds):
        weight = kind(rng)
        bias = rng.standard_normal(_WIDTH).astype(np.float32)
        if number + 1 < len(kinds) and kinds[number + 1] is _deaf:
            bias[:: _WIDTH // 2] = 1e5
        name, output = f"layer_{number}", f"y_{number}"
        tensors += [
            numpy_helper.from_array(weight, f"{name}_weight"),
            numpy_helper.from_array(bias, f"{name}_bias"),
        ]
        inputs = [value, f"{name}_weight", f"{name}_bias"]
        nodes.append(helper.make_node("Gemm", inputs, [output], name=name, transB=1))
        value = output
    tensors.append(numpy_helper.from_array(_plain(rng)[:32], "project_weight"))
    nodes.append(
        helper.make_node(
            "Gemm", [value, "project_weight"], ["features"], name="project_Gemm", transB=1
        )
    )
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", float32, ["batch", _WIDTH])],
        [helper.make_tensor_value_info("features", float32, ["batch", 32])],
        tensors,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    path = folder / "tower.onnx"
    onnx.save(model, path)
    feeds = {"x": rng.standard_normal((_ROWS, _WIDTH)).astype(np.float32)}
    return path, feeds, unit_rows(_run(path, feeds), 32)


def _run(path: Path, feeds: dict[str, Features]) -> Features:
    return OnnxSession(path, find_provider("cpu")).run(feeds)


def _saved(found: Quantized, folder: Path) -> Path:
    path = folder / "int8.onnx"
    onnx.save(found.model, path)
    return path


def _types(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.op_type for node in model.graph.node}


def test_layers_are_integers_and_the_projection_is_not(tmp_path: Path) -> None:
    """A quarter of the bytes, every layer an integer product, vectors within half of the bound."""
    path, feeds, vectors = _tower(tmp_path, [_plain] * 3)

    found = quantize_tower(path, feeds, vectors, "image")

    made = _saved(found, tmp_path)
    assert (found.layers, found.kept, int8_notes({"image": found})) == (3, {}, [])
    kinds = list(_types(found.model).values())
    assert (kinds.count("MatMulIntegerToFloat"), kinds.count("Gemm")) == (3, 1)
    assert _types(found.model)["project_Gemm"] == "Gemm"
    assert made.stat().st_size < 0.3 * path.stat().st_size
    cosines = (unit_rows(_run(made, feeds), 32) * vectors).sum(axis=1)
    assert 1 - cosines.min() < (1 - cpu_bounds("int8").cosine) / 2
    assert cosines.min() < 1 - 1e-7  # it is not the float32 file under another name
    assert found.cosine == found.cosine_of_all == pytest.approx(cosines.min(), abs=1e-6)


def test_row_depends_on_itself_alone(tmp_path: Path) -> None:
    """Among enormous neighbours, and alone, a row has the same result, bit for bit."""
    path, feeds, vectors = _tower(tmp_path, [_plain] * 2)
    made = _saved(quantize_tower(path, feeds, vectors, "image"), tmp_path)
    x = feeds["x"]
    loud = np.concatenate([1e4 * x[:5], x[:1], -1e4 * x[5:9]])

    alone, among = _run(made, {"x": x[:1]}), _run(made, {"x": loud})

    np.testing.assert_array_equal(among[5], alone[0])


@pytest.mark.parametrize("place", [1, 3])
def test_layer_that_cannot_bear_it_is_kept(place: int, tmp_path: Path) -> None:
    """Found by measurement, left in float32 bit by bit, and told; the others are quantized."""
    kinds = [_plain] * 6
    kinds[place] = _deaf
    path, feeds, vectors = _tower(tmp_path, kinds)

    found = quantize_tower(path, feeds, vectors, "image")

    assert list(found.kept) == [f"layer_{place}"]
    assert found.kept[f"layer_{place}"] < cpu_bounds("int8").cosine
    assert found.cosine_of_all < cpu_bounds("int8").cosine < found.cosine
    types = _types(found.model)
    assert types[f"layer_{place}"] == "Gemm"
    assert sum(kind == "MatMulIntegerToFloat" for kind in types.values()) == 5
    before, after = (
        next(t for t in model.graph.initializer if t.name == f"layer_{place}_weight")
        for model in (onnx.load(path), found.model)
    )
    np.testing.assert_array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))
    assert f"layer_{place}" in int8_notes({"image": found})[0]
    assert list(found.as_json()["kept_in_float32"]) == [f"layer_{place}"]
    cosines = (unit_rows(_run(_saved(found, tmp_path), feeds), 32) * vectors).sum(axis=1)
    assert cosines.min() > cpu_bounds("int8").cosine


def test_tower_that_cannot_bear_it_is_refused(tmp_path: Path) -> None:
    """Where more than half would stay float32 there is nothing to gain, and it says so."""
    path, feeds, vectors = _tower(tmp_path, [_plain, _deaf, _deaf, _deaf])

    with pytest.raises(ExportRefused, match=r"% of the text tower's weights .* --precision int8"):
        quantize_tower(path, feeds, vectors, "text")


def test_tower_of_convolutions_is_refused(tmp_path: Path) -> None:
    """int8 leaves convolutions alone, so that a ResNet would gain nothing."""
    path, feeds, vectors = _tower(tmp_path, [_plain])
    model = onnx.load(path)
    kernel = np.zeros((256, 256, 3, 3), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    model.graph.node.append(helper.make_node("Conv", ["x", "kernel"], ["z"], name="conv"))
    onnx.save(model, path)

    with pytest.raises(ExportRefused, match=r"only 1\d% of the image tower's weights"):
        quantize_tower(path, feeds, vectors, "image")
