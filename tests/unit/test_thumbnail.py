"""Thumbnails: how pictures are drawn small for people."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from recipes import a_recipe
from warmclip.errors import ImageUnreadable
from warmclip.indexing.thumbnail import draw_thumbnail
from warmclip.inference.image import open_decoded, open_image
from warmclip.settings import Limits

LIMITS = Limits()

# Of Display P3, adapted to D50: the columns are what red, green and blue have of X, Y and Z.
P3 = np.array([[0.5151, 0.2919, 0.1572], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
GAMMA = 2.2


def profile(colours: np.ndarray) -> bytes:
    """A profile of a screen with these primaries."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    for channel, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*colours[:, channel])
        curve = struct.pack(">IH", 1, round(GAMMA * 256)) + b"\0\0"
        tags[f"{name}TRC".encode()] = b"curv\0\0\0\0" + curve
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(content), len(value))
        content += value
    head = struct.pack(">I4sI", start + len(content), b"", 0x02100000) + b"mntrRGB XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + content


def drawn(picture: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """The thumbnail of a picture."""
    out = BytesIO()
    picture.save(out, kind, **options)
    return Image.open(BytesIO(draw_thumbnail(out.getvalue(), 64, LIMITS)))


def near(found: Any, expected: Any) -> bool:
    """Whether two colours are equal, but for what JPEG and rounding do."""
    return bool(np.abs(np.subtract(found, expected, dtype=float)).max() <= 4)


COLOUR = (120, 200, 90)


def test_picture_in_display_p3() -> None:
    """Its colours are converted; without the profile they would be too dull."""
    linear = np.linalg.inv(SRGB) @ P3 @ (np.array(COLOUR) / 255) ** GAMMA
    expected = np.clip(linear, 0, 1) ** (1 / GAMMA) * 255
    assert not near(expected, COLOUR)
    small = drawn(Image.new("RGB", (80, 80), COLOUR), icc_profile=profile(P3))
    assert near(small.getpixel((32, 32)), expected)
    assert "icc_profile" not in small.info


@pytest.mark.parametrize("broken", [b"", b"no profile", profile(P3)[:200]])
def test_profile_that_cannot_be_used(broken: bytes) -> None:
    """The picture is drawn as if it had none."""
    small = drawn(Image.new("RGB", (80, 80), COLOUR), icc_profile=broken)
    assert near(small.getpixel((32, 32)), COLOUR)


@pytest.mark.parametrize(("size_bytes", "is_used"), [(4 << 20, True), ((4 << 20) + 1, False)])
def test_profile_that_is_very_large(size_bytes: int, is_used: bool) -> None:
    """Up to 4 MB it is read."""
    large = profile(P3).ljust(size_bytes, b"\0")
    small = drawn(Image.new("RGB", (80, 80), COLOUR), "JPEG", icc_profile=large)
    assert near(small.getpixel((32, 32)), COLOUR) is not is_used


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGBA", "LA", "CMYK"])
def test_profile_of_another_kind_of_picture(mode: str) -> None:
    """It is drawn, whatever its pixels are."""
    kind = "TIFF" if mode == "CMYK" else "PNG"
    picture = Image.new(mode, (80, 80))
    assert drawn(picture, kind, icc_profile=profile(P3)).size == (64, 64)


def test_large_jpeg() -> None:
    """It is decoded to no more than is needed, and looks as if it were decoded whole."""
    tiles = np.random.default_rng(0).integers(0, 256, (5, 10, 3), dtype=np.uint8)
    picture = Image.fromarray(tiles).resize((2000, 1000), Image.Resampling.BICUBIC)
    out = BytesIO()
    picture.save(out, "JPEG", quality=95)
    assert open_image(out.getvalue(), LIMITS).size == (2000, 1000)
    assert open_image(out.getvalue(), LIMITS, side_px=128).size == (500, 250)
    assert open_image(out.getvalue(), LIMITS, side_px=1900).size == (2000, 1000)
    small = Image.open(BytesIO(draw_thumbnail(out.getvalue(), 128, LIMITS)))
    assert small.size == (128, 64)
    whole = picture.resize((128, 64), Image.Resampling.BICUBIC, reducing_gap=None)
    difference = np.abs(np.asarray(small, dtype=float) - np.asarray(whole, dtype=float))
    assert difference.mean() < 3


def test_orientation_and_transparency() -> None:
    """A picture stands upright, is not enlarged, and what is transparent is white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert drawn(Image.new("RGB", (80, 40)), "JPEG", exif=exif).size == (32, 64)
    clear = drawn(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), icc_profile=profile(P3))
    assert (clear.size, clear.getpixel((4, 4))) == ((8, 8), (255, 255, 255))


@pytest.mark.parametrize("orientation", range(10))
def test_orientation(orientation: int) -> None:
    """As Pillow turns a picture, for each value that the tag may have, and for what it may not."""
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    picture = Image.fromarray(tiles).resize((60, 40), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = BytesIO()
    picture.save(out, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(out)), dtype=float)
    small = np.asarray(drawn(picture, exif=exif), dtype=float)
    assert small.shape == upright.shape
    assert np.abs(small - upright).mean() < 6


@pytest.mark.parametrize(
    ("at", "wrong", "size"),
    [(0, b"?", (64, 32)), (2, b"\0?", (64, 32)), (11, b"\0", (32, 64))],
    ids=["byte order", "magic number", "another tag"],
)
def test_tags_that_are_damaged(at: int, wrong: bytes, size: tuple[int, int]) -> None:
    """The picture is drawn, and turned if that tag can be read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    tags = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
    tags[at : at + len(wrong)] = wrong
    assert drawn(Image.new("RGB", (80, 40)), exif=b"Exif\0\0" + tags).size == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_picture_that_was_cut_off(kind: str) -> None:
    """What is left of it is drawn, as the model sees it where such pictures have vectors."""
    tiles = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(tiles).resize((256, 256)).save(out, kind)
    half = out.getvalue()[: len(out.getvalue()) // 2]
    with pytest.raises(ImageUnreadable):
        open_image(half, LIMITS)
    with open_decoded(half, a_recipe(truncated="load"), LIMITS) as (picture, _):
        seen = np.asarray(picture.convert("RGB").resize((64, 64)), dtype=float)
    small = np.asarray(Image.open(BytesIO(draw_thumbnail(half, 64, LIMITS))), dtype=float)
    assert np.abs(small - seen).mean() < 6


def test_no_picture() -> None:
    """The reason is told."""
    with pytest.raises(ImageUnreadable, match="no picture"):
        draw_thumbnail(b"no picture", 64, LIMITS)
