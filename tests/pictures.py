"""Pictures drawn for tests, no two alike."""

from pathlib import Path

import numpy as np
from PIL import Image


def tiles(seed: int) -> Image.Image:
    """A picture like no other: a few random tiles, 48x32."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((48, 32), Image.Resampling.NEAREST)


def draw(path: Path, seed: int) -> Path:
    """Write such a picture; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles(seed).save(path)
    return path
