"""The square that the model sees, against the plain way to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from recipes import a_recipe
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.resizing import Size, cut_square, resized_size

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")

recipes = st.builds(
    ImageRecipe,
    size_px=st.sampled_from([7, 32, 64]),
    resize_mode=st.sampled_from(["shortest", "shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 114]),
    mean=st.just((0.5, 0.5, 0.5)),
    std=st.just((0.5, 0.5, 0.5)),
)
sides = st.one_of(st.integers(1, 80), st.integers(1, 700))


def noise(mode: str, size: Size, seed: int) -> Image.Image:
    """Noise in any mode, from raw bytes."""
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.normal(128, 120, size[::-1]).astype(np.float32))
    image = Image.frombytes(mode, size, rng.bytes(len(Image.new(mode, size).tobytes())))
    if mode == "P":
        image.putpalette(rng.bytes(768))
    return image


def plainly_cut(image: Image.Image, size: Size, recipe: ImageRecipe) -> Image.Image:
    """Resize all of it, pad it, cut out the centre: what open_clip does."""
    resized = image.resize(size, FILTERS[recipe.interpolation])
    side = recipe.size_px
    if recipe.resize_mode == "longest":
        spare_x, spare_y = max(side - resized.width, 0), max(side - resized.height, 0)
        border = (spare_x // 2, spare_y // 2, spare_x - spare_x // 2, spare_y - spare_y // 2)
        bands = len(image.getbands())
        fill = recipe.fill if bands == 1 else (recipe.fill,) * bands
        resized = ImageOps.expand(resized, border, fill) if any(border) else resized
    left, top = round((resized.width - side) / 2), round((resized.height - side) / 2)
    return resized.crop((left, top, left + side, top + side))


def assert_cut_plainly(image: Image.Image, recipe: ImageRecipe) -> None:
    """The square has the mode, size and bytes of the plain way."""
    size = resized_size(image.size, recipe)
    square = cut_square(image, size, recipe)
    expected = plainly_cut(image, size, recipe)
    assert (square.mode, square.size) == (expected.mode, expected.size)
    assert square.tobytes() == expected.tobytes()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    mode=st.sampled_from(MODES),
    width=sides,
    height=sides,
    seed=st.integers(0, 2**32 - 1),
    recipe=recipes,
)
def test_any_mode_and_size(
    mode: str, width: int, height: int, seed: int, recipe: ImageRecipe
) -> None:
    """Work that the crop does not show is left out, and no byte of the crop changes."""
    image = noise(mode, (width, height), seed)
    size = resized_size(image.size, recipe)
    if min(size) == 0 or max(size) > 20_000:
        return  # refused before it comes to this
    assert_cut_plainly(image, recipe)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize(
    "size",
    [(600, 800), (601, 907), (450, 900), (300, 4001), (225, 2000), (230, 231), (90, 3000), (1, 70)],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_tall_pictures(mode: str, size: Size, interpolation: str) -> None:
    """Where rows are left out, those next to the crop still play their part."""
    assert_cut_plainly(noise(mode, size, seed=7), a_recipe(interpolation=interpolation))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize(
    "size", [(1200, 800), (807, 538), (150, 100), (800, 600), (1920, 1080), (3000, 300)]
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_wide_pictures(mode: str, size: Size, interpolation: str) -> None:
    """Where columns are left out, which depends on the proportions, no byte changes either."""
    assert_cut_plainly(noise(mode, size, seed=8), a_recipe(interpolation=interpolation))
