"""Golden vectors that are none, of a bundle whose digests are right all the same."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmclip.errors import BadVectors, BundleError
from warmclip.inference.arrays import Features, Inputs
from warmclip.inference.bundle import ModelBundle, Precision
from warmclip.inference.model_card import ModelCard
from warmclip.inference.providers import CPU, PROVIDERS
from warmclip.inference.selection.golden import TOLERANCES, Comparison, Golden, tolerance

Arrays = dict[str, Any]


IMAGES = ("crops", "image_vectors", "image_norms")
TEXTS = ("input_ids", "eot", "text_vectors", "text_norms")


def cut(arrays: Arrays, names: Sequence[str], rows: int) -> Arrays:
    """Arrays of which some have so many rows."""
    return arrays | {name: arrays[name][:rows] for name in names}


def packed(arrays: Arrays) -> bytes:
    """An .npz file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def packed_header(shape: tuple[int, ...]) -> bytes:
    """An .npz file whose only array says that it is of a shape, and is not there."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("image_norms.npy", header.getvalue())
    return stream.getvalue()


def put(bundle: Path, record: str, content: bytes) -> None:
    """Replace a file of a bundle, with its digest."""
    where = bundle / "manifest.json"
    manifest = json.loads(where.read_text())
    (bundle / manifest[record]["file"]).write_bytes(content)
    manifest[record] |= {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
    where.write_text(json.dumps(manifest))


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may spoil."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    "content_of",
    [
        lambda _: b"PK is the beginning of it",
        lambda _: packed({}),
        lambda it: packed(it | {"text_norms": np.array([object()])}),
        lambda it: packed(it | {"text_norms": it["text_norms"][:-1]}),
        lambda it: packed(it | {"crops": it["crops"][:, :8]}),
        lambda it: packed(cut(it, IMAGES, 0)),
        lambda it: packed(cut(it, TEXTS, 0)),
        lambda _: packed_header((10**11, 128)),
        lambda _: packed_header((8,)),
    ],
    ids=[
        "no archive",
        "empty",
        "pickle",
        "short",
        "cut",
        "no pictures",
        "no texts",
        "beyond memory",
        "header only",
    ],
)
def test_file_that_holds_something_else(
    bundle: Path, content_of: Callable[[Arrays], bytes]
) -> None:
    """It is refused by its name, not by whatever error its content leads to."""
    opened = ModelBundle.open(bundle)
    with np.load(opened.golden()) as golden:
        put(bundle, "golden", content_of(dict(golden)))
    with pytest.raises(BundleError, match=r"golden\.npz: .*export the model again"):
        Golden(ModelBundle.open(bundle)).norm_range("text")


def test_one_row_of_each(bundle: Path) -> None:
    """A bundle with one golden picture and one golden text can be checked."""
    with np.load(ModelBundle.open(bundle).golden()) as golden:
        put(bundle, "golden", packed(cut(dict(golden), IMAGES + TEXTS, 1)))
    golden = Golden(ModelBundle.open(bundle))
    assert [golden.rows("image"), golden.rows("text")] == [1, 1]


def test_certificate_that_is_too_deep(bundle: Path) -> None:
    """A list of models has all others."""
    put(bundle, "certificate", b"[" * 200_000)
    problem = ModelCard.read(bundle).problem
    assert problem is not None
    assert "certificate cannot be read" in problem


@pytest.mark.parametrize(
    ("cosine", "norm", "fault"),
    [
        (1.0, 0.0, None),
        (0.999, 0.03, None),
        (0.9989, 0.0, "cosine 0.998900 to the golden vectors, 0.999 is needed"),
        (1.0, 0.031, "raw lengths 3.10% off the golden ones, 3.0% are allowed"),
        (float("nan"), 0.0, "cosine"),
        (1.0, float("nan"), "raw lengths"),
    ],
)
def test_how_far_off_is_too_far(cosine: float, norm: float, fault: str | None) -> None:
    """What is no number is."""
    found = Comparison(cosine=cosine, max_abs=0.5, norm=norm).fault(TOLERANCES["fp16"])
    assert (found is None) == (fault is None)
    assert (fault or "") in (found or "")


def test_what_a_precision_may_be_off() -> None:
    """An error of one percent in each value is noticed in fp32; a coarse one in any other."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    cosines = [TOLERANCES[it].cosine for it in precisions]
    norms = [TOLERANCES[it].norm for it in precisions]
    assert 1 > cosines[0] > 0.99995 > cosines[1] > cosines[2] > 0.99
    assert 0 < norms[0] < 0.01 < norms[1] < norms[2] < 0.1
    assert tolerance(CPU) == TOLERANCES["fp32"]
    assert tolerance(PROVIDERS["cpu-bf16"]) == TOLERANCES["fp16"]  # of a graph in fp32
    assert tolerance(PROVIDERS["cpu-int8"]) == TOLERANCES["int8"]


@pytest.mark.parametrize(
    ("wrong", "is_new", "fails"),
    [(None, True, False), (0, True, True), (-1, True, True), (0, False, True), (-1, False, False)],
)
def test_new_model_computes_every_golden_row(
    demo_bundle: Path, wrong: int | None, is_new: bool, fails: bool
) -> None:
    """One that was compiled before computes the first alone."""
    golden = Golden(ModelBundle.open(demo_bundle))
    asked: list[int] = []

    def run(feeds: Inputs) -> Features:
        asked.append(len(feeds["pixel_values"]))
        arrays = golden._arrays
        features: Features = arrays["image_vectors"] * arrays["image_norms"][:, None]
        if wrong is not None:
            features[wrong] = np.roll(features[wrong], 1)
        return features[: asked[0]]

    if fails:
        with pytest.raises(BadVectors, match="wrong image vectors: cosine"):
            golden.check("image", "fp32", run, is_new)
    else:
        golden.check("image", "fp32", run, is_new)
    assert asked == [golden.rows("image") if is_new else 1]


def test_lengths_of_honest_features(demo_bundle: Path) -> None:
    """Four times beyond the golden ones, either way."""
    golden = Golden(ModelBundle.open(demo_bundle))
    norms = golden._arrays["text_norms"]
    assert golden.norm_range("text") == pytest.approx((norms.min() / 4, norms.max() * 4))
