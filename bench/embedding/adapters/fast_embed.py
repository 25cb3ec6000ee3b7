"""fastembed, over folders in the layout of its own CLIP."""

from collections.abc import Sequence
from typing import Any

import fastembed
import numpy as np
from fastembed import ImageEmbedding, TextEmbedding

from bench.embedding.adapters.adapter import BATCH, Array, PeerAdapter, Skipped, unit
from bench.embedding.fixtures import Fixtures

_IMAGE, _TEXT = "Qdrant/clip-ViT-B-32-vision", "Qdrant/clip-ViT-B-32-text"


class FastEmbed(PeerAdapter):
    """With its defaults, but for batches of 32: one process, onnxruntime's own threads."""

    def __init__(self, fixtures: Fixtures) -> None:
        super().__init__(fixtures)
        folder = fixtures.fastembed
        if not folder.exists():
            raise Skipped(f"{folder} is missing; `make bench` makes it")
        self._image = ImageEmbedding(_IMAGE, specific_model_path=str(folder / "image"))
        self._text = TextEmbedding(_TEXT, specific_model_path=str(folder / "text"))

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {"threads": "onnxruntime's choice", "fastembed": fastembed.__version__}

    def pixels(self, pixels: Array) -> Array:
        """See ``Adapter``: fastembed has no such entrance, its session has."""
        model = self._image.model
        return unit(model.model.run(None, {model.model.get_inputs()[0].name: pixels})[0])

    def texts(self, texts: Sequence[str]) -> Array:
        """See ``Adapter``."""
        return np.stack(list(self._text.embed(list(texts), batch_size=BATCH)))

    def embed(self, paths: Sequence[str]) -> Array:
        """See ``PeerAdapter``."""
        return np.stack(list(self._image.embed(list(paths), batch_size=BATCH)))
