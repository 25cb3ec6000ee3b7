"""What a picture costs to open and to decode, in time and memory, before either is done.

A file of a few kB can keep Pillow's decoders busy for hours, as it repeats what is done to each
pixel, or consists of parts that cost far more than their bytes. So each kind of repetition that
was found has a figure here, measured with Pillow 13 and rounded up, and a picture that is dearer
than any honest one as large as the limit is refused.

The functions are pure, look at no more of a file than they must, and take bytes that may be
anything: what they cannot follow costs nothing, as the decoder cannot follow it either.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from warmclip.errors import ImageUnreadable
from warmclip.inference import heif
from warmclip.inference.jpeg2000 import read_shape
from warmclip.inference.jpeg_segments import APP1, SCAN, jpeg_segments
from warmclip.settings import Limits

# What one pixel of the largest picture that is allowed may cost: five times what it does in an
# honest JPEG. The dearest honest one, a JPEG 2000 with alpha, costs 80 ns and 24.6 bytes, and is
# read up to half as many pixels.
_SECONDS = 50e-9
_BYTES = 12.5
_LEAST_SECONDS = 0.5  # however few pixels are allowed
_LEAST_BYTES = 64_000_000
_WEBP_BYTES = 16  # for one pixel; other formats take up to 10, but for JPEG 2000
_HEIF_BYTES = 12

# Seconds for one of each.
_JPEG_SEGMENT = 3e-6
_JOINED_BYTE = 5e-11  # of EXIF that is in several segments; Pillow copies all before each
_JPEG_SCAN_PIXEL = 0.9e-9
_PNG_CHUNK = 4.5e-6
_PNG_INFLATED = 3e-3  # up to 1 MB
_GIF_BLOCK = 0.8e-6
_PNM_BYTE = 0.4e-6  # of a header, or of a picture in decimal digits
_PNM_COMMENT = 300e-6  # among such digits: up to 1 MB is copied
_PNM_SAMPLE = 0.8e-6  # that is scaled to a whole byte
_HEVC_PIXEL = 30e-9
_RLE_PIXEL = 0.15e-6  # in a BMP; other formats' run lengths are read by C
_RLE_BYTE = 0.35e-6
_PART = 8e-6  # strips and tiles that Pillow reads one by one

# A profile, and texts, which need not be compressed: honest pictures have few. Pillow's own bound
# on texts counts none that is too large or no UTF-8.
_PNG_INFLATED_KINDS = frozenset({b"iCCP", b"zTXt", b"iTXt"})
_PNM_HEADER = re.compile(rb"P\w+(?:(?:\s|#[^\r\n]*)*+[^\s#]{1,10}){0,3}")
_TIFF_UNITS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
}


@dataclass(frozen=True, slots=True)
class Work:
    """What something costs.

    Attributes:
        seconds: on one core of a server of 2024, at most.
        bytes: of memory, at most; 0 where the number of pixels bounds them well enough.
        what: causes it, in words.
    """

    seconds: float
    bytes: float = 0
    what: str = ""


def check_work(work: Work, limits: Limits) -> None:
    """Refuse what costs more than the largest picture that is allowed.

    Raises:
        ImageUnreadable: naming the cost, its cause, the limit and its variable.
    """
    most_s, most_bytes = _most_seconds(limits), max(_LEAST_BYTES, _BYTES * limits.image_pixels)
    if work.seconds > most_s:
        cost, most = f"{work.seconds:,.0f} s", f"{most_s:,.0f} s"
    elif work.bytes > most_bytes:
        cost, most = f"{work.bytes / 1e6:,.0f} MB", f"{most_bytes / 1e6:,.0f} MB"
    else:
        return
    raise ImageUnreadable(
        f"would take about {cost} to decode, more than the limit of {most} "
        f"(WARMCLIP_MAX_IMAGE_PIXELS): it has {work.what}; saved anew as JPEG or PNG it is read"
    )


def _most_seconds(limits: Limits) -> float:
    return max(_LEAST_SECONDS, _SECONDS * limits.image_pixels)


def opening_work(name: str, data: bytes, limits: Limits) -> Work:
    """What it costs to open a file, most of which Pillow does in Python.

    Args:
        name: the format's, as Pillow has it.
        data: the file.
        limits: beyond which nothing is counted any more.

    Raises:
        ImageUnreadable: its EXIF data, or the header of a TIFF, says that it is larger than it is.
    """
    most_s = _most_seconds(limits)
    match name:
        case "JPEG":
            return _opening_jpeg(data, most_s)
        case "PNG":
            inflated = 0
            for chunks, kind in enumerate(_png_chunks(data), start=1):
                inflated += kind in _PNG_INFLATED_KINDS
                seconds = chunks * _PNG_CHUNK + inflated * _PNG_INFLATED
                if seconds > most_s:
                    what = f"over {chunks - 1:,} chunks, {inflated:,} profiles and texts"
                    return Work(seconds, what=what)
        case "GIF":
            for blocks, _ in enumerate(_gif_blocks(data), start=1):
                if blocks * _GIF_BLOCK > most_s:
                    return Work(blocks * _GIF_BLOCK, what=f"over {blocks - 1:,} blocks of text")
        case "PPM":
            return _opening_pnm(data)
        case "TIFF":
            check_directory(data)
        case heif.FORMAT:
            copied = heif.metadata_bytes(data)
            return Work(0, copied, what=f"{copied:,} bytes of metadata and profiles to copy")
    return Work(0)


def decoding_work(image: Image.Image, data: bytes) -> Work:
    """What it costs to decode a picture.

    Args:
        image: opened and not yet decoded.
        data: its file.
    """
    pixels = image.size[0] * image.size[1]
    tiles = getattr(image, "tile", ())
    codec = tiles[0][0] if tiles else ""
    match image.format, codec:
        case "JPEG" | "MPO", _:
            scans = data.count(b"\xff\xda")  # or fewer: the bytes may stand anywhere
            if scans * pixels * _JPEG_SCAN_PIXEL > _LEAST_SECONDS:
                scans = _scans(data)
            return Work(scans * pixels * _JPEG_SCAN_PIXEL, what=f"{scans:,} scans")
        case "WEBP", _:
            return Work(0, pixels * _WEBP_BYTES, what=f"{pixels:,} pixels of WebP")
        case heif.FORMAT, _:
            decoded, largest = heif.decoded_pixels(data)
            what = f"{decoded:,} pixels of HEVC in its parts"
            return Work(decoded * _HEVC_PIXEL, max(pixels, largest) * _HEIF_BYTES, what=what)
        case "JPEG2000", _:
            shape = read_shape(data)
            return Work(shape.seconds, shape.bytes, what=str(shape))
        case _, "bmp_rle":
            seconds = pixels * _RLE_PIXEL + len(data) * _RLE_BYTE
            return Work(seconds, what=f"run lengths for {pixels:,} pixels")
        case _, "ppm":
            samples = min(pixels * len(image.getbands()), len(data))
            return Work(samples * _PNM_SAMPLE, what=f"{samples:,} samples of an odd range")
        case "TIFF", _:
            return _decoding_tiff(getattr(image, "tag_v2", {}), len(tiles))
    return Work(len(tiles) * _PART, what=f"{len(tiles):,} parts")


def check_directory(data: bytes) -> None:
    """Refuse a TIFF, or EXIF data, whose first directory names more bytes than there are.

    Pillow before 13 reads each of 65,535 entries, and all of them may name the same bytes.

    Raises:
        ImageUnreadable: they would be read over and over.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    is_big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    at = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
    entry = struct.Struct(order + ("HHQ8x" if is_big else "HHI4x"))
    head = struct.Struct(order + ("Q" if is_big else "H"))
    if at + head.size > len(data):
        return
    named = 0
    end = at + head.size + head.unpack_from(data, at)[0] * entry.size
    for place in range(at + head.size, min(end, len(data) - entry.size + 1), entry.size):
        _, kind, count = entry.unpack_from(data, place)
        named += count * _TIFF_UNITS.get(kind, 0)
        if named > 2 * len(data):  # honest ones share a few at most
            raise ImageUnreadable(f"has {len(data):,} bytes, and a directory that names more")


def _opening_jpeg(data: bytes, most_s: float) -> Work:
    segments = 0
    exif: list[bytes] = []
    for marker, start, end in jpeg_segments(data):
        if marker == SCAN:
            break
        segments += 1
        if marker == APP1 and data[start : start + 6] == b"Exif\0\0":
            exif.append(data[start + 6 : end])
        seconds = segments * _JPEG_SEGMENT
        if seconds > most_s:
            return Work(seconds, what=f"over {segments - 1:,} segments")
    joined = b"".join(exif)
    check_directory(joined)
    seconds = segments * _JPEG_SEGMENT + len(exif) * len(joined) * _JOINED_BYTE
    return Work(seconds, what=f"{segments:,} segments, {len(exif):,} of them EXIF")


def _opening_pnm(data: bytes) -> Work:
    header = _PNM_HEADER.match(data)
    seconds = (header.end() if header else 0) * _PNM_BYTE
    if data[1:2] not in b"123":
        return Work(seconds, what="a header that is mostly comments")
    comments = data.count(b"#")
    share = min(1.0, len(data) / 1_000_000)
    seconds += len(data) * _PNM_BYTE + comments * share * _PNM_COMMENT
    return Work(seconds, what=f"decimal digits in {len(data):,} bytes, and {comments:,} comments")


def _decoding_tiff(tags: Any, parts: int) -> Work:
    """Scans of JPEG in it are bounded by libtiff: 100, of each part."""
    tile = _first(tags.get(322)) * _first(tags.get(323))
    # A buffer for each of its samples, as wide as they come.
    what = f"{parts:,} parts, or tiles of {tile:,} pixels"
    return Work(parts * _PART, bytes=tile * 8, what=what)


def _scans(jpeg: bytes) -> int:
    return sum(marker == SCAN for marker, _, _ in jpeg_segments(jpeg))


def _first(value: Any) -> int:
    values = value if isinstance(value, tuple) else (value,)
    return next((each for each in values if type(each) is int), 0)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while (kind := data[at + 4 : at + 8]) not in (b"", b"IEND"):
        yield kind
        at += 12 + int.from_bytes(data[at : at + 4])


def _gif_blocks(data: bytes) -> Iterator[None]:
    """A GIF's blocks before its first frame."""
    flags = int.from_bytes(data[10:11])
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while (kind := data[at : at + 1]) not in (b"", b",", b";"):
        yield
        at += 1
        if kind != b"!":
            continue
        at += 1
        while size := int.from_bytes(data[at : at + 1]):
            yield
            at += 1 + size
        at += 1
