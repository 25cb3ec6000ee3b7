"""An encoder without a model: a picture's vector is its pixels, a text's the colour it names.

Real where it matters to an indexer (reading, refusing, keys, order), and quick.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from warmclip.errors import ImageUnreadable
from warmclip.inference.arrays import Vector, Vectors
from warmclip.inference.decoding import ImageSource, read_source
from warmclip.inference.encoder import Embedded
from warmclip.inference.image import open_image
from warmclip.inference.reading import FileReader
from warmclip.inference.selection.canary import Canary
from warmclip.settings import Limits
from warmclip.store.protocol import Space

K = TypeVar("K")

_SIDE = 4


class PixelEncoder:
    """Counts what it embeds; ``before_each`` runs before each picture."""

    def __init__(
        self,
        model: str = "a",
        *,
        before_each: Callable[[], object] | None = None,
        seconds_each: float = 0.0,
        limits: Limits | None = None,
    ) -> None:
        self.fingerprint = model * 64
        self.dim = 3 * _SIDE * _SIDE
        self.provider = "pixels"
        self.versions = {"pixels": "1"}
        self.embedded = 0
        self.canary: Canary | None = None  # that its vectors wait for
        self.proven: set[Canary] = set()
        self._before_each = before_each
        self._seconds_each = seconds_each
        self._limits = limits or Limits()
        self._reader = FileReader(self._limits)

    @property
    def space(self) -> Space:
        """Where its vectors live."""
        return Space(fingerprint=self.fingerprint, dim=self.dim)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """One vector for each colour's name."""
        return np.stack([_vector(Image.new("RGB", (1, 1), text)) for text in texts])

    def encode_images(self, images: Sequence[ImageSource]) -> Vectors:
        """One vector for each picture; a bad one raises."""
        return np.stack([self._embed(image).vector for image in images])

    def encode_each(
        self, items: Iterable[tuple[K, ImageSource]]
    ) -> Iterator[tuple[K, Embedded | ImageUnreadable]]:
        """As ``Encoder.encode_each``, one after the other."""
        for key, source in items:
            if self._before_each is not None:
                self._before_each()
            time.sleep(self._seconds_each)
            try:
                embedded = self._embed(source)
            except ImageUnreadable as exc:
                yield key, exc
            else:
                self.embedded += 1
                yield key, embedded

    def _embed(self, source: ImageSource) -> Embedded:
        image = open_image(read_source(source, self._limits, self._reader), self._limits)
        return Embedded(
            vector=_vector(image),
            width_px=image.width,
            height_px=image.height,
            provider=self.provider,
            canary=self.canary,
        )

    def is_proven(self, canary: Canary | None) -> bool:
        """Whether the test has said so."""
        return canary is None or canary in self.proven


def _vector(image: Image.Image) -> Vector:
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    row = np.asarray(small, np.float32).ravel() - np.float32(127.4)
    return row / np.linalg.norm(row)
