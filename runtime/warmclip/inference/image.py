"""A picture's bytes -> a square crop -> normalised pixels, exactly as open_clip does it.

The crop is byte-identical to that of open_clip's evaluation transform, whose order matters: it
resizes and crops in the picture's own mode and converts to RGB last (``image_transform`` in
open_clip/transform.py, over torchvision's PIL functions). Many applications convert before they
call it; a recipe that says ``before_resize`` does as they do. Whatever is no decodable picture is
refused with ``ImageUnreadable``, whose message is a short phrase about the picture: "is empty".

Of a picture that was cut off, a recipe that says ``load`` takes what is left, as Pillow does with
its flag ``LOAD_TRUNCATED_IMAGES``; others refuse it. A recipe that says ``scaled`` takes a shortcut
with large pictures, and small ones are the same.
Of a RAW file the JPEG in it is taken, which open_clip would not find.
"""

import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, features

from warmclip.errors import ImageUnreadable
from warmclip.inference.arrays import Crop, Crops, Pixels
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.decoding_work import (
    Work,
    check_directory,
    check_work,
    decoding_work,
    opening_work,
)
from warmclip.inference.heif import FORMAT as HEIF
from warmclip.inference.heif import heif_format, heif_opener, heif_version
from warmclip.inference.pillow_flags import own_flags
from warmclip.inference.raw_preview import find_preview
from warmclip.inference.reading import check_bytes, read_image_file
from warmclip.inference.resizing import SCALED_GAP, Size, box_filled, cut_square, resized_size
from warmclip.settings import Limits

Source: TypeAlias = str | Path | bytes | bytearray | memoryview | Image.Image
"""A file's path, a file's bytes, or a picture that Pillow opened."""

# Raster formats that people keep photographs and drawings in; MPO comes with JPEG. Pillow's other
# readers stay out: EPS starts ghostscript, for one. TGA has no signature, so it is asked last.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA",
)  # fmt: skip

# What Pillow's readers mean by "not my format": Pillow itself goes on to the next one on these.
_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)

# What hostile files make Pillow raise while it opens, decodes, transposes and resizes. 1.6 million
# mutated files brought SyntaxError, struct.error, OSError, RuntimeError (AVIF), ValueError and
# DecompressionBombError (a GIF's frame, WebP). The others stand for readers' slips that were not
# met: one bad file must not end its neighbours' batch. Warning is for ``python -W error``.
UNDECODABLE = (
    *_NOT_THIS_FORMAT,
    Image.DecompressionBombError,
    ArithmeticError,
    AssertionError,  # met, too, on a lazy picture whose file was closed
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    Warning,
    zlib.error,
)

_LARGE_PIXELS = 25_000_000  # 400 MB
_PIXEL_BYTES = 16  # that decoders take at most, but for that of JPEG 2000
_large_lock = threading.Lock()

_pool = Image.core  # type: ignore[attr-defined]  # a name that Pillow's own stubs leave out
_KEPT_BLOCKS = 8  # of 16 MB each
_streams = 0
_blocks_before = 0
_streams_lock = threading.Lock()

_UPRIGHT = 1
_TURNS = {  # by the orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A caller's lazy picture may stand in one call twice, and Pillow cannot load it in two threads.
_caller_lock = threading.Lock()


def open_image(
    source: Source, limits: Limits, *, side_px: int | None = None, load_truncated: bool = False
) -> Image.Image:
    """Decode a picture from a file, from bytes, or take one that Pillow already opened.

    An animation gives its first frame. The bounds on bytes and pixels hold before decoding.

    Args:
        source: the picture.
        limits: the bounds.
        side_px: to people it is shown with a longer side of so many pixels; a large JPEG is
            decoded to a half, a quarter or an eighth, and never to less than twice that.
        load_truncated: decode what is left of a picture that was cut off, instead of refusing it.

    Raises:
        ImageUnreadable: the source is no whole picture, or is larger than the limits.
    """
    image = _identify_source(source, limits, load_truncated=load_truncated).image
    if side_px is not None and image is not source:
        scale = SCALED_GAP * side_px / max(image.size)
        _draft(image, (ceil(image.width * scale), ceil(image.height * scale)))
    return _load(image, is_callers=image is source, load_truncated=load_truncated)


def readable_formats() -> dict[str, bool]:
    """The formats of pictures that are known, and whether they can be read in this process.

    Some need a decoder that is not in every build of Pillow, or is an extra.
    """
    has_codec = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    formats = {
        name: name not in has_codec or bool(features.check(has_codec[name])) for name in _FORMATS
    }
    return formats | {"HEIC": heif_version() is not None, "RAW": True}


@contextmanager
def keep_decoder_memory() -> Iterator[None]:
    """Have Pillow use its blocks of memory again, from picture to picture, and free them at last.

    Fresh memory costs a page fault every few kB, in all an eighth of a large photograph's time.
    Where PILLOW_BLOCKS_MAX already says how many to keep, that holds.
    """
    global _streams, _blocks_before  # noqa: PLW0603  # a process has one pool of Pillow's
    with _streams_lock:
        if _streams == 0:
            _blocks_before = _pool.get_blocks_max()
            _pool.set_blocks_max(_blocks_before or _KEPT_BLOCKS)
        _streams += 1
    try:
        yield
    finally:
        with _streams_lock:
            _streams -= 1
            if _streams == 0:
                _pool.set_blocks_max(_blocks_before)  # frees those beyond it


@contextmanager
def open_decoded(
    source: Source, recipe: ImageRecipe, limits: Limits
) -> Iterator[tuple[Image.Image, Size]]:
    """A picture to make a crop of by the recipe, for as long as it is needed, and its own size.

    The picture may be smaller than its own size: a recipe that says ``scaled`` has a large JPEG
    decoded to a half, a quarter or an eighth.

    A process decodes on several threads; of large pictures it holds one at a time, so that its
    memory is bounded by the largest one and not by a multiple of it.

    Raises:
        ImageUnreadable: as ``open_image``, or a RAW file's preview is smaller than the crop.
    """
    load_truncated = recipe.truncated == "load"
    identified = _identify_source(source, limits, load_truncated=load_truncated)
    image = identified.image
    size = image.size
    if identified.is_preview and min(size) < recipe.size_px:
        raise ImageUnreadable(
            f"is RAW whose largest preview has {size[0]} x {size[1]} pixels, too few for the "
            f"model's {recipe.size_px} a side; export it as JPEG"
        )
    if recipe.decode == "scaled" and image is not source:  # a caller's picture is as it was opened
        width, height = resized_size(size, recipe)
        _draft(image, (SCALED_GAP * max(width, 1), SCALED_GAP * max(height, 1)))
    is_drafted = image.size != size
    # A progressive JPEG is held whole in any case, as coefficients.
    held = size if "progressive" in image.info else image.size
    is_large = max(held[0] * held[1], identified.work.bytes / _PIXEL_BYTES) > _LARGE_PIXELS
    with _large_lock if is_large else nullcontext():
        image = _load(image, is_callers=image is source, load_truncated=load_truncated)
        yield image, size if is_drafted else image.size  # loading turns a TIFF by its tag


def _draft(image: Image.Image, size: Size) -> None:
    """Have a JPEG's decoder leave out what is too small to be seen at a size.

    A HEIC would give its thumbnail instead, which may be another picture.
    """
    if image.format in ("JPEG", "MPO"):
        image.draft(None, size)


@dataclass(frozen=True, slots=True)
class _Identified:
    image: Image.Image  # not decoded yet, unless it is a caller's
    work: Work
    is_preview: bool = False  # of a RAW file


def _identify_source(
    source: Source, limits: Limits, *, load_truncated: bool = False
) -> _Identified:
    match source:
        case Image.Image():
            _check_pixels(source.size, limits)
            return _Identified(source, Work(0))
        case bytes() | bytearray() | memoryview():
            data = bytes(source)
        case str() | Path():
            data = read_image_file(source, limits)
        case _:
            kind = type(source).__name__
            raise ImageUnreadable(f"is of type {kind}, not a path, bytes or a Pillow image")
    check_bytes(len(data), limits)
    preview = find_preview(data)
    if preview:
        data = preview.jpeg
    image = _identify(data, limits, load_truncated=load_truncated)
    if preview and preview.orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = preview.orientation
        image.info["exif"] = exif.tobytes()
    _check_pixels(image.size, limits)
    work = decoding_work(image, data)
    check_work(work, limits)
    return _Identified(image, work, is_preview=preview is not None)


def make_crop(
    image: Image.Image, recipe: ImageRecipe, limits: Limits, *, whole: Size | None = None
) -> Crop:
    """Resize, cut out the centre and convert to RGB, shape (size, size, 3), uint8.

    Converting comes last, or first if the recipe says so.

    Args:
        image: the picture.
        recipe: how to make the crop.
        limits: bounds on what is accepted.
        whole: the picture's own size, if its decoder left less of it (see ``open_decoded``).

    Raises:
        ImageUnreadable: the resized picture would pass ``limits.resized_side_px``, or Pillow
            cannot resize this mode or convert it to RGB, in which case neither can open_clip.
    """
    left = image.size
    orientation = read_orientation(image) if recipe.exif == "transpose" else _UPRIGHT
    try:
        image = stand_up(image, orientation)
        if whole is None or whole == left:
            whole, box = image.size, None
        else:
            whole = whole[::-1] if orientation in range(5, 9) else whole
            box = box_filled(image.size, whole, orientation)
        size = resized_size(whole, recipe)
        if size != whole and max(size) > limits.resized_side_px:
            raise ImageUnreadable(
                f"would be {size[0]:,} x {size[1]:,} pixels after resizing, the limit is "
                f"{limits.resized_side_px:,} a side (WARMCLIP_MAX_RESIZED_SIDE)"
            )
        if recipe.rgb_conversion == "before_resize":
            image = _in_rgb(image)
        with own_flags(load_truncated=recipe.truncated == "load"):
            return np.array(_in_rgb(cut_square(image, size, recipe, box)))
    except UNDECODABLE as exc:
        raise ImageUnreadable(f"of mode {image.mode} cannot be made a crop: {exc}") from exc


def read_orientation(image: Image.Image) -> int:
    """What a picture's tag says of how it lies, 1 to 8 as in EXIF; 1, upright, if it is damaged."""
    try:
        check_directory((image.info.get("exif") or b"").removeprefix(b"Exif\0\0"))
        found = image.getexif().get(ExifTags.Base.Orientation)
    except (ImageUnreadable, *UNDECODABLE):
        return _UPRIGHT
    return found if found in _TURNS else _UPRIGHT


def stand_up(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture as ``ImageOps.exif_transpose`` does.

    That one writes all tags anew, and fails where another one is damaged.
    """
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    # RGB has no place for a palette's transparency, and Pillow would warn of its loss.
    if isinstance(image.info.get("transparency"), bytes):
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def normalise(crops: Crops | Sequence[Crop], recipe: ImageRecipe) -> Pixels:
    """Scale to 0-1, subtract the mean, divide by the deviation: shape (n, 3, size, size), float32.

    Args:
        crops: n crops, or one array of them, shape (n, size, size, 3).
        recipe: whose mean and deviation to use.
    """
    mean = np.asarray(recipe.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(recipe.std, dtype=np.float32)[:, None, None]
    pixels = np.empty((len(crops), 3, recipe.size_px, recipe.size_px), dtype=np.float32)
    for row, picture in zip(pixels, crops, strict=True):
        row[...] = picture.transpose(2, 0, 1)
        # In float32 and in this order, as torch does it; in place, while the row is in the cache.
        np.divide(row, np.float32(255), out=row)
        np.subtract(row, mean, out=row)
        np.divide(row, std, out=row)
    return pixels


def _identify(data: bytes, limits: Limits, *, load_truncated: bool) -> Image.Image:
    """Read the header.

    This is ``Image.open`` for our formats, without its bound on pixels, which is global, warns in
    place of refusing, and cannot be raised for one call.
    """
    if not data:
        raise ImageUnreadable("is empty (0 bytes)")
    Image.init()  # loads Pillow's readers, the first time
    prefix = data[:16].ljust(16, b"\0")  # some readers stumble over a shorter one
    reasons = []
    by_brand = heif_format(data)
    for name in (by_brand,) if by_brand else _FORMATS:
        factory, accept = (heif_opener(), None) if name == HEIF else Image.OPEN[name]
        # A str says that a codec is not built in. Of HEIF's container Pillow knows fewer brands.
        accepted = accept is None or (True if by_brand else accept(prefix))
        if not accepted or isinstance(accepted, str):
            continue
        check_work(opening_work(name, data, limits), limits)
        try:
            with own_flags(load_truncated=load_truncated):
                return factory(BytesIO(data), "")
        except _NOT_THIS_FORMAT as exc:
            if accept is not None or by_brand:
                reasons.append(f"{name}: {exc}")
        except UNDECODABLE as exc:
            raise ImageUnreadable(f"cannot be decoded as {name}: {exc}") from exc
    if reasons:
        raise ImageUnreadable(f"cannot be decoded as {'; '.join(reasons)}")
    raise ImageUnreadable(
        f"is no picture in a format that is read here ({', '.join((*_FORMATS, HEIF))} and RAW)"
    )


def _load(image: Image.Image, *, is_callers: bool, load_truncated: bool = False) -> Image.Image:
    try:
        # A caller's picture is loaded as it was opened, with the caller's flags.
        with _caller_lock if is_callers else own_flags(load_truncated=load_truncated):
            image.load()
    except UNDECODABLE as exc:
        cut = "truncated" in str(exc).lower()
        raise ImageUnreadable(f"{'is truncated' if cut else 'cannot be decoded'}: {exc}") from exc
    return image


def _check_pixels(size: Size, limits: Limits) -> None:
    pixels = size[0] * size[1]
    if pixels > limits.image_pixels:
        raise ImageUnreadable(
            f"has {pixels:,} pixels, more than the limit of {limits.image_pixels:,} "
            "(WARMCLIP_MAX_IMAGE_PIXELS)"
        )
