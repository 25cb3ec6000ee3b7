"""The CoreML lint: each rule on a graph that breaks it and on its repair, and whole towers."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn
from typer.testing import CliRunner

from coreml_cases import CASES, parsed, placed
from tiny_models import TINY_VIT, written
from warmclip.inference.bundle import ModelBundle, Precision, Tower
from warmclip_export import exporter
from warmclip_export.__main__ import app
from warmclip_export.catalog import resolve_model
from warmclip_export.coreml import report
from warmclip_export.coreml.basic_passes import list_operations, read_graph, to_float32_graph
from warmclip_export.coreml.lint import BATCHES, lint_graph, place_nodes
from warmclip_export.coreml.node import Operation, Value
from warmclip_export.coreml.rules import check_operation
from warmclip_export.element_types import value_types
from warmclip_export.reference import Reference

TOWERS: tuple[Tower, ...] = ("image", "text")
_ROW = "(float[batch,4] x) => (float[batch,4] y)"


@pytest.mark.parametrize("name", CASES)
def test_rule_is_broken_and_repaired(name: str) -> None:
    """The broken graph gets the one complaint that names the rule, the repaired one none."""
    case = CASES[name]

    broken = placed(parsed(case.broken, case.opset), 2)
    repaired = placed(parsed(case.repaired, case.opset), 2)

    (finding,) = broken.findings
    assert finding.complaint.kind == case.kind
    assert re.search(case.reason, finding.complaint.reason)
    assert finding.complaint.remedy
    assert not broken.is_whole
    assert repaired.findings == ()


_X = Value(name="x", dtype=TensorProto.FLOAT, shape=(2, 4))
_SOUND = Operation(
    name="n", kind="Relu", domain="", since=14, attributes={}, inputs=(_X,), outputs=(_X,)
)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (replace(_SOUND, since=28), "that of opset 28"),
        (replace(_SOUND, kind="Attention"), "no builder for Attention"),
        (replace(_SOUND, inputs=(replace(_X, shape=None),)), "shape is not fixed"),
        (replace(_SOUND, kind="Concat"), "fewer than two inputs"),
        (replace(_SOUND, kind="Split"), "fewer than two outputs"),
        (
            replace(_SOUND, kind="Gather", inputs=(_X, replace(_X, dtype=TensorProto.UINT8))),
            "its indices are uint8",
        ),
    ],
)
def test_rule_that_no_file_reaches_here(operation: Operation, reason: str) -> None:
    """What this onnxruntime cannot load, or would remove, is judged on the node alone."""
    complaint = check_operation(operation)

    assert check_operation(_SOUND) is None
    assert complaint is not None
    assert reason in complaint.reason


@pytest.mark.parametrize(
    ("nodes", "partitions", "taken"),
    [
        ("a = Relu(x) y = Sigmoid(a)", 1, 2),
        ("a = Neg(x) y = Sigmoid(a)", 1, 1),
        ("a = Relu(x) b = Neg(a) y = Sigmoid(b)", 2, 2),
        ("a = Relu(x) b = Neg(a) c = Sigmoid(a) y = Add(b, c)", 2, 3),
        ("a = Neg(x) b = Sigmoid(x) y = Add(a, b)", 1, 2),
        ("a = Relu(x) b = Neg(a) c = Sigmoid(b) d = Neg(c) y = Tanh(d)", 3, 3),
        ("a = Neg(x) b = Transpose(a) c = Neg(b) y = Tanh(c)", 1, 1),
        ("y = Transpose(x)", 0, 0),
    ],
)
def test_partitions_are_onnxruntime_s(nodes: str, partitions: int, taken: int) -> None:
    """A refused node splits what depends on it, and pieces of trivial nodes alone are dropped."""
    placement = placed(parsed(f"(float[4,4] x) => (float[4,4] y) {{ {nodes} }}"), 1)

    assert (placement.partitions, placement.taken) == (partitions, taken)


@pytest.mark.parametrize(("transposed", "is_whole"), [(1, True), (0, False)])
def test_weights_that_would_lie_inline_are_counted(transposed: int, is_whole: bool) -> None:
    """Gemm with transB=0 stores its weight in model.mlmodel; more than 1 MB of that is told."""
    model = parsed("(float[batch,512] x) => (float[batch,512] y) { y = Gemm(x, w) }")
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("transB", transposed))
    weight = onnx.helper.make_tensor("w", TensorProto.FLOAT, [512, 512], bytes(2**20), raw=True)
    model.graph.initializer.append(weight)

    placement = placed(model, 8)

    sizes = (placement.inline_bytes, placement.weight_file_bytes)
    assert sizes == ((0, 2**20) if is_whole else (2**20, 0))
    assert placement.is_whole is is_whole
    assert ("inline" in str(placement)) is not is_whole


def test_weights_that_each_use_copies_are_counted() -> None:
    """A layer norm's scale and bias lie inline however large, once for each norm that has them."""
    norms = "a = LayerNormalization(x, s, b) y = LayerNormalization(a, s, b)"
    model = parsed(f"(float[batch,768] x) => (float[batch,768] y) {{ {norms} }}")
    for name in "sb":
        tensor = onnx.helper.make_tensor(name, TensorProto.FLOAT, [768], bytes(3072), raw=True)
        model.graph.initializer.append(tensor)

    placement = placed(model, 8)

    assert (placement.inline_bytes, placement.weight_file_bytes) == (4 * 3072, 0)
    assert placement.is_whole


@pytest.mark.parametrize(
    ("operator", "inlined"),
    [
        ("HardSwish", ["HardSigmoid", "Mul"]),
        ("Mish", ["Softplus", "Tanh", "Mul"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_function_is_judged_by_what_is_in_it(operator: str, inlined: list[str], dtype: str) -> None:
    """No kernel computes it, so onnxruntime writes its body out before it asks CoreML."""
    graph = parsed(f"({dtype}[batch,4] x) => ({dtype}[batch,4] y) {{ y = {operator}(x) }}")
    shown = to_float32_graph(graph)

    assert [op.kind for op in list_operations(shown, 2)] == inlined
    assert place_nodes(shown, 2).is_whole
    assert check_operation(replace(_SOUND, kind=operator)) is not None


def test_float16_is_what_the_file_says(demo_bundle: Path) -> None:
    """Of a float16 file every value has the type that ONNX infers, boundary casts included."""
    for tower in TOWERS:
        model = read_graph(demo_bundle / f"{tower}.fp16.onnx")
        expected = value_types(model)
        seen = list_operations(to_float32_graph(model), 8)

        values = [v for op in seen for v in (*op.inputs, *op.outputs) if v and v.name in expected]
        assert len(values) > 150
        assert [v.name for v in values if v.dtype != expected[v.name]] == []
        casts = [op.attributes["to"] for op in seen if op.kind == "Cast"]
        assert casts == [TensorProto.FLOAT16, TensorProto.FLOAT]
        assert not any(op.kind == "Softsign" for op in seen)


def test_norm_of_mixed_types_is_refused() -> None:
    """Types are judged inside a float16 file too: a scale that stayed float32 is one too many."""
    graph = (
        "(float16[batch,4] x) => (float16[batch,4] y) <float[4] v = {{1,2,3,4}}>"
        " {{ w = Cast<to = 1>(x) n = LayerNormalization<axis = -1>({}, v) y = Cast<to = 10>(n) }}"
    )

    inside, across = (placed(parsed(graph.format(name)), 2) for name in ("w", "x"))

    assert inside.is_whole
    assert [f.complaint.reason for f in across.findings] == ["its inputs differ in type"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("tower", TOWERS)
def test_demo_bundle_is_taken_whole(tower: Tower, precision: Precision, demo_bundle: Path) -> None:
    """The committed graphs: one partition, nothing refused, norms alone inline, at each batch."""
    graph = ModelBundle.open(demo_bundle).graph(tower, precision)
    seen = list_operations(to_float32_graph(read_graph(graph)), 8)
    norms = [value for op in seen if op.kind == "LayerNormalization" for value in op.inputs[1:]]
    copied = sum(value.size for value in norms if value) * (4 if precision == "fp32" else 2)

    placements = lint_graph(graph)

    assert [placement.batch for placement in placements] == [1, 8, 32]
    for placement in placements:
        assert (placement.partitions, placement.findings) == (1, ())
        assert placement.taken == placement.nodes > 70
        assert 0 <= placement.inline_bytes - copied < 100
        assert placement.is_whole


class _Stock(nn.Module):
    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = getattr(self.model, self.method)(inputs, normalize=True)
        return features


@pytest.mark.filterwarnings("ignore")  # torch's exporter talks about itself
@pytest.mark.parametrize(
    ("method", "refused", "partitions"),
    [
        ("encode_image", ["Expand", "ReduceL2"], 3),
        ("encode_text", ["Expand", "GatherND", "ReduceL2"], 4),
    ],
)
def test_stock_export_falls_into_pieces(
    method: str, refused: Sequence[str], partitions: int, tmp_path: Path
) -> None:
    """Why the towers are re-expressed: open_clip as torch exports it splits at these nodes.

    The provider's own partitioner says the same of ViT-B-32: 3 and 4 partitions.
    """
    reference = Reference.build(
        resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:7"), None
    )
    example = torch.zeros(2, 3, 32, 32)
    if method == "encode_text":
        example = torch.from_numpy(reference.token_ids(["a", "b"]))
    program = torch.onnx.export(
        _Stock(reference.model, method),
        (example,),
        dynamo=True,
        opset_version=20,
        input_names=["x"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("rows", min=2)},),
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "stock.onnx")

    for placement in lint_graph(tmp_path / "stock.onnx"):
        kinds = {f.operator for f in placement.findings if f.complaint.kind == "refused"}
        assert sorted(kinds) == refused
        assert placement.partitions == partitions


def test_bundle_that_is_not_whole_says_so_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that CoreML would compute wrongly is exported: noted on stderr and certified."""
    monkeypatch.setattr("warmclip_export.graph.MASKED", float("-inf"))
    monkeypatch.setattr(exporter, "PRECISIONS", ("fp32",))
    model = written(tmp_path, "tiny", TINY_VIT)

    made = CliRunner().invoke(
        app,
        ["model", "--model", model, "--pretrained", "random:2", "--out", str(tmp_path / "models")],
    )

    assert made.exit_code == 0, made.output
    assert "CoreML would not take text.fp32.onnx whole" in made.stderr
    bundle = ModelBundle.open(tmp_path / "models" / "tiny-random-2")
    coreml = json.loads(bundle.certificate().read_text("utf-8"))["coreml"]
    assert coreml["whole"] is False
    assert "text.fp32.onnx" in coreml["notes"][0]
    graphs = coreml["graphs"]
    assert all(placement["whole"] for placement in graphs["image.fp32.onnx"])
    kinds = {f["kind"] for p in graphs["text.fp32.onnx"] for f in p["findings"]}
    assert kinds == {"inexact"}


def test_command_answers_for_people_and_programs(demo_bundle: Path, tmp_path: Path) -> None:
    """0 for a whole bundle; 1 for a split file, with node, reason and remedy in table and JSON."""
    split = tmp_path / "split.onnx"
    onnx.save(parsed(f"{_ROW} {{ a = Relu(x) b = Neg(a) y = Tanh(b) }}"), split)
    run = CliRunner().invoke

    whole = run(app, ["lint", str(demo_bundle), "--batch", "8"])
    shown = run(app, ["lint", str(split)])
    told = run(app, ["lint", str(split), "--batch", "3", "--json"])

    assert (whole.exit_code, shown.exit_code, told.exit_code) == (0, 1, 1)
    assert whole.stdout.count("whole") == 4
    assert "refused  Neg: no builder for Neg" in shown.stdout
    assert "multiply by -1" in shown.stdout
    answer = json.loads(told.stdout)
    (placement,) = answer["graphs"]["split.onnx"]
    assert answer["whole"] is False
    assert (placement["batch"], placement["partitions"], placement["taken"]) == (3, 2, 2)
    assert placement["findings"][0]["operator"] == "Neg"


def test_length_of_texts_is_pinned(demo_bundle: Path) -> None:
    """Texts of any length that a file takes are whole; what it cannot take is refused."""
    text = str(demo_bundle / "text.fp32.onnx")

    short = CliRunner().invoke(app, ["lint", text, "--batch", "8", "--length", "16"])
    beyond = CliRunner().invoke(app, ["lint", text, "--batch", "8", "--length", "200"])

    assert (short.exit_code, beyond.exit_code) == (0, 2)
    assert "whole" in short.stdout
    assert "cannot load the graph" in beyond.stderr


def test_batch_that_a_file_fixes_is_the_one_that_is_linted(tmp_path: Path) -> None:
    """A file without a symbolic axis is judged once, at its own size."""
    fixed = tmp_path / "fixed.onnx"
    onnx.save(parsed("(float[5,4] x) => (float[5,4] y) { y = Relu(x) }"), fixed)

    assert [placement.batch for placement in lint_graph(fixed, BATCHES)] == [5]


@pytest.mark.parametrize("content", [None, b"", b"no graph", b"\x08\x07"])
def test_what_is_no_graph_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """A path that is missing or holds no ONNX ends with 2 and its name."""
    path = tmp_path / "odd.onnx"
    if content is not None:
        path.write_bytes(content)

    result = CliRunner().invoke(app, ["lint", str(path)])

    assert result.exit_code == 2
    assert "odd.onnx" in result.stderr


def test_graph_that_onnxruntime_refuses_is_refused(tmp_path: Path) -> None:
    """A file that ONNX can parse and onnxruntime cannot load ends with 2 and its reason."""
    path = tmp_path / "odd.onnx"
    onnx.save(parsed(f"{_ROW} {{ y = Relu(nowhere) }}"), path)

    result = CliRunner().invoke(app, ["lint", str(path)])

    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_int8_graphs_are_not_for_coreml(demo_bundle: Path) -> None:
    """Of a bundle the float graphs are looked at."""
    names = sorted(report.find_graphs(demo_bundle))

    expected = [f"{tower}.{p}.onnx" for tower in TOWERS for p in ("fp16", "fp32")]
    assert names == expected
