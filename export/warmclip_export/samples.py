"""What the gate compares on: photographs, drawings, noise, and texts of many kinds."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from warmclip_export import captions, drawing, scenes
from warmclip_export.errors import ExportRefused

# Files that lie in the packages themselves, so that nothing is downloaded.
PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/camera.png"),  # grey
    ("skimage", "data/page.png"),  # grey and very wide
    ("skimage", "data/logo.png"),  # with an alpha channel
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
_DRAWING_SIDES = (40, 64, 96, 128, 192, 224, 256, 300, 336, 400, 448, 512)
_NOISE_SIZES = (
    (1, 1),
    (5, 17),
    (31, 200),
    (224, 224),
    (240, 180),
    (256, 256),
    (400, 90),
    (300, 300),
)

SENTENCES = (
    "",
    "a",
    "a photo of a cat",
    "a photo of a dog",
    "an astronaut in an orange suit",
    "a cup of coffee on a wooden table, seen from above",
    "A RED BICYCLE leaning against a wall!",
    "two people's hands; it's what they'd've done",
    "1234567890 numbers, 3.14159 and 50 %",
    "une photo d'un château près de la rivière",
    "ein Bild von einer Straßenbahn über der Brücke",
    "красный велосипед",
    "一張貓的照片",
    "夕焼けの海辺を歩く人々",
    "صورة لقطة على الأريكة",
    "एक बिल्ली की तस्वीर",
    "빨간 자전거",
    "emoji 🐱🚲 and a family 👨‍👩‍👧",
    "tabs\tand\nnew lines   and  spaces ",
    "&lt;b&gt;escaped&amp;amp; twice&lt;/b&gt;",
    "<start_of_text> written out <end_of_text>",
    "schÃ¶n broken encoding",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "the quick brown fox jumps over the lazy dog " * 3,
    "a very long caption that has to be cut, " * 20,
)

PICTURES = len(PHOTOGRAPHS) + len(_DRAWING_SIDES) + len(_NOISE_SIZES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The pictures and texts; the bundle keeps those that ``golden_*`` index.

    Attributes:
        pictures: 32 of them.
        texts: 32 of them, whose vectors are compared.
        strings: more texts, of which only the tokens are compared.
    """

    pictures: tuple[Image.Image, ...]
    texts: tuple[str, ...]
    strings: tuple[str, ...]

    @property
    def golden_pictures(self) -> tuple[int, ...]:
        """Four photographs, three drawings, one noise: small enough to be kept."""
        first_drawing = len(PHOTOGRAPHS)
        return (0, 1, 2, 10, first_drawing, first_drawing + 4, first_drawing + 8, PICTURES - 3)

    @property
    def golden_texts(self) -> tuple[int, ...]:
        """Twelve texts of different languages and lengths."""
        return tuple(range(0, 24, 2))


def load_samples() -> Samples:
    """Collect the samples; always the same ones.

    Raises:
        ExportRefused: the photographs are not where their packages ship them.
    """
    rng = Random(0)  # noqa: S311  # pictures, not secrets
    photographs = tuple(load_photograph(*where) for where in PHOTOGRAPHS)
    drawings = tuple(_draw(side, rng) for side in _DRAWING_SIDES)
    described = rng.sample(scenes.held_out(), 100)
    sentences = [captions.random_caption(scene, rng).text for scene in described]
    texts = (*SENTENCES, *sentences)[:PICTURES]
    strings = (*SENTENCES, *sentences, *(hostile_text(rng) for _ in range(200)))
    return Samples(pictures=(*photographs, *drawings, *_noises()), texts=texts, strings=strings)


def load_photograph(package: str, name: str) -> Image.Image:
    """A photograph that lies in an installed package.

    Raises:
        ExportRefused: it does not.
    """
    spec = find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else Path(name)
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except OSError as exc:
        raise ExportRefused(
            f"the gate compares on {name} of {package}, which cannot be read: {exc}; "
            "reinstall it with: pip install 'warmclip[export]'"
        ) from exc


def _draw(side_px: int, rng: Random) -> Image.Image:
    scene = scenes.arrange(rng.choice(scenes.held_out()), rng)
    return drawing.draw_scene(scene, rng, side_px)


def _noises() -> tuple[Image.Image, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in _NOISE_SIZES
    )


def hostile_text(rng: Random) -> str:
    """Characters of all planes; surrogates excepted, which are no text."""
    ranges = ((32, 127), (32, 127), (9, 33), (160, 0x600), (0x2000, 0xD800), (0xE000, 0x20000))
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60)))
