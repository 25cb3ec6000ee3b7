"""What all contenders work on: one model in every form they take, one set of pictures and texts.

A contender may run in another virtual environment, so that this needs numpy at most.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

_HOURS = ("at dawn", "at noon", "in the evening", "at night", "in the rain", "in the fog")
_COLOURS = ("red", "orange", "yellow", "green", "blue", "violet", "brown", "black", "white", "grey")
_STATES = ("old", "new", "small", "large", "broken", "shiny", "wet", "dusty", "empty", "painted")
_THINGS = (
    "bicycle", "teapot", "lantern", "violin", "suitcase", "umbrella", "bridge", "tractor",
    "sailboat", "cat", "dog", "horse", "chair", "bookshelf", "typewriter", "camera", "clock",
    "kite", "ladder", "piano", "statue", "tram", "windmill",
)  # fmt: skip
_PLACES = (
    "on a beach", "under a tree", "in the snow", "behind a fence", "on a rooftop", "by a river",
    "in a kitchen", "at a market", "in front of a church", "on a mountain path", "by the window",
)  # fmt: skip
_PARTS = (_HOURS, _COLOURS, _STATES, _THINGS, _PLACES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixtures:
    """Files, all of them made before a clock runs."""

    folder: Path  # which goes when the run is over
    bundle: Path  # warmclip's
    checkpoint: Path  # the same weights, open_clip's
    tokenizer: str  # the folder of a tokenizer of Hugging Face, for open_clip; may be empty
    stock: Path  # the same towers as torch.onnx.export writes them: image.onnx, text.onnx
    fastembed: Path  # and in fastembed's layout: image/, text/
    architecture: dict[str, Any]  # open_clip's configuration of the model
    activation: str  # "gelu" or "quick_gelu"
    provider: str  # warmclip's
    pixels: Path  # .npy, (n, 3, S, S) float32, normalised
    singles: dict[str, str]  # "12 MP" -> a photograph
    folders: dict[str, tuple[str, ...]]  # "large" -> photographs
    points: int  # in the collection that queries search
    library: int  # points in the library that is searched without a model

    @classmethod
    def of_model(cls, folder: Path, bundle: Path, checkpoint: Path, tokenizer: str = "") -> Self:
        """A model alone, which is to be exported; there is nothing to work on."""
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            bundle=bundle,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            stock=Path(),
            fastembed=Path(),
            architecture=manifest["architecture"],
            activation=manifest["activation"],
            provider="cpu",
            pixels=Path(),
            singles={},
            folders={},
            points=0,
            library=0,
        )

    @property
    def side_px(self) -> int:
        """Of the square that the model takes."""
        side = self.architecture["vision_cfg"].get("image_size", 224)
        return int(side[0] if isinstance(side, list) else side)

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.architecture["embed_dim"])

    def load_pixels(self, count: int) -> npt.NDArray[np.float32]:
        """Ready pictures, (count, 3, S, S); no others take memory."""
        pixels: npt.NDArray[np.float32] = np.array(np.load(self.pixels, mmap_mode="r")[:count])
        return pixels

    def write(self, path: Path) -> None:
        """Keep it for the contenders."""
        path.write_text(json.dumps(asdict(self), default=os.fspath), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of ``write``."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        for name in ("folder", "bundle", "checkpoint", "stock", "fastembed", "pixels"):
            raw[name] = Path(raw[name])
        raw["folders"] = {name: tuple(paths) for name, paths in raw["folders"].items()}
        return cls(**raw)


def captions(start: int, count: int) -> list[str]:
    """Descriptions as people type them, no two alike: a cache of texts answers none of them."""
    total = math.prod(len(part) for part in _PARTS)
    texts = []
    for number in range(start, start + count):
        place = number * 7919 % total  # a prime: neighbours differ in everything
        chosen = []
        for part in _PARTS:
            place, index = divmod(place, len(part))
            chosen.append(part[index])
        hour, colour, state, thing, where = chosen
        texts.append(f"a photo of a {state} {colour} {thing} {where} {hour}")
    return texts


def collection(points: int, dim: int) -> npt.NDArray[np.float32]:
    """Unit vectors to search among, (points, dim)."""
    rows = np.random.default_rng(0).standard_normal((points, dim), np.float32)
    unit: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
