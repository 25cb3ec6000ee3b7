"""Photographs as cameras and phones leave them, made of those that two packages ship.

A part of one is enlarged, given the grain of a sensor, and saved as baseline JPEG of quality 90
with 4:2:0 colour: what matters to a decoder, which is its size and its detail, is a photograph's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from warmclip_export.samples import PHOTOGRAPHS, load_photograph

_NO_COLOURS = frozenset({"data/camera.png", "data/page.png", "data/logo.png"})
_SOURCES = tuple(source for source in PHOTOGRAPHS if source[1] not in _NO_COLOURS)
_ASPECTS = (4 / 3, 3 / 2, 3 / 4, 16 / 9, 4 / 3)
_GRAIN = 12  # levels, at most: 0.3 bytes a pixel, as phones leave them
_QUALITY = 90
_420 = 2  # Pillow's name for the colours of a camera


@dataclass(frozen=True, slots=True, kw_only=True)
class Album:
    """A folder to be: how large each picture is, in megapixels."""

    name: str
    megapixels: tuple[float, ...]


def make_album(album: Album, folder: Path) -> Iterator[str]:
    """Make the pictures of an album, yielding the path of each."""
    folder.mkdir()
    for number, megapixels in enumerate(album.megapixels):
        path = folder / f"{number:03}.jpg"
        # Its name is its seed, so that no two albums have a picture in common.
        make_photograph(path, megapixels, seed=[number, *album.name.encode()])
        yield str(path)


def make_photograph(path: Path, megapixels: float, seed: int | list[int]) -> None:
    """Make one photograph."""
    rng = np.random.default_rng(seed)
    source = load_photograph(*_SOURCES[rng.integers(len(_SOURCES))]).convert("RGB")
    aspect = _ASPECTS[rng.integers(len(_ASPECTS))]
    height = round((megapixels * 1e6 / aspect) ** 0.5)
    width = round(aspect * height)
    scale = min(source.width / width, source.height / height) * rng.uniform(0.6, 1.0)
    part = (scale * width, scale * height)
    left = rng.uniform(0, source.width - part[0])
    top = rng.uniform(0, source.height - part[1])
    box = (left, top, left + part[0], top + part[1])
    enlarged = source.resize((width, height), Image.Resampling.BICUBIC, box=box)
    levels = np.asarray(enlarged, np.int16)
    grain = rng.integers(-_GRAIN, _GRAIN + 1, (height, width, 1), np.int8)
    grainy = np.clip(levels + grain, 0, 255).astype(np.uint8)
    Image.fromarray(grainy).save(path, "JPEG", quality=_QUALITY, subsampling=_420)
