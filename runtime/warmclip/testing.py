"""For the unit tests of applications: a backend without a model, a worker or a Redis.

::

    from warmclip import Client
    from warmclip.testing import FakeBackend

    client = Client(FakeBackend())
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmclip.client.backend import Deadline, Picture
from warmclip.errors import ImagesUnreadable, TextRefused
from warmclip.inference.arrays import Vector, Vectors
from warmclip.store.protocol import Space

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FakeBackend"]


class FakeBackend:
    """A ``Backend`` that makes unit vectors of digests.

    The same text, and the same picture as a path, as bytes or open, always get the same vector,
    in every process; different ones get vectors that have nothing to do with each other. What is
    no picture is refused as by a model.
    """

    concurrency = 4

    def __init__(self, dim: int = 512) -> None:
        """Make a backend.

        Args:
            dim: the length of its vectors.
        """
        self._space = Space(fingerprint=_digest(f"fake {dim}".encode()).hex(), dim=dim)

    def space(self, deadline: Deadline) -> Space:  # noqa: ARG002 - the protocol's
        """See ``Backend``."""
        return self._space

    def embed_texts(self, texts: Sequence[str], deadline: Deadline) -> Vectors:  # noqa: ARG002 - the protocol's
        """See ``Backend``.

        Raises:
            TextRefused: one is no str.
        """
        for text in texts:
            if not isinstance(text, str):
                raise TextRefused(f"a text must be a str, not {type(text).__name__}")
        return self._stack(
            [self._vector(b"text " + text.encode("utf-8", "surrogatepass")) for text in texts]
        )

    def embed_images(self, pictures: Sequence[Picture], deadline: Deadline) -> Vectors:  # noqa: ARG002 - the protocol's
        """See ``Backend``."""
        vectors: list[Vector] = []
        reasons: dict[int, str] = {}
        for index, picture in enumerate(pictures):
            try:
                vectors.append(self._vector(b"image " + _read_pixels(picture)))
            except OSError as exc:  # Pillow's own errors are among them
                reasons[index] = f"is no picture that can be read: {exc}"
        if reasons:
            raise ImagesUnreadable(reasons)
        return self._stack(vectors)

    def close(self) -> None:
        """Release nothing."""

    def _vector(self, content: bytes) -> Vector:
        """A unit vector, shape (dim,), float32."""
        seed = int.from_bytes(_digest(content))
        vector = np.random.default_rng(seed).standard_normal(self._space.dim)
        unit: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit

    def _stack(self, vectors: Sequence[Vector]) -> Vectors:
        return np.array(vectors, np.float32).reshape(len(vectors), self._space.dim)


def _read_pixels(picture: Picture) -> bytes:
    """A picture's size and its RGB pixels, whatever form it is in."""
    from PIL import Image

    if isinstance(picture, bytes):
        with Image.open(io.BytesIO(picture)) as opened:
            return _pixels_of(opened)
    if isinstance(picture, str | Path):
        with Image.open(picture) as opened:
            return _pixels_of(opened)
    return _pixels_of(picture)


def _pixels_of(picture: "Image.Image") -> bytes:
    return f"{picture.size} ".encode() + picture.convert("RGB").tobytes()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
