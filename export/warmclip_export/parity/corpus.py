"""What the suite compares on: over 200 pictures of every mode, size and extreme; over 300 texts.

Most pictures are files, in a folder that the caller owns, so that decoding is compared as well.
Modes that no file format holds stay in memory. The corpus is the same every time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from random import Random
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from warmclip_export import captions, drawing, samples, scenes
from warmclip_export.parity.tricky_texts import TRICKY_TEXTS

Named: TypeAlias = tuple[str, Image.Image]
Planes: TypeAlias = npt.NDArray[np.uint8]

_MORE_PHOTOGRAPHS = (
    "brick.png",
    "cell.png",
    "clock_motion.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_right.png",
    "text.png",
)
_SCENES = 60
_MODES = (
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
    "I", "F", "I;16", "I;16L", "I;16B",
)  # fmt: skip
# Formats that give a mode back as it was; the rest of the modes stay in memory.
_FORMATS = {
    "1": ("png", "tiff"),
    "L": ("png", "jpeg", "bmp"),
    "LA": ("png",),
    "P": ("png", "gif"),
    "RGB": ("jpeg", "png", "webp", "bmp", "tiff", "ppm"),
    "RGBA": ("png", "webp", "tiff"),
    "CMYK": ("jpeg", "tiff"),
    "I": ("tiff",),
    "F": ("tiff",),
    "I;16": ("png", "tiff"),
}
_HOSTILE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusPicture:
    """One picture, with a name for the report."""

    name: str
    source: Path | Image.Image

    def load(self) -> Image.Image:
        """The picture as Pillow loads it: what open_clip's users hand to its transform."""
        if isinstance(self.source, Image.Image):
            return self.source
        with Image.open(self.source) as picture:
            picture.load()
            return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Pictures and texts to compare on.

    Attributes:
        every: 1 if it is the whole corpus, 5 if it has every fifth picture and text of it.
    """

    pictures: tuple[CorpusPicture, ...]
    texts: tuple[str, ...]
    every: int = 1

    def part(self, every: int) -> "Corpus":
        """Every so many-th picture and text: for a model that computes slowly.

        A part may lack whole modes and formats: every fifth has half of the modes.
        """
        return replace(
            self,
            pictures=self.pictures[::every],
            texts=self.texts[::every],
            every=self.every * every,
        )


def build_corpus(folder: Path, size_px: int) -> Corpus:
    """Make the corpus; files are written into ``folder`` and must stay while it is used.

    Args:
        folder: an empty one.
        size_px: the side of the model's square input, about which sizes are chosen.

    Raises:
        ExportRefused: the photographs are not where their packages ship them.
    """
    rng = Random(1)  # noqa: S311  # pictures, not secrets
    photographs = list(_photographs())
    named = [
        *photographs,
        *_details(photographs, rng),
        *_scenes(rng),
        *_modes(photographs),
        *_sizes(size_px),
        *_extremes(size_px),
    ]
    pick = {mode: cycle(formats) for mode, formats in _FORMATS.items()}
    pictures = []
    for number, (name, picture) in enumerate(named):
        if picture.mode not in pick:
            pictures.append(CorpusPicture(name=f"{name}, in memory", source=picture))
            continue
        kind = next(pick[picture.mode])
        path = folder / f"{number:03}.{kind}"
        if kind in ("jpeg", "webp"):
            picture.save(path, quality=90)
        else:
            picture.save(path)
        pictures.append(CorpusPicture(name=f"{name}, {kind}", source=path))
    return Corpus(pictures=tuple(pictures), texts=_texts())


def _photographs() -> Iterator[Named]:
    more = (("skimage", f"data/{name}") for name in _MORE_PHOTOGRAPHS)
    for package, name in (*samples.PHOTOGRAPHS, *more):
        yield Path(name).stem, samples.load_photograph(package, name)


def _details(photographs: list[Named], rng: Random) -> Iterator[Named]:
    """A part of each photograph, of any proportions."""
    for name, picture in photographs:
        width, height = (rng.randint(side // 4, side) for side in picture.size)
        left = rng.randint(0, picture.width - width)
        top = rng.randint(0, picture.height - height)
        yield f"part of {name}", picture.crop((left, top, left + width, top + height))


def _scenes(rng: Random) -> Iterator[Named]:
    for scene in rng.sample(scenes.held_out(), _SCENES):
        picture = drawing.draw_scene(scenes.arrange(scene, rng), rng, rng.randint(40, 480))
        yield captions.fixed_captions(scene)[0], picture


def _modes(photographs: list[Named]) -> Iterator[Named]:
    """A photograph and noise in every mode that Pillow can crop and turn into RGB."""
    _, photograph = next(named for named in photographs if named[0] == "coffee")
    noise = _noise(173, 211, 5)
    for mode in _MODES:
        yield f"coffee as {mode}", in_mode(photograph, mode)
        yield f"noise as {mode}", in_mode(noise, mode)


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """An RGB picture in another mode, with a real alpha channel where the mode has one."""
    grey = np.asarray(picture.convert("L"))
    match mode:
        case "LA" | "RGBA" | "RGBa" | "PA":
            veiled = picture.convert("RGBA")
            veiled.putalpha(Image.linear_gradient("L").resize(picture.size))
            return veiled.convert("P").convert("PA") if mode == "PA" else veiled.convert(mode)
        case "I;16" | "I;16L" | "I;16B":
            wide = (grey.astype(np.uint16) * 257).astype(">u2" if mode.endswith("B") else "<u2")
            return Image.frombytes(mode, picture.size, wide.tobytes())
        case "LAB":  # Pillow converts to it only with a colour profile; any bytes will do
            return Image.frombytes("LAB", picture.size, picture.tobytes())
        case _:
            return picture.convert(mode)


def _sizes(side: int) -> Iterator[Named]:
    """Sides about the input's own, where a crop rounds one way or the other; and slivers."""
    sizes = [
        *((side + spare, side) for spare in range(8)),
        *((side, side + spare) for spare in range(1, 8)),
        (side - 1, side - 1), (side + 3, side + 1), (2 * side + 3, 2 * side), (3 * side, side // 2),
        (1, 1), (2, 1), (1, 3), (7, 5), (1, 60), (60, 1), (16, 900), (900, 16), (4000, 60),
        (60, 4000), (1600, 300),
    ]  # fmt: skip
    for number, (width, height) in enumerate(sizes):
        yield f"noise {width} x {height}", _noise(width, height, 100 + number)


def _extremes(side: int) -> Iterator[Named]:
    rows, columns = np.mgrid[0:side, 0:side]
    colours = ("black", "white", "grey", "red", "lime", "blue", "cyan", "magenta", "yellow")
    yield from ((colour, Image.new("RGB", (side, side), colour)) for colour in colours)
    yield "white, large", Image.new("RGB", (1200, 800), "white")
    yield "clear", Image.new("RGBA", (side, side), (0, 0, 0, 0))
    yield "white as 1", Image.new("1", (90, 70), 1)
    yield "darkest I;16", Image.new("I;16", (side, side), 0)
    yield "brightest I;16", Image.new("I;16", (side, side), 65535)
    patterns: dict[str, Callable[[int], npt.NDArray[np.bool_]]] = {
        "checkerboard": lambda px: (rows // px + columns // px) % 2 == 0,
        "stripes across": lambda px: rows // px % 2 == 0,
        "stripes down": lambda px: columns // px % 2 == 0,
    }
    for name, pattern in patterns.items():
        for px in (1, 2, 7, 32):
            plane = np.where(pattern(px), 255, 0).astype(np.uint8)
            yield f"{name}, {px} px", Image.fromarray(np.stack([plane] * 3, axis=-1))
    ramp = (rows + columns) * 255 // max(1, 2 * side - 2)
    yield "gradient", Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], -1).astype(np.uint8))
    one = np.zeros((side, side, 3), np.uint8)
    one[side // 2, side // 2] = 255
    yield "one white pixel", Image.fromarray(one)
    yield "all but one white pixel", Image.fromarray(255 - one)
    for name, picture in (("loud", _noise(side, side, 9)), ("faint", _noise(side, side, 10))):
        plane = np.asarray(picture)
        loud = np.where(plane > 127, 255, 0) if name == "loud" else 120 + plane // 16
        yield f"{name} noise", Image.fromarray(loud.astype(np.uint8))


def _noise(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _texts() -> tuple[str, ...]:
    """Captions, sentences of many languages, what tokenizers disagree on, and noise."""
    rng = Random(2)  # noqa: S311  # texts, not secrets
    described = rng.sample(scenes.held_out(), 100)
    return (
        *samples.SENTENCES,
        *(captions.random_caption(scene, rng).text for scene in described),
        *TRICKY_TEXTS,
        *(samples.hostile_text(rng) for _ in range(_HOSTILE)),
    )
