"""The fake backend that applications test with."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmclip import Client
from warmclip.client.backend import Picture
from warmclip.errors import ImagesUnreadable, ImageUnreadable, TextRefused
from warmclip.testing import FakeBackend


@pytest.fixture
def client() -> Client:
    """A client of it."""
    return Client(FakeBackend(dim=16))


def test_vectors(client: Client) -> None:
    """They look like a model's: float32, unit length, one row each, and none for nothing."""
    vectors = client.embed_texts(["a", "b", "a"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, client.space().dim) == (3, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert (vectors[0] == vectors[2]).all()
    assert abs(vectors[0] @ vectors[1]) < 0.99
    assert client.embed_texts([]).shape == client.embed_images([]).shape == (0, 16)
    assert (client.embed_text("a") == vectors[0]).all()


def test_picture_in_every_form(client: Client, tmp_path: Path) -> None:
    """A path, its bytes and an open picture have one vector; another picture has another."""
    path = tmp_path / "red.png"
    red = Image.new("RGB", (8, 8), "red")
    red.save(path)
    forms: list[Picture] = [path, str(path), path.read_bytes(), red]
    vectors = client.embed_images(forms)
    assert (vectors == vectors[0]).all()
    assert not (client.embed_image(Image.new("RGB", (8, 8), "blue")) == vectors[0]).all()
    assert not (client.embed_image(Image.new("RGB", (4, 16), "red")) == vectors[0]).all()


def test_what_cannot_be_embedded(client: Client, tmp_path: Path) -> None:
    """It is refused with the errors of a real backend."""
    good = io.BytesIO()
    Image.new("RGB", (8, 8)).save(good, "PNG")
    with pytest.raises(ImagesUnreadable) as refused:
        client.embed_images([b"no picture", good.getvalue(), tmp_path / "none.png", b""])
    assert list(refused.value.reasons) == [0, 2, 3]
    with pytest.raises(ImageUnreadable, match=r"none\.png"):
        client.embed_image(tmp_path / "none.png")
    with pytest.raises(TextRefused):
        client.embed_texts([7])  # type: ignore[list-item]  # that is the mistake


def test_vectors_of_another_process(client: Client) -> None:
    """They are the same there, and neither onnxruntime nor a client of Redis is used for them."""
    code = (
        "import sys\n"
        "from warmclip import Client\n"
        "from warmclip.testing import FakeBackend\n"
        "print(Client(FakeBackend(dim=16)).embed_text('a').tolist())\n"
        "print({'onnxruntime', 'qdrant_client', 'rq'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{client.embed_text('a').tolist()}\nset()\n"
