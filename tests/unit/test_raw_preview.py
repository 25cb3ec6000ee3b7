"""RAW files of cameras stand for their JPEG previews, and HEIC for what its decoder gives."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import ExifTags, Image

from raw_files import CFA, PREVIEW, RAW, Writer, cr2, cr3, dng, jpeg
from recipes import a_recipe
from warmclip.errors import ImageUnreadable
from warmclip.inference import raw_preview
from warmclip.inference.image import make_crop, open_decoded, open_image
from warmclip.inference.jpeg_segments import jpeg_segments
from warmclip.inference.raw_preview import find_preview
from warmclip.settings import Limits

LIMITS = Limits()
UPRIGHT = 6  # EXIF's orientation of a picture that was taken upright


@pytest.mark.parametrize("kind", RAW)
def test_raw_is_its_largest_preview(kind: str) -> None:
    """Pixel by pixel, of whichever camera."""
    opened = open_image(RAW[kind](), LIMITS)
    with Image.open(io.BytesIO(PREVIEW)) as expected:
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))


@pytest.mark.parametrize("kind", RAW)
def test_torn_raw(kind: str) -> None:
    """Cut or altered anywhere, it is read, or refused with a reason."""
    whole = RAW[kind]()
    reasons = []
    for place in range(0, len(whole), 7):
        altered = whole[:place] + b"\xff" + whole[place + 1 :]
        for data in (whole[:place], altered):
            try:
                open_image(data, LIMITS)
            except ImageUnreadable as exc:
                reasons.append(str(exc))
    assert len(reasons) > 100
    assert all(reasons)


def test_directories_in_a_circle() -> None:
    """They come to an end."""
    writer = Writer()
    at = len(writer.data)
    writer.directory({262: CFA, 330: at}, at)
    with pytest.raises(ImageUnreadable, match="is RAW without a JPEG preview in it"):
        find_preview(writer.file(at))


def test_previews_that_are_named_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are looked at, each once and not to its end."""
    looked_at: list[int] = []

    def segments(data: memoryview) -> Iterator[tuple[int, int, int]]:
        looked_at.append(len(data))
        return jpeg_segments(data)

    monkeypatch.setattr(raw_preview, "jpeg_segments", segments)
    for same in (True, False):
        writer = Writer()
        at = writer.blob(b"\xff\xd8" * 32 + bytes(20_000_000))
        following = 0
        for n in range(30):
            jpeg_at = at if same else at + 2 * n
            following = writer.directory({513: jpeg_at, 514: 20_000_000, 50706: 1}, following)
        with pytest.raises(ImageUnreadable, match="without a JPEG preview"):
            find_preview(writer.file(following))
        assert looked_at == [16_000_000] * (1 if same else 16)
        looked_at.clear()


def test_tiff_is_no_raw() -> None:
    """A TIFF is read as before, a JPEG inside it or not."""
    for compression in ("raw", "jpeg", "tiff_lzw"):
        stream = io.BytesIO()
        Image.new("RGB", (48, 32), "red").save(stream, "TIFF", compression=compression)
        assert find_preview(stream.getvalue()) is None
        assert open_image(stream.getvalue(), LIMITS).format == "TIFF"


def test_sensor_data_are_no_preview() -> None:
    """They may be JPEG as well: lossy, or lossless."""
    writer = Writer()
    at = writer.blob(jpeg(640, 480))
    sensor = writer.directory({259: 7, 262: 34892, 273: at, 279: 9000})
    with pytest.raises(ImageUnreadable, match="without a JPEG preview"):
        open_image(writer.file(writer.directory({330: sensor, 50706: 1})), LIMITS)
    lossless = PREVIEW.replace(b"\xff\xc0", b"\xff\xc3")
    with pytest.raises(ImageUnreadable, match="without a JPEG preview"):
        open_image(cr2().replace(PREVIEW, lossless), LIMITS)


def test_preview_smaller_than_the_model() -> None:
    """It is refused; the picture itself would tell more. As a thumbnail it does."""
    with (
        pytest.raises(ImageUnreadable, match=r"largest preview has 48 x 32 pixels, too few for"),
        open_decoded(dng(), a_recipe(33), LIMITS),
    ):
        pass
    assert open_image(dng(), LIMITS).size == (48, 32)
    with open_decoded(dng(), a_recipe(32), LIMITS) as (_, size):
        assert size == (48, 32)


@pytest.mark.parametrize("make", [dng, cr3])
def test_orientation_of_raw(make: Callable[..., bytes]) -> None:
    """What the RAW file says is about its preview, for a recipe that obeys it."""
    obeying = a_recipe(exif="transpose")
    with open_decoded(make(orientation=UPRIGHT), obeying, LIMITS) as (image, size):
        assert image.getexif()[ExifTags.Base.Orientation] == UPRIGHT
        crop = make_crop(image, obeying, LIMITS, whole=size)
    assert crop[0, 0, 0] > 200, "red is above"
    assert crop[-1, 0, 2] > 200, "blue is below"


def test_preview_is_bounded_as_any_jpeg() -> None:
    """Its pixels are those of the limit."""
    with pytest.raises(ImageUnreadable, match="has 1,536 pixels, more than the limit of 1,535"):
        open_image(dng(), Limits(image_pixels=1535))
