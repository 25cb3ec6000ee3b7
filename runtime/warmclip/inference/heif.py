"""HEIC and other HEIF pictures, decoded by pillow-heif where it is installed.

Its reader is used by itself and never registered with Pillow: ``Image.open`` of an application in
this process reads what it read before.
"""

import importlib.metadata
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from warmclip.errors import ImageUnreadable
from warmclip.inference.iso_boxes import find_box, iter_boxes, read_brands

if TYPE_CHECKING:  # keeps Pillow out of this import
    from PIL import ImageFile

FORMAT = "HEIF"
"""As pillow-heif calls it."""

_HEVC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AV1 = frozenset({b"avif", b"avis"})
_ANY_CODEC = frozenset({b"mif1", b"mif2", b"msf1"})

_LEAST_PIXELS = 65_536  # of one part; libheif lets a small one be larger than it says
_MOST_REFERENCES = 4096  # from one part; libheif takes 1,000


def heif_format(data: bytes) -> Literal["HEIF", "AVIF"] | None:
    """Which of the formats in HEIF's container a file is of, by all its brands.

    ``mif1`` and ``msf1`` name no codec; without a brand that does, its configuration decides.
    """
    brands = read_brands(data)
    for brand in brands:
        if brand in _HEVC:
            return "HEIF"
        if brand in _AV1:
            return "AVIF"
    if _ANY_CODEC.isdisjoint(brands):
        return None
    meta = find_box(data, b"meta", 0, len(data))
    return "AVIF" if meta and data.find(b"av1C", *meta) >= 0 else "HEIF"


def heif_version() -> str | None:
    """The version of pillow-heif, or None if it is not installed."""
    try:
        return importlib.metadata.version("pillow-heif")
    except importlib.metadata.PackageNotFoundError:
        return None


def heif_opener() -> "Callable[..., ImageFile.ImageFile]":
    """Pillow-heif's reader, as Pillow would call it: with a stream and a name.

    Raises:
        ImageUnreadable: it is not installed, or cannot be loaded.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as exc:
        raise ImageUnreadable(
            "is HEIC, for which there is no decoder here: pip install 'warmclip[heic]', or convert "
            "it to JPEG"
        ) from exc
    opener: Callable[..., ImageFile.ImageFile] = HeifImageFile
    return opener


def decoded_pixels(data: bytes) -> int:
    """How many pixels are decoded for the picture of a file, at most.

    It may be put together of parts, and a file of 3 kB can name one part of it a thousand times.
    """
    meta = find_box(data, b"meta", 0, len(data))
    if meta is None:
        return 0
    inside = {kind: (start, end) for kind, start, end in iter_boxes(data, meta[0] + 4, meta[1])}
    areas = _areas(data, *inside.get(b"iprp", (0, 0)))
    parts, extras = _references(data, *inside.get(b"iref", (0, 0)))
    primary = data[slice(*inside.get(b"pitm", (0, 0)))]
    path: set[int] = set()

    @cache
    def cost(item: int) -> int:
        if item in path or len(path) > 16:  # a circle, which libheif refuses
            return 0
        path.add(item)
        own = max(areas.get(item, 0), _LEAST_PIXELS)
        own += sum(cost(part) for part in parts.get(item, ()))
        own += max((cost(extra) for extra in extras.get(item, ())), default=0)  # its transparency
        path.discard(item)
        return own

    return cost(int.from_bytes(primary[4:]))


def _areas(data: bytes, start: int, end: int) -> dict[int, int]:
    """The pixels of each item, by the largest size that belongs to it."""
    properties = find_box(data, b"ipco", start, end)
    sizes: list[int] = []
    for kind, at, stop in iter_boxes(data, *properties) if properties else ():
        is_size = kind == b"ispe" and stop - at >= 12
        width, height = struct.unpack_from(">II", data, at + 4) if is_size else (0, 0)
        sizes.append(width * height)
    areas: dict[int, int] = {}
    for kind, at, stop in iter_boxes(data, start, end):
        if kind == b"ipma":
            for item, property_ in _associations(data[at:stop]):
                if 0 < property_ <= len(sizes):
                    areas[item] = max(areas.get(item, 0), sizes[property_ - 1])
    return areas


def _associations(box: bytes) -> Iterator[tuple[int, int]]:
    """Item and number of property, counted from 1."""
    id_bytes, number_bytes = (2 if box[:1] == b"\0" else 4), (2 if box[3:4] == b"\1" else 1)
    mask = 0x7FFF if number_bytes == 2 else 0x7F
    at = 8
    while at + id_bytes < len(box):
        item, count = int.from_bytes(box[at : at + id_bytes]), box[at + id_bytes]
        at += id_bytes + 1
        for _ in range(count):
            yield item, int.from_bytes(box[at : at + number_bytes]) & mask
            at += number_bytes


def _references(data: bytes, start: int, end: int) -> tuple[dict[int, Any], dict[int, Any]]:
    """Item -> the items that it is made of, and item -> those that describe it further."""
    parts: dict[int, list[int]] = {}
    extras: dict[int, list[int]] = {}
    id_bytes = 2 if data[start : start + 1] == b"\0" else 4
    for kind, at, stop in iter_boxes(data, start + 4, end):
        source = int.from_bytes(data[at : at + id_bytes])
        first = at + id_bytes + 2
        last = min(stop, first + _MOST_REFERENCES * id_bytes)
        targets = [
            int.from_bytes(data[place : place + id_bytes])
            for place in range(first, last - id_bytes + 1, id_bytes)
        ]
        if kind == b"dimg":
            parts.setdefault(source, []).extend(targets)
        elif kind == b"auxl":
            for target in targets:
                extras.setdefault(target, []).append(source)
    return parts, extras
