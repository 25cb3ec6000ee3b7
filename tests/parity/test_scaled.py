"""``decode="scaled"`` against ``full``, on photographs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmclip import Encoder
from warmclip_export.samples import PHOTOGRAPHS, load_photograph

PIXELS = 4_000_000  # so many are over four times the demo model's side, and quickly made


def as_photographed(where: tuple[str, str], kind: str) -> bytes:
    """A photograph of another size, with the grain of a sensor, as a file."""
    small = load_photograph(*where).convert("RGB")
    scale = (PIXELS / (small.width * small.height)) ** 0.5
    size = (round(small.width * scale), round(small.height * scale))
    large = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(0).normal(0, 6, large.shape)
    stream = io.BytesIO()
    picture = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
    picture.save(stream, kind, **({"quality": 88} if kind == "JPEG" else {"compress_level": 1}))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_vectors_of_photographs(demo_bundle: Path, kind: str) -> None:
    """The worst cosine is 0.999 or more: measured at over 0.9999, the aim being 0.995."""
    files = [as_photographed(where, kind) for where in PHOTOGRAPHS]
    full, scaled = (
        Encoder.open(demo_bundle, provider="cpu", decode=rule).encode_images(files)
        for rule in ("full", "scaled")
    )
    assert (np.abs(full - scaled).max(axis=1) > 0).all(), "the shortcut was taken"
    cosines = (full * scaled).sum(axis=1)
    assert cosines.min() >= 0.999, dict(zip(PHOTOGRAPHS, cosines, strict=True))
