"""The jobs: the same arguments and results whoever runs them, whatever computes them.

Each keeps its model in its process once it is loaded, as one writes it. Whether that helps is up to
the worker: in a process that ends with the job, nothing is kept.
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime
    from PIL import Image

    from warmclip import Encoder

CHECKPOINT = "BENCH_CHECKPOINT"
"""The variable that names open_clip's weights."""

_SIDE_PX = 224
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def nothing() -> None:
    """Do nothing: what is left is the worker itself."""


def embed_with_torch(paths: list[str]) -> dict[str, Any]:
    """Embed with open_clip, as its README shows it."""
    import torch
    from PIL import Image

    model, preprocess = _open_clip()
    vectors: list[list[float]] = []
    for batch in _batches(paths):
        with torch.inference_mode():
            pixels = torch.stack([preprocess(Image.open(path)) for path in batch])
            vectors += model.encode_image(pixels, normalize=True).tolist()
    return _answer(paths, vectors)


def embed_with_onnxruntime(paths: list[str]) -> dict[str, Any]:
    """Embed with onnxruntime alone: a port in an afternoon, without warmclip's checks."""
    import numpy as np
    from PIL import Image

    session = _session()
    vectors: list[list[float]] = []
    for batch in _batches(paths):
        pixels = np.stack([_pixels(Image.open(path)) for path in batch])
        (features,) = session.run(None, {"pixel_values": pixels})
        vectors += (features / np.linalg.norm(features, axis=1, keepdims=True)).tolist()
    return _answer(paths, vectors)


def embed_with_encoder(paths: list[str]) -> dict[str, Any]:
    """Embed with a warm Encoder of warmclip."""
    return _answer(paths, _encoder().encode_images(paths).tolist())


@cache
def _open_clip() -> tuple[Any, Any]:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32", pretrained=os.environ[CHECKPOINT]
    )
    return model.eval(), preprocess


@cache
def _session() -> "onnxruntime.InferenceSession":
    import onnxruntime

    graph = Path(os.environ["WARMCLIP_BUNDLE"], "image.fp32.onnx")
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@cache
def _encoder() -> "Encoder":
    from warmclip import Encoder, Settings

    encoder = Encoder.from_settings(Settings.from_env(os.environ))
    encoder.warm()
    return encoder


def _pixels(image: "Image.Image") -> "npt.NDArray[np.float32]":
    """What ViT-B-32 takes: the middle of the picture, (3, 224, 224)."""
    import numpy as np
    from PIL import ImageOps
    from PIL.Image import Resampling

    square = ImageOps.fit(image.convert("RGB"), (_SIDE_PX, _SIDE_PX), Resampling.BICUBIC)
    scaled = (np.asarray(square) / 255 - np.array(_MEAN)) / np.array(_STD)
    return np.asarray(scaled.transpose(2, 0, 1), np.float32)


def _batches(paths: list[str]) -> list[list[str]]:
    """As many as warmclip runs at once."""
    return [paths[start : start + 32] for start in range(0, len(paths), 32)]


def _answer(paths: list[str], vectors: list[list[float]]) -> dict[str, Any]:
    """What ``warmclip.work.jobs.embed_images`` answers."""
    found = dict(zip(paths, vectors, strict=True))
    return {"vectors": found, "unreadable": {}, "fingerprint": "", "dim": len(vectors[0])}
