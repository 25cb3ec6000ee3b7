"""``decode="scaled"``: large pictures by a shortcut, small ones as ever."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmclip import Encoder
from warmclip.errors import ImageUnreadable
from warmclip.inference import image as image_module
from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.encoder import Embedded
from warmclip.inference.image import Source, make_crop, open_decoded
from warmclip.inference.resizing import Size
from warmclip.settings import Limits

LIMITS = Limits()
SIDE = 32
FULL = ImageRecipe(
    size_px=SIDE,
    resize_mode="shortest",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
SCALED = FULL.model_copy(update={"decode": "scaled"})


def scene(width: int = 640, height: int = 480) -> Image.Image:
    """Smooth colours that differ everywhere, with some grain on them."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-6, 7, smooth.shape, np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(image: Image.Image) -> bytes:
    """A JPEG whose tag says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


def made(source: Source, recipe: ImageRecipe) -> tuple[Crop, Size, Size]:
    """The crop, the size that was decoded, and the picture's own."""
    with open_decoded(source, recipe, LIMITS) as (picture, own_size):
        return make_crop(picture, recipe, LIMITS, whole=own_size), picture.size, own_size


JPEGS = {
    "baseline": encoded(scene()),
    "no subsampling": encoded(scene(), subsampling=0),
    "grey": encoded(scene().convert("L")),
    "CMYK": encoded(scene().convert("CMYK")),
    "progressive": encoded(scene(), progressive=True),
    "odd size": encoded(scene(641, 479)),
    "two pictures": encoded(scene(), "MPO", save_all=True, append_images=[scene(64, 48)]),
    "orientation": turned(scene()),
}
OTHERS = {
    "PNG": encoded(scene(), "PNG"),
    "PNG with alpha": encoded(scene().convert("RGBA"), "PNG"),
    "PNG, grey with alpha": encoded(scene().convert("LA"), "PNG"),
    "PNG of 16 bits": encoded(scene().convert("I;16"), "PNG"),
    "PNG, palette": encoded(scene().quantize(64), "PNG"),
    "WebP": encoded(scene(), "WEBP"),
    "TIFF of floats": encoded(scene().convert("F"), "TIFF"),
    "TIFF with JPEG inside": encoded(scene(), "TIFF", compression="jpeg"),
    "JPEG 2000": encoded(scene(), "JPEG2000"),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("exif", ["ignore", "transpose"])
def test_large_jpeg(kind: str, exif: str) -> None:
    """It is decoded small, looks the same, and keeps its own size in the records."""
    change = {"exif": exif}
    exact, full_size, _ = made(JPEGS[kind], FULL.model_copy(update=change))
    fast, small_size, own_size = made(JPEGS[kind], SCALED.model_copy(update=change))
    assert full_size == own_size
    assert 2 * SIDE <= min(small_size) <= own_size[1] / 4 + 1
    assert np.abs(fast.astype(int) - exact).mean() < 4  # of 255 levels


@pytest.mark.parametrize("kind", OTHERS)
def test_large_picture_of_another_format(kind: str) -> None:
    """Whatever can be read in full can be read scaled, and looks the same."""
    exact, _, _ = made(OTHERS[kind], FULL)
    fast, decoded_size, own_size = made(OTHERS[kind], SCALED)
    assert decoded_size == own_size
    assert np.abs(fast.astype(int) - exact).mean() < 4  # of 255 levels


@pytest.mark.parametrize(
    "size", [(32, 32), (20, 17), (64, 64), (127, 90), (150, 127), (127, 300), (90, 60)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_small_picture(size: Size, kind: str) -> None:
    """Less than four times the model's side is not worth a shortcut: every byte is the same."""
    data = encoded(scene(*size), kind)
    np.testing.assert_array_equal(made(data, SCALED)[0], made(data, FULL)[0])


@pytest.mark.parametrize("resize_mode", ["longest", "squash"])
def test_other_ways_to_resize(resize_mode: str) -> None:
    """Models that see the whole picture may see it scaled as well."""
    change = {"resize_mode": resize_mode}
    exact, _, _ = made(JPEGS["baseline"], FULL.model_copy(update=change))
    fast, small_size, _ = made(JPEGS["baseline"], SCALED.model_copy(update=change))
    assert small_size < (640, 480)
    assert np.abs(fast.astype(int) - exact).mean() < 4  # of 255 levels


def test_sliver() -> None:
    """A shape that rounds to nothing is refused, not a division by zero."""
    recipe = SCALED.model_copy(update={"resize_mode": "longest"})
    with pytest.raises(ImageUnreadable, match="must be > 0"):
        made(encoded(scene(1000, 1)), recipe)


def test_picture_that_the_caller_opened() -> None:
    """A caller's lazy picture is not made smaller in the caller's hands."""
    with Image.open(io.BytesIO(JPEGS["baseline"])) as lazy:
        _, decoded_size, _ = made(lazy, SCALED)
        assert decoded_size == lazy.size == (640, 480)


def test_truncated_jpeg() -> None:
    """A JPEG that was cut short is refused, as it is in full."""
    with pytest.raises(ImageUnreadable, match="is truncated"):
        made(JPEGS["baseline"][:-2000], SCALED)


def test_turns_of_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is what is decoded: a progressive JPEG is held whole, others are not."""
    monkeypatch.setattr(image_module, "_LARGE_PIXELS", 640 * 480 - 1)
    with ThreadPoolExecutor(1) as pool, open_decoded(JPEGS["baseline"], FULL, LIMITS):
        assert pool.submit(made, JPEGS["baseline"], SCALED).result(30)
        waiting = pool.submit(made, JPEGS["progressive"], SCALED)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)


def test_space_of_its_own(demo_bundle: Path) -> None:
    """The rule is part of the fingerprint, and the default's is the bundle's own."""
    full, scaled = (
        Encoder.open(demo_bundle, decode=rule, provider="cpu") for rule in ("full", "scaled")
    )
    assert full.fingerprint == full.bundle.manifest.fingerprint
    assert scaled.fingerprint != full.fingerprint
    assert (
        scaled.fingerprint == Encoder.open(demo_bundle, decode="scaled", provider="cpu").fingerprint
    )


def test_size_in_the_records(demo_bundle: Path) -> None:
    """A picture's size is that of the file, whatever of it was decoded, and its vector is near."""
    data = encoded(scene(2000, 1500))
    embedded = {}
    for rule in ("full", "scaled"):
        encoder = Encoder.open(demo_bundle, decode=rule, provider="cpu")
        ((_, result),) = encoder.encode_each([("picture", data)])
        assert isinstance(result, Embedded)
        assert (result.width_px, result.height_px) == (2000, 1500)
        embedded[rule] = result.vector
    assert embedded["full"] @ embedded["scaled"] > 0.99
    assert not np.array_equal(embedded["full"], embedded["scaled"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int) -> None:
    """Whichever way the tag turns it, the crop is that of the upright picture, nearly."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(645, 485), exif=exif)  # sides that no decoder can divide evenly
    change = {"exif": "transpose"}
    exact, _, _ = made(data, FULL.model_copy(update=change))
    fast, decoded_size, own_size = made(data, SCALED.model_copy(update=change))
    assert (decoded_size, own_size) == ((162, 122), (645, 485))
    assert np.abs(fast.astype(int) - exact).mean() < 2  # of 255 levels; one pixel aside, over 10


def test_tiff_that_turns_itself() -> None:
    """A TIFF is turned by its tag as it is loaded; its records say the size that it has then."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(), "TIFF", exif=exif)
    for recipe in (FULL, SCALED):
        assert made(data, recipe)[1:] == ((480, 640), (480, 640))
