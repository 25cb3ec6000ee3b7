"""An exported bundle: what is in it, how its graphs are made, and that the gate holds."""

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageFile

from sharing import made_once
from tiny_models import TINY_RESNET, TINY_VIT, varied, written
from warmclip import Encoder
from warmclip.errors import BundleError
from warmclip.inference.arrays import unit_rows
from warmclip.inference.bundle import FileRecord, ModelBundle, Precision, Tower
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.text import one_hot
from warmclip_export import exporter, onnx_file, samples
from warmclip_export.catalog import resolve_model
from warmclip_export.errors import ParityFailed
from warmclip_export.graph import TextTower, to_fp16
from warmclip_export.parity.gate import Gate, worst_row
from warmclip_export.reference import Reference

# What no accelerator takes, or only in pieces.
FORBIDDEN = {
    "Attention",
    "ConstantOfShape",
    "Einsum",
    "Equal",
    "Expand",
    "GatherElements",
    "GatherND",
    "Neg",
    "Not",
    "Range",
    "ReduceL2",
    "Reciprocal",
    "Shape",
    "Where",
}
TOWERS: tuple[Tower, ...] = ("image", "text")
_LENGTHS = ("alone", "whole")


def _silent(_what: str) -> None:
    pass


@pytest.fixture(scope="module", params=["vit", "quick-gelu", "resnet"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Bundles of tiny models with random weights."""
    folder = tmp_path_factory.mktemp("models")
    config = {
        "vit": TINY_VIT,
        "quick-gelu": {**TINY_VIT, "quick_gelu": True},
        "resnet": TINY_RESNET,
    }[request.param]
    recipe = resolve_model(written(folder, "tiny", config), "random:5")
    made = made_once(
        tmp_path_factory,
        f"tiny-{request.param}",
        lambda path: exporter.export_model(recipe, path, force=False, step=_silent),
    )
    return ModelBundle.open(made)


def test_bundle_for_pictures_that_are_converted_first(tmp_path: Path) -> None:
    """``--rgb-first``: its crops are those of converted pictures, and it is a space of its own."""
    config = written(tmp_path, "tiny", TINY_VIT)
    plain, recipe = (resolve_model(config, "random:5", rgb_first=first) for first in (False, True))
    assert recipe.name == f"{plain.name}-rgb-first"
    bundle = exporter.export_model(recipe, tmp_path / "m", force=False, step=_silent).bundle
    assert bundle.manifest.image.rgb_conversion == "before_resize"
    other = bundle.manifest.image.model_copy(update={"rgb_conversion": "after_crop"})
    assert bundle.manifest.derive_fingerprint(other) != bundle.manifest.fingerprint
    drawn = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    drawn.paste((0, 0, 255, 255), (5, 5, 40, 40))
    of_converted = Reference.build(plain, None).crop(drawn.convert("RGB"))
    np.testing.assert_array_equal(Reference.build(recipe, None).crop(drawn), of_converted)
    assert not np.array_equal(Reference.build(plain, None).crop(drawn), of_converted)


def test_bundle_for_pictures_that_were_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--load-truncated``: the vector is that of what Pillow loads with its flag."""
    config = written(tmp_path, "tiny", TINY_VIT)
    recipe = resolve_model(config, "random:5", load_truncated=True)
    bundle = exporter.export_model(recipe, tmp_path / "m", force=False, step=_silent).bundle
    assert bundle.manifest.image.truncated == "load"
    other = bundle.manifest.image.model_copy(update={"truncated": "refuse"})
    assert bundle.manifest.derive_fingerprint(other) != bundle.manifest.fingerprint
    stream = BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(stream, "JPEG")
    cut = stream.getvalue()[: len(stream.getvalue()) // 2]
    encoder = Encoder.open(bundle.folder, provider="cpu", home=tmp_path / "home")
    vectors = encoder.encode_images([cut])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(BytesIO(cut)) as opened:
        crop = Reference.build(recipe, None).crop(opened)
    np.testing.assert_allclose(vectors, encoder.encode_images([Image.fromarray(crop)]), atol=1e-6)


def _pinned(graph: Path, folder: Path) -> onnx.ModelProto:
    """The graph as a provider with static shapes sees it: 8 of 77 tokens, basic optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_free_dimension_override_by_name("batch", 8)
    options.add_free_dimension_override_by_name("length", 77)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return onnx.shape_inference.infer_shapes(onnx.load(folder / "optimised.onnx"))


def test_bundle_is_whole_and_certified(bundle: ModelBundle) -> None:
    """Every digest holds, and the certificate shows every stage with its figure and threshold."""
    bundle.verify()

    certificate = json.loads((bundle.folder / "certificate.json").read_text("utf-8"))
    stages = [stage["stage"] for stage in certificate["stages"]]
    graphs = [
        f"{tower} {precision}, batch {batch}"
        for tower in TOWERS
        for precision in ("fp32", "fp16")
        for batch in (1, 2, 7, 32)
    ]
    wrappers = [f"{tower} wrapper in torch" for tower in TOWERS]
    lengths = [f"text {precision}, {how}" for precision in ("fp32", "fp16") for how in _LENGTHS]
    emulated = [
        f"{tower} fp16{how}" for tower in TOWERS for how in (" emulated", ", subnormals flushed")
    ]
    expected = ["tokens", "crops", "pixels", *wrappers, *graphs, *lengths, *emulated]
    assert sorted(stages) == sorted(expected)
    assert all(stage["passed"] for stage in certificate["stages"])
    assert set(certificate["operators"]["text"]) == {"fp32", "fp16"}


def test_random_weights_are_declared(bundle: ModelBundle) -> None:
    """A manifest says that its weights were drawn by lot, and by which seed."""
    assert bundle.manifest.is_random
    assert bundle.manifest.weights.name == "5"


@pytest.mark.parametrize("tower", TOWERS)
def test_golden_vectors_come_out_again(bundle: ModelBundle, tower: Tower) -> None:
    """Golden inputs give the reference's golden vectors and norms."""
    from warmclip.inference.image import normalise

    manifest = bundle.manifest
    with np.load(bundle.golden(), allow_pickle=False) as golden:
        feeds: dict[str, Any]
        if tower == "image":
            feeds = {"pixel_values": normalise(golden["crops"], manifest.image)}
        else:
            ids = golden["input_ids"]
            feeds = {"input_ids": ids, "eot_onehot": one_hot(golden["eot"], ids.shape[1])}
        vectors, norms = golden[f"{tower}_vectors"], golden[f"{tower}_norms"]
    features = OnnxSession(bundle.graph(tower, "fp32"), find_provider("cpu")).run(feeds)

    assert np.abs(unit_rows(features, manifest.dim) - vectors).max() <= 1e-5
    assert np.linalg.norm(features, axis=1) == pytest.approx(norms, rel=1e-4)
    assert 8 <= len(vectors) <= 16


@pytest.mark.parametrize("tower", TOWERS)
def test_pinned_graph_has_nothing_that_accelerators_refuse(
    bundle: ModelBundle, tower: Tower, tmp_path: Path
) -> None:
    """With its axes pinned, only plain operators on at most four static axes remain."""
    graph = _pinned(bundle.graph(tower, "fp32"), tmp_path).graph

    assert not {node.op_type for node in graph.node} & FORBIDDEN
    shapes = [value.type.tensor_type.shape for value in graph.value_info]
    assert len(shapes) > 20
    assert all(len(shape.dim) <= 4 for shape in shapes)
    assert all(axis.HasField("dim_value") for shape in shapes for axis in shape.dim)


def test_coreml_takes_every_graph_whole(bundle: ModelBundle) -> None:
    """At batches 1, 8 and 32: one partition, nothing refused or inexact, and inline no weights
    but those of normalisations, which CoreML keeps nowhere else.
    """
    coreml = json.loads((bundle.folder / "certificate.json").read_text("utf-8"))["coreml"]

    assert (coreml["whole"], coreml["notes"]) == (True, [])
    assert sorted(coreml["graphs"]) == sorted(
        f"{tower}.{precision}.onnx" for tower in TOWERS for precision in ("fp32", "fp16")
    )
    for placements in coreml["graphs"].values():
        assert [placement["batch"] for placement in placements] == [1, 8, 32]
        for placement in placements:
            assert (placement["partitions"], placement["findings"]) == (1, [])
            assert placement["taken"] == placement["nodes"] > 40
            assert placement["inline_bytes"] < 5000


@pytest.mark.parametrize("tower", TOWERS)
def test_linear_layers_are_gemms_with_weights_as_stored(
    bundle: ModelBundle, tower: Tower, tmp_path: Path
) -> None:
    """Each linear layer is one Gemm(transB=1); MatMul is left to the attention alone."""
    graph = _pinned(bundle.graph(tower, "fp32"), tmp_path).graph

    constants = {tensor.name for tensor in graph.initializer}
    gemms = [node for node in graph.node if node.op_type == "Gemm"]
    assert gemms
    for node in gemms:
        assert {a.name: a.i for a in node.attribute}.get("transB") == 1
        assert node.input[1] in constants
    for node in graph.node:
        if node.op_type == "MatMul":
            assert not constants & set(node.input)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("tower", TOWERS)
def test_names_are_plain_and_interface_is_fixed(
    bundle: ModelBundle, tower: Tower, precision: Any
) -> None:
    """Letters and digits everywhere; float32 in and out; symbolic axes called batch and length."""
    graph = onnx.load(bundle.graph(tower, precision)).graph

    names = {
        *(tensor.name for tensor in graph.initializer),
        *(value.name for value in (*graph.input, *graph.output)),
        *(name for node in graph.node for name in (node.name, *node.input, *node.output) if name),
    }
    assert [name for name in names if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)] == []
    side = bundle.manifest.image.size_px
    dims = {
        value.name: (
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }
    inputs: dict[str, Any] = (
        {"pixel_values": (onnx.TensorProto.FLOAT, ["batch", 3, side, side])}
        if tower == "image"
        else {
            "input_ids": (onnx.TensorProto.INT64, ["batch", "length"]),
            "eot_onehot": (onnx.TensorProto.FLOAT, ["batch", 1, "length"]),
        }
    )
    assert dims == {**inputs, "features": (onnx.TensorProto.FLOAT, ["batch", 32])}


def test_half_precision_files_hold_half_precision(bundle: ModelBundle) -> None:
    """In a fp16 file every weight is float16: half the size, whatever goes in and out."""
    for tower in TOWERS:
        graph = onnx.load(bundle.graph(tower, "fp16")).graph
        kinds = {tensor.data_type for tensor in graph.initializer}
        assert onnx.TensorProto.FLOAT not in kinds
        assert onnx.TensorProto.FLOAT16 in kinds


def test_bundle_tells_nothing_of_the_exporting_machine(bundle: ModelBundle) -> None:
    """No file holds a path, a stack trace or the name of a torch module."""
    home = str(Path.home()).encode()
    secrets = [b"site-packages", b"/home/", b"warmclip_export", str(Path.cwd()).encode()]
    for path in bundle.folder.iterdir():
        content = path.read_bytes()
        found = [secret for secret in (*secrets, b"stack_trace", b"torch.nn") if secret in content]
        assert found == [], path.name
        assert len(home) < 6 or home not in content
    for record in bundle.files():
        if record.file.endswith(".onnx"):
            model = onnx.load(bundle.folder / record.file)
            nodes = model.graph.node
            assert model.producer_name == "warmclip"
            assert not model.metadata_props
            assert not any(node.doc_string or node.metadata_props for node in nodes)


def test_activation_decides_the_opset(bundle: ModelBundle) -> None:
    """QuickGELU needs opset 18; erf GELU is one Gelu node a block, in opset 20."""
    nodes = onnx.load(bundle.graph("text", "fp32")).graph.node
    gelus = sum(node.op_type == "Gelu" for node in nodes)

    expected = (18, 0) if bundle.manifest.activation == "quick_gelu" else (20, 2)
    assert (bundle.manifest.opset, gelus) == expected


def _unscaled_query(towers: dict[Tower, Any]) -> None:
    towers["image"].blocks[0].attention.query.weight.data *= 4.0


def _other_activation(towers: dict[Tower, Any]) -> None:
    towers["text"].blocks[1].mlp.activation = torch.nn.GELU(approximate="tanh")


def _no_mask(towers: dict[Tower, Any]) -> None:
    towers["text"].blocks[0].attention.mask = None


@pytest.mark.parametrize(
    ("spoil", "stage"),
    [
        (_unscaled_query, "image wrapper in torch"),
        (_other_activation, "text wrapper in torch"),
        (_no_mask, "text wrapper in torch"),
    ],
)
def test_wrong_wrapper_leaves_no_bundle(
    spoil: Any, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper that computes something else is stopped by its stage, with figure and threshold."""
    honest = exporter.build_wrappers

    def spoilt(reference: Any) -> Any:
        towers = honest(reference)
        spoil(towers)
        return towers

    monkeypatch.setattr(exporter, "build_wrappers", spoilt)
    monkeypatch.setattr(exporter, "PRECISIONS", ("fp32",))
    recipe = resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:5")

    with pytest.raises(
        ParityFailed, match=rf"{stage}: largest difference .*, allowed at most 1e-05"
    ):
        exporter.export_model(recipe, tmp_path / "models" / "m", force=False, step=_silent)

    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("row", range(3))
def test_worst_row_decides(row: int) -> None:
    """Of three, by its largest difference or its cosine; the others are as they should be."""
    theirs = np.eye(3, dtype=np.float32)
    ours = theirs.copy()
    ours[row, [row, (row + 1) % 3]] = 0.6, -0.8
    assert worst_row("fp32", ours, theirs) == pytest.approx(0.8)
    for precision in ("fp16", "int8"):
        assert worst_row(precision, ours, theirs) == pytest.approx(0.6)


class _WrongRow(torch.nn.Module):
    """A tower that is right but for one row of a batch, whose sign it turns or which it tilts."""

    def __init__(self, tower: torch.nn.Module, row: int, by: float) -> None:
        super().__init__()
        self.tower, self.row, self.by = tower, row, by

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.tower(*inputs)
        features[self.row] += self.by * features[self.row].flip(0)
        return features


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate of a tiny model."""
    recipe = resolve_model(written(tmp_path_factory.mktemp("gate"), "tiny", TINY_VIT), "random:5")
    return Gate(Reference.build(recipe, None), samples.load_samples())


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("row", [0, 17, 31])
def test_one_wrong_row_is_enough(gate: Gate, tower: Tower, row: int) -> None:
    """Of 32 samples, one that is slightly off in float32 fails its stage."""
    wrapper = exporter.build_wrappers(gate._reference)[tower]
    gate.check_wrapper(tower, wrapper)

    with pytest.raises(ParityFailed, match=f"{tower} wrapper in torch: largest difference"):
        gate.check_wrapper(tower, _WrongRow(wrapper, row, 1e-3))


def _with_one_wrong_row(graph: Path, marked: float, folder: Path) -> Path:
    """A graph that turns the features of the picture whose first value is ``marked``."""
    model = onnx.load(graph)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["right" if name == output.name else name for name in node.output]
    constants = {
        "first": np.zeros(2, np.int64), "marked": np.float32(marked), "turned": np.float32(-1),
        "kept": np.float32(1), "axes": np.array([1, 2, 3]), "zero": np.zeros(4, np.int64),
        "corner": np.array([2**31, 1, 1, 1]), "rows": np.array([-1, 1]),
    }  # fmt: skip
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    model.graph.node.extend(
        onnx.helper.make_node(kind, inputs, [made])
        for kind, inputs, made in (
            ("Slice", ["pixel_values", "zero", "corner"], "corners"),
            ("Reshape", ["corners", "rows"], "column"),
            ("Equal", ["column", "marked"], "is_marked"),
            ("Where", ["is_marked", "turned", "kept"], "sign"),
            ("Mul", ["right", "sign"], output.name),
        )
    )
    onnx.checker.check_model(model)
    path = folder / graph.name
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("place", [0, 8, -1])
def test_one_wrong_row_of_a_graph_is_enough(
    gate: Gate, tmp_path: Path, precision: Precision, place: int
) -> None:
    """A graph that is wrong for one picture of 32 fails, by difference and by cosine."""
    wrapper = exporter.build_wrappers(gate._reference)["image"]
    if precision == "fp16":
        to_fp16(wrapper)
    pixels = gate.feeds["image"]["pixel_values"]
    _, first, counts = np.unique(pixels[:, 0, 0, 0], return_index=True, return_counts=True)
    row = np.sort(first[counts == 1])[place]  # a sample that its first value alone tells
    graph = tmp_path / "image.onnx"
    onnx_file.write_tower(wrapper, {"pixel_values": torch.from_numpy(pixels[:2])}, graph, 20)
    gate.check_graph("image", precision, graph)
    (tmp_path / "wrong").mkdir()
    wrong = _with_one_wrong_row(graph, float(pixels[row, 0, 0, 0]), tmp_path / "wrong")
    measure = {"fp32": "largest difference", "fp16": "lowest cosine"}[precision]

    with pytest.raises(ParityFailed, match=rf"image {precision}, batch .*: {measure}"):
        gate.check_graph("image", precision, wrong)


def test_wrong_short_texts_leave_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is right for 77 tokens and wrong for fewer is stopped by its first stage."""
    monkeypatch.setattr(TextTower, "forward", _positions_from_the_end)
    monkeypatch.setattr(exporter, "PRECISIONS", ("fp32",))
    recipe = resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:5")

    with pytest.raises(ParityFailed, match=r"text fp32, batch 1: largest difference"):
        exporter.export_model(recipe, tmp_path / "models" / "m", force=False, step=_silent)


def _positions_from_the_end(
    tower: TextTower, input_ids: torch.Tensor, eot_onehot: torch.Tensor
) -> torch.Tensor:
    length = input_ids.shape[1]
    position = tower.position[tower.tokens - length :]
    x = (tower.lookup(input_ids) + position).reshape(-1, tower.width)
    x = tower.blocks(x, length).reshape(-1, length, tower.width)
    last = torch.matmul(eot_onehot, x).reshape(-1, tower.width)
    features: torch.Tensor = tower.project(tower.norm_out(last))
    return features


def test_text_tower_that_sees_both_ways_keeps_its_length(tmp_path: Path) -> None:
    """Where what follows a text's end decides its vector, the graph takes whole texts only."""
    config = varied(TINY_VIT, text_cfg={"no_causal_mask": True})
    recipe = resolve_model(written(tmp_path, "tiny", config), "random:5")
    bundle = exporter.export_model(recipe, tmp_path / "m", force=False, step=_silent).bundle

    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in onnx.load(bundle.graph("text", "fp32")).graph.input
    ]
    assert shapes == [["batch", 77], ["batch", 1, 77]]
    cpu = Encoder.open(bundle.folder, provider="cpu")
    assert cpu.encode_texts(["a", "a red star"]).shape == (2, 32)


def test_wrong_graph_leaves_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that computes something else than its wrapper is stopped by the next stage."""
    honest = onnx_file.write_tower

    def spoilt(tower: Any, inputs: Any, path: Path, opset: int) -> FileRecord:
        for parameter in tower.norm_out.parameters():
            parameter.data += 0.01
        return honest(tower, inputs, path, opset)

    monkeypatch.setattr(onnx_file, "write_tower", spoilt)
    recipe = resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:5")

    with pytest.raises(ParityFailed, match=r"image fp32, batch 1: largest difference"):
        exporter.export_model(recipe, tmp_path / "models" / "m", force=False, step=_silent)

    assert list((tmp_path / "models").iterdir()) == []


def test_weights_that_one_file_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie in a second file: the gate, the lint and an Encoder take it; damage is found."""
    recipe = resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:5")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 200_000)

    bundle = exporter.export_model(recipe, tmp_path / "m", force=False, step=_silent).bundle

    for precision in ("fp32", "fp16"):
        record = bundle.graph_record("text", precision)
        assert record.weights is not None
        assert record.size_bytes < record.weights.size_bytes / 10
    assert json.loads(bundle.certificate().read_text())["coreml"]["whole"]
    vector = Encoder.open(bundle.folder, provider="cpu", home=tmp_path).encode_texts(["a cat"])
    np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-5)
    weights = bundle.folder / "text.fp32.onnx.weights"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"text.fp32.onnx.weights was altered"):
        ModelBundle.open(bundle.folder).graph("text", "fp32")
