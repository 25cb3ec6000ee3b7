"""onnxruntime on what torch.onnx.export makes of open_clip, with open_clip's own preprocessing."""

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from bench.embedding.adapters.adapter import Array, PeerAdapter, Skipped
from bench.embedding.fixtures import Fixtures

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # counts only before the import

import onnxruntime


class StockOnnxruntime(PeerAdapter):
    """Two sessions with onnxruntime's defaults."""

    def __init__(self, fixtures: Fixtures) -> None:
        super().__init__(fixtures)
        graphs = [fixtures.stock / f"{tower}.onnx" for tower in ("image", "text")]
        for graph in graphs:
            if not graph.exists():
                raise Skipped(f"{graph} is missing; `make bench` makes it")
        providers = ["CPUExecutionProvider"]
        self._image, self._text = (
            onnxruntime.InferenceSession(graph, providers=providers) for graph in graphs
        )
        self._transform, self._tokenizer = _open_clip(fixtures)

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {"threads": "onnxruntime's choice", "onnxruntime": onnxruntime.__version__}

    def pixels(self, pixels: Array) -> Array:
        """See ``Adapter``."""
        vectors: Array = self._image.run(None, {"pixels": pixels})[0]
        return vectors

    def texts(self, texts: Sequence[str]) -> Array:
        """See ``Adapter``."""
        ids = self._tokenizer(list(texts)).numpy()
        vectors: Array = self._text.run(None, {"ids": ids})[0]
        return vectors

    def preprocess(self, path: str) -> Array:
        """See ``PeerAdapter``."""
        pixels: Array = self._transform(Image.open(path)).numpy()
        return pixels


def _open_clip(fixtures: Fixtures) -> tuple[Any, Any]:
    """Its transform and tokenizer, without its model."""
    from open_clip import SimpleTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(size=fixtures.side_px), is_train=False)
    length = fixtures.architecture["text_cfg"].get("context_length", 77)
    return transform, SimpleTokenizer(context_length=length)
