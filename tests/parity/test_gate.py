"""The export's gate, stage by stage, on a model that is two matrices."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from PIL import Image

from warmclip.inference.arrays import Crop, Features, OneHot, Pixels, TokenIds
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.image import make_crop, normalise
from warmclip.inference.text import Tokenizer, one_hot
from warmclip.settings import Limits
from warmclip_export.errors import ParityFailed
from warmclip_export.parity.gate import Gate, worst_row
from warmclip_export.reference import Reference
from warmclip_export.samples import Samples

ROWS, DIM, SIDE, CONTEXT, WORDS = 32, 4, 4, 6, 40
RECIPE = ImageRecipe(
    size_px=SIDE,
    resize_mode="shortest",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
_RNG = np.random.default_rng(3)
MATRIX = _RNG.standard_normal((3 * SIDE * SIDE, DIM)).astype(np.float32)
TABLE = _RNG.standard_normal((WORDS, DIM)).astype(np.float32)
SAMPLES = Samples(
    pictures=tuple(
        Image.fromarray(_RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)) for _ in range(ROWS)
    ),
    # No text is as long as the context, so that only a whole one is.
    texts=tuple("ab"[: 1 + row % 2] * (1 + row // 16) + chr(100 + row) for row in range(ROWS)),
    strings=("a", "bb", "abc"),
)


class _Linear:
    """What a gate asks of the reference."""

    def token_ids(self, texts: tuple[str, ...]) -> TokenIds:
        ids = np.zeros((len(texts), CONTEXT), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = [1 + ord(letter) % (WORDS - 1) for letter in text]
        return ids

    def eot_onehot(self, ids: TokenIds) -> OneHot:
        return one_hot((ids != 0).sum(axis=1) - 1, CONTEXT)

    def crop(self, picture: Image.Image) -> Crop:
        return make_crop(picture, RECIPE, Limits())

    def pixels(self, pictures: tuple[Image.Image, ...]) -> Pixels:
        return normalise([self.crop(picture) for picture in pictures], RECIPE)

    def image_features(self, pixels: Pixels) -> Features:
        features: Features = pixels.reshape(len(pixels), -1) @ MATRIX
        return features

    def text_features(self, ids: TokenIds) -> Features:
        features: Features = TABLE[ids[np.arange(len(ids)), (ids != 0).sum(axis=1) - 1]]
        return features


class _Tokenizer:
    """The reference's, but for one token, or one place of an end."""

    def __init__(self, wrong: str = "") -> None:
        self._wrong = wrong

    def encode(self, texts: tuple[str, ...]) -> tuple[TokenIds, OneHot]:
        ids = _Linear().token_ids(texts)
        ends = _Linear().eot_onehot(ids)
        match self._wrong:
            case "a later token":
                ids[1, 0] += 1
            case "an earlier token":
                ids[1, 0] -= 1
            case "another end":
                ends[1, 0] = ends[0, 0]
            case "no end":
                ends[1, 0] = 0
            case "a second end":
                ends[1, 0] += ends[0, 0]
        return ids, ends


@pytest.fixture
def gate() -> Gate:
    """A gate that nothing has passed yet."""
    return Gate(cast(Reference, _Linear()), SAMPLES)


def _stages(gate: Gate) -> list[str]:
    return [finding.stage for finding in gate.findings]


def test_what_open_clip_says(gate: Gate) -> None:
    """Inputs, features and unit vectors of both towers are kept for the stages."""
    assert gate.dim == DIM
    assert list(gate.feeds["text"]) == ["input_ids", "eot_onehot"]
    np.testing.assert_array_equal(gate.features["text"], TABLE[1 + (100 + np.arange(ROWS)) % 39])
    for tower in gate.features:
        assert len(gate.vectors[tower]) == ROWS
        norms = np.linalg.norm(gate.features[tower], axis=1, keepdims=True)
        np.testing.assert_allclose(gate.vectors[tower], gate.features[tower] / norms, rtol=1e-5)


def test_tokens(gate: Gate) -> None:
    """Every token and every place that a vector is taken from is the same."""
    gate.check_tokens(cast(Tokenizer, _Tokenizer()))
    assert [(it.stage, it.figure, it.threshold) for it in gate.findings] == [("tokens", 0, 0)]
    for wrong in ("a later token", "an earlier token", "another end", "no end", "a second end"):
        with pytest.raises(ParityFailed, match="tokens: texts that differ 1, allowed at most 0"):
            gate.check_tokens(cast(Tokenizer, _Tokenizer(wrong)))
    assert _stages(gate) == ["tokens"]


def test_pixels(gate: Gate) -> None:
    """Crops are compared to the byte, and pixels closely."""
    crops = gate.check_pixels(RECIPE)
    assert crops.shape == (ROWS, SIDE, SIDE, 3)
    assert [(it.stage, it.figure) for it in gate.findings] == [("crops", 0), ("pixels", 0)]
    with pytest.raises(ParityFailed, match=f"crops that differ {ROWS}, allowed at most 0"):
        gate.check_pixels(RECIPE.model_copy(update={"interpolation": "bilinear"}))
    with pytest.raises(ParityFailed, match="pixels: largest difference 2"):
        gate.check_pixels(RECIPE.model_copy(update={"mean": (0.5, 0.5, 1.0)}))


def test_one_crop_that_differs(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one value of one picture: it is counted."""
    honest, wrong = _Linear.crop, SAMPLES.pictures[-1]

    def crop(self: _Linear, picture: Image.Image) -> Crop:
        made = honest(self, picture)
        if picture is wrong:
            made[0, 0, 0] ^= 1
        return made

    monkeypatch.setattr(_Linear, "crop", crop)
    with pytest.raises(ParityFailed, match="crops that differ 1, allowed at most 0"):
        gate.check_pixels(RECIPE)


class _Wrapper(torch.nn.Module):
    def __init__(self, row: int, by: float) -> None:
        super().__init__()
        self.row, self.by = row, by

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = pixels.flatten(1) @ torch.from_numpy(MATRIX)
        features[self.row] += self.by * features[self.row].flip(0)
        return features


@pytest.mark.parametrize("row", [0, 31])
def test_wrapper(gate: Gate, row: int) -> None:
    """One row that is off is enough, and one that is no vector at all is refused as such."""
    gate.check_wrapper("image", _Wrapper(row, 0.0))
    assert _stages(gate) == ["image wrapper in torch"]
    with pytest.raises(ParityFailed, match=r"wrapper in torch: largest difference .* most 1e-05"):
        gate.check_wrapper("image", _Wrapper(row, 1e-3))
    with pytest.raises(ParityFailed, match=r"wrapper in torch: .*; no bundle was written"):
        gate.check_wrapper("image", _Wrapper(row, float("nan")))


def _graph(inside: str, constants: dict[str, npt.ArrayLike], path: Path) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20]> g {inside}')
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.save(model, path)
    return path


def _image_graph(path: Path, scale: float = 1.0, dtype: Any = np.float16) -> Path:
    """The matrix in float16 at a scale that only float16 notices, and back in float32."""
    return _graph(
        f"(float[batch,3,{SIDE},{SIDE}] pixel_values) => (float[batch,{DIM}] features) {{"
        " rows = Reshape(pixel_values, flat)  wide = MatMul(rows, matrix)"
        f" small = Cast<to = {10 if dtype is np.float16 else 1}>(wide)"
        " back = Cast<to = 1>(small)  features = Mul(back, up) }",
        {
            "flat": np.array([-1, MATRIX.shape[0]]),
            "matrix": MATRIX * np.float32(scale),
            "up": np.float32(1 / scale),
        },
        path,
    )


_BATCHES = [f"batch {batch}" for batch in (1, 2, 7, 32)]


def test_graph_of_pictures(gate: Gate, tmp_path: Path) -> None:
    """It is compared in four sizes of a batch; in float32 what float16 loses is too much."""
    gate.check_graph("image", "fp32", _image_graph(tmp_path / "g.onnx", dtype=np.float32))
    assert _stages(gate) == [f"image fp32, {batch}" for batch in _BATCHES]
    assert {finding.measure for finding in gate.findings} == {"largest difference"}
    with pytest.raises(ParityFailed, match="image fp32, batch 1: largest difference"):
        gate.check_graph("image", "fp32", _image_graph(tmp_path / "h.onnx"))


@pytest.mark.parametrize(
    ("scale", "flushed", "note"),
    [(1.0, 1.0, "not every device flushes"), (1e-6, 0.0, "zero length")],
)
def test_graph_in_float16(
    gate: Gate, tmp_path: Path, scale: float, flushed: float, note: str
) -> None:
    """It is computed as accelerators do as well; what flushing would do is for the record."""
    gate.check_graph("image", "fp16", _image_graph(tmp_path / "g.onnx", scale))
    of_cpu = [f"image fp16, {batch}" for batch in _BATCHES]
    assert _stages(gate) == [*of_cpu, "image fp16 emulated", "image fp16, subnormals flushed"]
    assert {finding.measure for finding in gate.findings} == {"lowest cosine"}
    last = gate.findings[-1]
    assert last.passed
    assert last.figure == pytest.approx(flushed, abs=1e-3)
    assert (last.threshold, note in last.note) == (-1.0, True)


def test_worst_row() -> None:
    """The largest difference of a component in float32, else the lowest cosine."""
    theirs = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    ours = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    assert worst_row("fp32", ours, theirs) == pytest.approx(0.6)
    assert worst_row("fp16", ours, theirs) == pytest.approx(0.8)


def test_graph_in_int8(gate: Gate, tmp_path: Path) -> None:
    """It is judged by the cosine of its worst row, and nothing is emulated."""
    gate.check_graph("image", "int8", _image_graph(tmp_path / "g.onnx"))
    assert _stages(gate) == [f"image int8, {batch}" for batch in _BATCHES]
    assert {finding.measure for finding in gate.findings} == {"lowest cosine"}


def test_graph_that_only_an_accelerator_computes_wrong(gate: Gate, tmp_path: Path) -> None:
    """What float16 cannot hold is refused, though the CPU would be right."""
    with pytest.raises(ParityFailed, match="image fp16"):
        gate.check_graph("image", "fp16", _image_graph(tmp_path / "g.onnx", 1e5))


_TEXT_ERRORS = {
    "": "is_wrong = And(is_alone, is_full)",  # never
    "alone": "is_wrong = And(is_alone, is_marked)",
    "whole": "is_wrong = And(is_full, is_marked)",
}


def _text_graph(path: Path, wrong: str) -> Path:
    """Rows of the table; wrong for a text by itself, or for whole texts, if its first is "b"."""
    return _graph(
        "(int64[batch,length] input_ids, float[batch,1,length] eot_onehot)"
        f" => (float[batch,{DIM}] features) {{"
        " rows = Gather(table, input_ids)  taken = MatMul(eot_onehot, rows)"
        " plain = Reshape(taken, flat)  size = Shape(input_ids)"
        " are_one = Equal(size, one)  is_alone = Gather(are_one, first)"
        " are_full = Equal(size, full)  is_full = Gather(are_full, second)"
        " letters = Gather<axis = 1>(input_ids, column)  is_marked = Equal(letters, marked)"
        f" {_TEXT_ERRORS[wrong]}  error = Cast<to = 1>(is_wrong)"
        " tilt = Mul(error, by)  features = Add(plain, tilt) }",
        {
            "table": TABLE,
            "flat": np.array([-1, DIM]),
            "one": np.int64(1),
            "full": np.int64(CONTEXT),
            "first": np.int64(0),
            "second": np.int64(1),
            "column": np.array([1]),
            "marked": np.int64(1 + ord("b") % (WORDS - 1)),
            "by": np.array([[0.1, 0, 0, 0]], np.float32),
        },
        path,
    )


def test_graph_of_texts(gate: Gate, tmp_path: Path) -> None:
    """Each is compared by itself at its own length, and all of them at the whole length."""
    gate.check_graph("text", "fp32", _text_graph(tmp_path / "g.onnx", ""))
    expected = [f"text fp32, {how}" for how in (*_BATCHES, "alone", "whole")]
    assert _stages(gate) == expected
    for wrong in ("alone", "whole"):
        with pytest.raises(ParityFailed, match=f"text fp32, {wrong}: largest difference"):
            gate.check_graph("text", "fp32", _text_graph(tmp_path / f"{wrong}.onnx", wrong))
