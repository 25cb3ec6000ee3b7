"""Golden vectors that are none, of a bundle whose digests are right all the same."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmclip.errors import BundleError
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.model_card import ModelCard
from warmclip.inference.selection.golden import Golden

Arrays = dict[str, Any]


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
        lambda it: packed({name: array[:0] for name, array in it.items()}),
        lambda _: packed_header((10**11, 128)),
        lambda _: packed_header((8,)),
    ],
    ids=[
        "no archive",
        "empty",
        "pickle",
        "short",
        "cut",
        "no rows",
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


def test_certificate_that_is_too_deep(bundle: Path) -> None:
    """A list of models has all others."""
    put(bundle, "certificate", b"[" * 200_000)
    problem = ModelCard.read(bundle).problem
    assert problem is not None
    assert "certificate cannot be read" in problem
