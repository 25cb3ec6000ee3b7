"""float16 as an accelerator computes it: what overflows is seen, and kept in float32."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from tiny_models import TINY_RESNET, TINY_VIT, written
from warmclip.inference.arrays import unit_rows
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip_export import exporter, graph, onnx_file
from warmclip_export.catalog import ModelRecipe, resolve_model
from warmclip_export.coreml.basic_passes import list_operations, read_graph, to_float32_graph
from warmclip_export.coreml.lint import lint_graph
from warmclip_export.errors import ParityFailed
from warmclip_export.fp16.emulation import Feeds, emulate_fp16
from warmclip_export.fp16.value_range import (
    EVERYTHING,
    LIMIT,
    MAX,
    ValueRange,
    has_room,
    measure_ranges,
    overflowing_parts,
)
from warmclip_export.reference import Reference

TOWERS: tuple[Tower, ...] = ("image", "text")
_SCALE = 2.0**14  # exact in both types

_DEEP = """
import sys, numpy, pathlib
from warmclip.inference.machine import peak_rss_mb
from warmclip_export.fp16.emulation import emulate_fp16
x = numpy.ones((16, 1 << 18), numpy.float32)
before = peak_rss_mb()
emulate_fp16(pathlib.Path(sys.argv[1]), {"x": x})
print(peak_rss_mb() - before)
"""  # in a process of its own, as the peak is the process's


def _silent(_what: str) -> None:
    pass


def _emulated(
    folder: Path, inside: str, x: list[Any], dtype: Any = np.float32, *, flushes: bool = False
) -> Any:
    """What a small float16 graph between float32 gives; ``inside`` leads from h to r."""
    text = (
        '<ir_version: 8, opset_import: ["" : 20]> g (float[batch,n] x) => (float[batch,m] features)'
        f" {{ h = Cast<to = 10>(x) {inside} features = Cast<to = 1>(r) }}"
    )
    onnx.save(onnx.parser.parse_model(text), folder / "small.onnx")
    return emulate_fp16(folder / "small.onnx", {"x": np.array(x, dtype)}, flushes=flushes)


def test_each_result_is_rounded(tmp_path: Path) -> None:
    """1 + 1/2048 is no float16: it is 1, and what is added to it afterwards starts from 1."""
    small = f"c = Constant<value_float = {1 / 2048}>() t = Cast<to = 10>(c)"

    summed = _emulated(tmp_path, f"{small} a = Add(h, t) r = Add(a, t)", [[1.0]])

    assert summed.tolist() == [[1.0]]


def test_subnormals_are_zero_where_they_are_flushed(tmp_path: Path) -> None:
    """2e-5 is subnormal, as a value, a result or an epsilon: kept on request, else zero."""
    small = "c = Constant<value_float = 0.00002>() t = Cast<to = 10>(c)"
    product = f"{small} a = Mul(h, h) r = Add(a, t)"
    flat = (
        "c = Constant<value_floats = [1.0]>() s = Cast<to = 10>(c)"
        " b = Sub(s, s) r = LayerNormalization<axis = -1, epsilon = 0.00002>(h, s, b)"
    )

    kept, flushed = (
        _emulated(tmp_path, product, [[0.0, 0.004, 1.0]], flushes=flushes)
        for flushes in (False, True)
    )
    even, uneven = (
        _emulated(tmp_path, flat, [[0.0, 0.5, 1.0, 0.5]], flushes=flushes)
        for flushes in (False, True)
    )

    assert kept == pytest.approx(np.array([[2e-5, 3.6e-5, 1.0]]), rel=1e-2)
    assert flushed.tolist() == [[0.0, 0.0, 1.0]]
    assert even == pytest.approx(uneven, rel=1e-3)


def test_overflow_is_infinite_and_not_clipped(tmp_path: Path) -> None:
    """300 squared is beyond 65504, even where a square root follows at once."""
    roots = _emulated(tmp_path, "s = Mul(h, h) r = Sqrt(s)", [[255.0, 300.0]])

    assert roots.tolist() == [[255.0, np.inf]]


def test_squares_inside_a_layer_norm_overflow(tmp_path: Path) -> None:
    """One value of 64 stands out by 600: its square is beyond 65504, the variance is not."""
    norm = (
        "c = Constant<value_floats = [1.0]>() s = Cast<to = 10>(c)"
        " b = Sub(s, s) r = LayerNormalization<axis = -1>(h, s, b)"
    )
    near, far = np.zeros((2, 1, 64), np.float32)
    near[0, 0], far[0, 0] = 200.0, 600.0

    rounded = [_emulated(tmp_path, norm, rows.tolist()) for rows in (near, far)]

    expected = [(rows - rows.mean()) / rows.std() for rows in (near, far)]
    assert rounded[0] == pytest.approx(expected[0], abs=5e-3)
    assert not np.allclose(rounded[1], expected[1], atol=1)


def test_softmax_is_what_it_is(tmp_path: Path) -> None:
    """Written out it gives the same within float16, on any axis, also for large scores."""
    scores = np.array([[0.0, 1.0, 3.0], [6e4, 6e4, -6e4]], np.float32)
    for axis, attribute in ((-1, ""), (1, "<axis = 1>"), (0, "<axis = 0>")):
        powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
        expected = powers / powers.sum(axis=axis, keepdims=True)

        found = _emulated(tmp_path, f"r = Softmax{attribute}(h)", scores.tolist())

        assert found == pytest.approx(expected, abs=2e-3)


def test_what_is_float32_is_left_alone(tmp_path: Path) -> None:
    """A part between two casts keeps float32: neither rounded nor infinite."""
    inside = "w = Cast<to = 1>(h) s = Mul(w, w) q = Sqrt(s) r = Cast<to = 10>(q)"

    assert _emulated(tmp_path, inside, [[300.0, 3.0]]).tolist() == [[300.0, 3.0]]


def test_values_are_let_go_once_they_are_measured(tmp_path: Path) -> None:
    """Of a hundred results of 8 MB that follow one another, a few are in memory at once."""
    steps = " ".join(f"v{n + 1} = Neg(v{n})" for n in range(100))
    text = (
        '<ir_version: 8, opset_import: ["" : 20]> g (float[batch,n] x) => (float[batch,m] features)'
        f" {{ v0 = Cast<to = 10>(x) {steps} features = Cast<to = 1>(v100) }}"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "deep.onnx")

    told = subprocess.run(
        [sys.executable, "-c", _DEEP, tmp_path / "deep.onnx"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert float(told.stdout) < 300  # in the default order of nodes 1,700


def test_overflowing_parts_are_the_outermost() -> None:
    """A part inside another one is not named again; what is not a number counts as overflow."""

    def reach(part: str, largest: float) -> ValueRange:
        return ValueRange(node="n", kind="Add", part=part, largest=largest)

    inner, outer = reach("blocks.1.mlp", 1e5), reach("blocks.1", LIMIT * 1.01)
    fine, other = reach("blocks.2", LIMIT * 0.99), reach("blocks.11.mlp", float("nan"))
    assert overflowing_parts([fine]) == ()
    assert overflowing_parts([inner, outer, fine, other]) == ("blocks.1", "blocks.11.mlp")
    assert overflowing_parts([inner, reach("", 1e5)]) == (EVERYTHING,)
    assert reach("", MAX / 4).headroom == 4


def test_room_counts_squares_twice() -> None:
    """Four times a value, sixteen times a square: both must stay below the limit."""

    def reach(kind: str, largest: float) -> ValueRange:
        return ValueRange(node="n", kind=kind, part="", largest=largest)

    squares = "LayerNormalization squares"
    assert has_room([reach("Add", LIMIT / 4), reach(squares, LIMIT / 16)], 4)
    assert not has_room([reach("Add", LIMIT / 3)], 4)
    assert not has_room([reach(squares, LIMIT / 15)], 4)
    assert not has_room([reach("Add", float("nan"))], 4)


def test_text_tower_is_as_exact_where_subnormals_are_flushed(tmp_path: Path) -> None:
    """Its stream times four is the same function to the last bit, and loses less in float16."""
    reference = Reference.build(
        resolve_model(written(tmp_path, "tiny", TINY_VIT), "random:7"), None
    )
    ids = reference.token_ids(["a red circle", "two", "a photo of a blue square on the left"])
    onehot = reference.eot_onehot(ids)
    expected = reference.text_features(ids)
    inputs = {"input_ids": torch.from_numpy(ids), "eot_onehot": torch.from_numpy(onehot)}
    feeds: Feeds = {"input_ids": ids, "eot_onehot": onehot}
    plain, scaled = (graph.build_text_tower(reference.text_parts) for _ in range(2))
    graph.scale_stream(scaled, 4.0)
    with torch.inference_mode():
        exact = [tower(*inputs.values()).numpy() for tower in (plain, scaled)]

    flushed = []
    for name, tower in (("plain", plain), ("scaled", scaled)):
        path = tmp_path / f"{name}.onnx"
        onnx_file.write_tower(graph.to_fp16(tower), inputs, path, 20)
        flushed.append(1 - _cosine(emulate_fp16(path, feeds, flushes=True), expected))

    assert np.array_equal(*exact)
    assert flushed[1] < flushed[0] / 10
    assert flushed[1] < 1e-5


def _loud_mlp(transformer: Any) -> None:
    """The values between a block's two linear layers go beyond 65504; its output does not."""
    mlp = transformer.resblocks[1].mlp
    mlp.c_fc.weight.data *= _SCALE * 8
    mlp.c_fc.bias.data *= _SCALE * 8
    mlp.c_proj.weight.data /= _SCALE / 4


def _loud_values(model: Any) -> None:
    _loud_mlp(model.visual.transformer)


def _loud_channel(model: Any) -> None:
    """One channel of the stream stands out, so that squares in the norms go beyond 65504."""
    model.visual.positional_embedding.data[:, 0] = 900.0
    model.visual.ln_pre.weight.data[0] = 100.0


def _spoilt(folder: Path, config: dict[str, Any], spoil: Callable[[Any], None]) -> ModelRecipe:
    """A recipe whose checkpoint is a random one, spoilt."""
    path = written(folder, "tiny", config)
    model = Reference.build(resolve_model(path, "random:7"), None).model
    spoil(model)
    torch.save(model.state_dict(), folder / "tiny.pt")
    return resolve_model(path, str(folder / "tiny.pt"))


def _cosine(features: Any, expected: Any) -> float:
    with np.errstate(invalid="ignore"):
        rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    return float((rows * unit_rows(expected, expected.shape[1])).sum(axis=1).min())


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (_loud_values, {"blocks.1.mlp"}),
        (_loud_channel, {"blocks.0.norm_1", "blocks.0.norm_2", "blocks.1.norm_1"}),
    ],
)
def test_part_that_overflows_is_kept_in_float32(
    spoil: Callable[[Any], None], kept: set[str], tmp_path: Path
) -> None:
    """All in float16 the tower fails, which the CPU hides; with the parts that are found it passes.

    The file that keeps them is still one CoreML partition.
    """
    recipe = _spoilt(tmp_path, TINY_VIT, spoil)
    reference = Reference.build(recipe, tmp_path / "tiny.pt")
    pixels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = reference.image_features(pixels.numpy())
    feeds: Feeds = {"pixel_values": pixels.numpy()}

    def exported(name: str, tower: torch.nn.Module) -> Path:
        onnx_file.write_tower(tower, {"pixel_values": pixels[:2]}, tmp_path / name, 20)
        return tmp_path / name

    tower = graph.build_image_tower(reference.model.visual)
    parts = [name for name, _ in tower.named_modules()]
    found = overflowing_parts(measure_ranges(exported("fp32.onnx", tower), feeds, parts))
    plain = exported("plain.onnx", graph.to_fp16(graph.build_image_tower(reference.model.visual)))
    safe = exported("safe.onnx", graph.to_fp16(tower, found))

    assert kept <= set(found)
    assert not any(part in ("blocks", EVERYTHING) for part in found)
    assert not _cosine(emulate_fp16(plain, feeds), expected) >= 0.999
    assert _cosine(emulate_fp16(safe, feeds), expected) >= 0.9999
    if spoil is _loud_values:  # the CPU has a norm of its own, which it computes in float32
        cpu = OnnxSession(plain, find_provider("cpu")).run(feeds)
        assert _cosine(cpu, expected) >= 0.9999
    assert all(placement.is_whole for placement in lint_graph(safe))
    assert safe.stat().st_size > plain.stat().st_size


def _loud_both(model: Any) -> None:
    """The image tower is beyond float16 throughout, the text tower in one part."""
    model.visual.ln_pre.weight.data *= 2.0**15
    _loud_mlp(model.transformer)


def test_export_keeps_what_overflows_and_says_so(tmp_path: Path) -> None:
    """A tower with a part that overflows keeps it; one that overflows throughout has no file.

    Both are certified and noted, the emulation passes, and CoreML takes every file whole.
    """
    recipe = _spoilt(tmp_path, TINY_VIT, _loud_both)

    made = exporter.export_model(recipe, tmp_path / "models" / "m", force=False, step=_silent)

    made.bundle.verify()
    graphs = made.bundle.manifest.graphs
    assert (sorted(graphs["image"]), sorted(graphs["text"])) == (["fp32"], ["fp16", "fp32"])
    certificate = json.loads(made.bundle.certificate().read_text("utf-8"))
    image, text = (certificate["float16"][tower] for tower in TOWERS)
    assert image["kept_in_float32"] == ["everything"]
    assert text["kept_in_float32"] == ["blocks.1.mlp"]
    assert text["tightest"].startswith("blocks_1_mlp_")
    assert text["largest"] > MAX
    assert text["headroom"] < 1
    assert "the image tower has no float16 file" in made.notes[0]
    assert "in the text tower's float16 file blocks.1.mlp stay float32" in made.notes[1]
    emulated = {s["stage"]: s for s in certificate["stages"] if s["stage"].endswith("emulated")}
    assert list(emulated) == ["text fp16 emulated"]
    assert emulated["text fp16 emulated"]["figure"] >= 0.9999
    assert certificate["coreml"]["whole"]


def test_gate_refuses_what_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the parts not kept, the stage of the emulation would leave no bundle."""
    monkeypatch.setattr("warmclip_export.fp16.value_range.LIMIT", float("inf"))
    recipe = _spoilt(tmp_path, TINY_VIT, _loud_values)

    with pytest.raises(ParityFailed, match="image fp16 emulated"):
        exporter.export_model(recipe, tmp_path / "models" / "m", force=False, step=_silent)

    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("config", [TINY_VIT, TINY_RESNET], ids=["vit", "resnet"])
def test_reach_is_measured_over_every_block(config: dict[str, Any], tmp_path: Path) -> None:
    """Every block and operator has its figure; an ordinary tower has room and keeps nothing."""
    reference = Reference.build(resolve_model(written(tmp_path, "tiny", config), "random:7"), None)
    side = config["vision_cfg"]["image_size"]
    pixels = torch.randn(10, 3, side, side, generator=torch.Generator().manual_seed(1))
    tower = graph.build_image_tower(reference.model.visual)
    onnx_file.write_tower(tower, {"pixel_values": pixels[:2]}, tmp_path / "t.onnx", 20)
    parts = [name for name, _ in tower.named_modules()]

    value_ranges = measure_ranges(tmp_path / "t.onnx", {"pixel_values": pixels.numpy()}, parts)

    assert {reach.part for reach in value_ranges} <= set(parts)
    assert all(0 <= reach.largest < LIMIT for reach in value_ranges)
    assert overflowing_parts(value_ranges) == ()
    with torch.inference_mode():
        expected = float(tower(pixels).abs().max())
    (features,) = (
        reach for reach in value_ranges if reach.node.startswith(("project_", "pool_out_"))
    )
    assert features.largest == pytest.approx(expected, rel=1e-4)
    assert features.part == EVERYTHING  # the host sees it


def test_ids_never_become_floats(demo_bundle: Path) -> None:
    """Token ids reach a lookup as int64 and nothing else: 49405 to 49407 are one float16."""
    assert np.float16(49405) == np.float16(49407)
    bundle = ModelBundle.open(demo_bundle)
    for precision in ("fp32", "fp16"):
        seen = list_operations(to_float32_graph(read_graph(bundle.graph("text", precision))), 8)
        carrying = {"input_ids"}
        for op in seen:
            using = [n for n, value in enumerate(op.inputs) if value and value.name in carrying]
            if not using:
                continue
            assert (op.kind, using) == ("Gather", [1])
            assert op.inputs[1] is not None
            assert op.inputs[1].dtype == TensorProto.INT64


def test_ids_that_float16_confuses_stay_apart(demo_bundle: Path) -> None:
    """Emulated, texts whose ids float16 cannot tell apart differ just as they do in float32."""
    bundle = ModelBundle.open(demo_bundle)
    ids = np.zeros((4, 77), np.int64)
    ids[:, 0], ids[:, 2] = 49406, 49407
    ids[:, 1] = [49404, 49405, 49406, 1000]
    onehot = np.zeros((4, 1, 77), np.float32)
    onehot[:, 0, 2] = 1
    feeds: Feeds = {"input_ids": ids, "eot_onehot": onehot}

    exact = OnnxSession(bundle.graph("text", "fp32"), find_provider("cpu")).run(feeds)
    rounded = emulate_fp16(bundle.graph("text", "fp16"), feeds)

    assert _cosine(rounded, exact) >= 0.9999
    rows = unit_rows(rounded, bundle.manifest.dim)
    assert (rows @ rows.T)[np.triu_indices(4, 1)].max() < 0.999
