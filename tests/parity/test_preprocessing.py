"""Our crop and pixels against open_clip's own evaluation transform, in torch."""

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from warmclip.errors import ImageUnreadable
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.image import make_crop, normalise, open_decoded
from warmclip.inference.resizing import resized_size
from warmclip.settings import Limits

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LIMITS = Limits()
# Every mode that this Pillow can make. La is the one that open_clip refuses.
MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
    "I", "F", "I;16", "I;16L", "I;16B", "I;16N",
)  # fmt: skip
EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "1000"))

# A palette's transparency has no place in RGB: open_clip warns, we do not.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")

recipes = st.builds(
    ImageRecipe,
    size_px=st.sampled_from([7, 32, 64]),
    resize_mode=st.sampled_from(["shortest", "shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 0, 114, 255]),
    mean=st.just(MEAN),
    std=st.just(STD),
)
sides = st.one_of(st.integers(1, 12), st.integers(1, 250))
any_picture = given(
    mode=st.sampled_from(MODES),
    width=sides,
    height=sides,
    seed=st.integers(0, 2**32 - 1),
    recipe=recipes,
)


def a_recipe(size_px: int = 224) -> ImageRecipe:
    """CLIP's own preprocessing, at any size."""
    return ImageRecipe(
        size_px=size_px, resize_mode="shortest", interpolation="bicubic", mean=MEAN, std=STD
    )


def open_clip_steps(recipe: ImageRecipe) -> list[Callable[[Any], Any]]:
    """open_clip's evaluation transform, as the list of its steps."""
    cfg = PreprocessCfg(
        size=recipe.size_px,
        mean=recipe.mean,
        std=recipe.std,
        interpolation=recipe.interpolation,
        resize_mode=recipe.resize_mode,
        fill_color=recipe.fill,
    )
    steps: list[Callable[[Any], Any]] = image_transform_v2(cfg, is_train=False).transforms
    return steps


def reference_crop(image: Image.Image, recipe: ImageRecipe) -> npt.NDArray[np.uint8]:
    """Run open_clip's steps up to and with the conversion to RGB."""
    *steps, _to_tensor, _normalise = open_clip_steps(recipe)
    for step in steps:
        image = step(image)
    assert image.mode == "RGB"
    return np.array(image)


def picture(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Noise in any mode, from raw bytes, with a random palette where the mode has one."""
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.normal(128, 120, (height, width)).astype(np.float32))
    blank = Image.new(mode, (width, height))
    image = Image.frombytes(mode, (width, height), rng.bytes(len(blank.tobytes())))
    if mode in ("P", "PA"):
        image.putpalette(rng.bytes(768))
    if mode == "P" and seed % 2:
        image.info["transparency"] = rng.bytes(256)
    return image


@settings(max_examples=EXAMPLES // 4, deadline=None, derandomize=True)
@any_picture
def test_crop_of_a_picture_that_is_converted_first(
    mode: str, width: int, height: int, seed: int, recipe: ImageRecipe
) -> None:
    """With ``before_resize`` the crop has the bytes of open_clip's transform of
    ``image.convert("RGB")``; where Pillow cannot convert, the picture is refused.
    """
    recipe = recipe.model_copy(update={"rgb_conversion": "before_resize"})
    image = picture(mode, width, height, seed)
    before, info = image.tobytes(), dict(image.info)
    try:
        expected = reference_crop(image.convert("RGB"), recipe)
    except (ValueError, OSError, TypeError):
        with pytest.raises(ImageUnreadable, match=f"mode {mode}|mode RGB"):
            make_crop(image, recipe, LIMITS)
        return
    np.testing.assert_array_equal(make_crop(image, recipe, LIMITS), expected)
    assert (image.tobytes(), image.info) == (before, info)


@pytest.mark.parametrize("decode", ["full", "scaled"])
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("1", "PNG", {}),
        ("L", "PNG", {}),
        ("L", "JPEG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("P", "GIF", {"transparency": 3}),
        ("RGB", "JPEG", {}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("RGBA", "PNG", {}),
        ("CMYK", "JPEG", {}),
        ("I;16", "PNG", {}),
    ],
)
def test_file_that_is_converted_first(
    mode: str, kind: str, options: dict[str, Any], decode: str
) -> None:
    """A file becomes what ``transform(Image.open(path).convert("RGB"))`` makes of it, and another
    crop than without, but for modes that lose nothing by their order.
    """
    data = io.BytesIO()
    picture(mode, 341, 517, seed=4).save(data, kind, **options)
    plain = a_recipe().model_copy(update={"decode": decode})
    recipe = plain.model_copy(update={"rgb_conversion": "before_resize"})
    with open_decoded(data.getvalue(), recipe, LIMITS) as (opened, size):
        crop = make_crop(opened, recipe, LIMITS, whole=size)
    with Image.open(data) as image:
        expected = reference_crop(image.convert("RGB"), recipe)
    np.testing.assert_array_equal(crop, expected)
    with open_decoded(data.getvalue(), plain, LIMITS) as (opened, size):
        differs = not np.array_equal(make_crop(opened, plain, LIMITS, whole=size), expected)
    assert differs == (mode not in {"L", "RGB"})


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@any_picture
def test_crop_of_any_mode_and_size(
    mode: str, width: int, height: int, seed: int, recipe: ImageRecipe
) -> None:
    """The crop has open_clip's bytes; where open_clip raises, ours refuses the picture."""
    image = picture(mode, width, height, seed)
    before = image.tobytes()
    try:
        expected = reference_crop(image, recipe)
    except (ValueError, OSError, TypeError):
        with pytest.raises(ImageUnreadable, match=f"mode {mode}"):
            make_crop(image, recipe, LIMITS)
        return
    np.testing.assert_array_equal(make_crop(image, recipe, LIMITS), expected)
    assert image.tobytes() == before


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_at_full_size(mode: str) -> None:
    """No mode depends on luck in the search: each is resized up, down, and not at all."""
    recipe = a_recipe()
    for size in [(224, 224), (100, 61), (341, 517), (224, 227)]:
        image = picture(mode, *size, seed=1)
        if mode == "La" and size != (224, 224):
            with pytest.raises(ImageUnreadable, match="mode La"):
                make_crop(image, recipe, LIMITS)
            with pytest.raises(ValueError, match="not supported"):
                reference_crop(image, recipe)
        elif mode != "La":
            np.testing.assert_array_equal(
                make_crop(image, recipe, LIMITS), reference_crop(image, recipe)
            )


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (2000, 31), (31, 2000), (4000, 55)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_crop_of_slivers_and_panoramas(size: tuple[int, int], resize_mode: str) -> None:
    """The crop has open_clip's bytes at extreme proportions, or both refuse."""
    recipe = a_recipe().model_copy(update={"resize_mode": resize_mode})
    image = picture("RGB", *size, seed=2)
    np.testing.assert_array_equal(make_crop(image, recipe, LIMITS), reference_crop(image, recipe))


def test_sliver_that_rounds_to_nothing() -> None:
    """A picture whose short side becomes 0 pixels is refused here and raises there."""
    recipe = a_recipe(32).model_copy(update={"resize_mode": "longest"})
    image = picture("RGB", 1000, 1, seed=3)
    with pytest.raises(ValueError, match="must be > 0"):
        reference_crop(image, recipe)
    with pytest.raises(ImageUnreadable, match="must be > 0"):
        make_crop(image, recipe, LIMITS)


def test_centre_at_every_side_length() -> None:
    """Sides 224 to 999 are cut where torchvision cuts: a quarter of them round to even."""
    recipe = a_recipe()
    for side in range(224, 1000):
        ramp = np.broadcast_to(np.arange(side) % 251, (224, side)).astype(np.uint8)
        for plane in (ramp, ramp.T):
            image = Image.fromarray(np.ascontiguousarray(plane))
            np.testing.assert_array_equal(
                make_crop(image, recipe, LIMITS), reference_crop(image, recipe), err_msg=str(side)
            )


@pytest.mark.parametrize("resize_mode", ["shortest", "longest"])
def test_resized_size_of_many_shapes(resize_mode: str) -> None:
    """The size before the crop is open_clip's, also where other orders of arithmetic differ."""
    recipe = a_recipe().model_copy(update={"resize_mode": resize_mode})
    resize = open_clip_steps(recipe)[0]
    rng = np.random.default_rng(0)
    shapes = [(224, 230), (230, 224), *rng.integers(60, 1200, (600, 2)).tolist()]
    for width, height in shapes:
        expected = resize(Image.new("1", (width, height))).size
        assert resized_size((width, height), recipe) == expected, (width, height)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 4))
def test_pixels(seed: int, n: int) -> None:
    """Normalised pixels are torch's to the last bit."""
    recipe = a_recipe(32)
    pictures = [picture("RGB", 40, 50, seed + index) for index in range(n)]
    transform = image_transform_v2(PreprocessCfg(size=32, mean=MEAN, std=STD), is_train=False)
    ours = normalise([make_crop(image, recipe, LIMITS) for image in pictures], recipe)
    expected = (
        torch.stack([transform(image) for image in pictures]) if n else torch.empty(0, 3, 32, 32)
    )
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, expected.numpy())


def test_pixels_of_every_byte() -> None:
    """All 256 levels in each channel are torch's to the last bit."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    one = np.stack([levels, levels[::-1], levels.T], axis=-1)
    to_tensor, standardise = open_clip_steps(a_recipe(16))[-2:]
    expected = standardise(to_tensor(Image.fromarray(one)))
    np.testing.assert_array_equal(normalise([one], a_recipe(16))[0], expected.numpy())
