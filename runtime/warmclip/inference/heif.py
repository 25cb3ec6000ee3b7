"""HEIC and other HEIF pictures, decoded by pillow-heif where it is installed.

Its reader is used by itself and never registered with Pillow: ``Image.open`` of an application in
this process reads what it read before.
"""

import importlib.metadata
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Literal

from warmclip.errors import ImageUnreadable
from warmclip.inference.iso_boxes import MOST_BOXES, find_box, iter_boxes, read_brands

if TYPE_CHECKING:  # keeps Pillow out of this import
    from PIL import ImageFile

FORMAT = "HEIF"
"""As pillow-heif calls it."""

_HEVC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AV1 = frozenset({b"avif", b"avis"})
_ANY_CODEC = frozenset({b"mif1", b"mif2", b"msf1"})

_LEAST_PIXELS = 65_536  # of one part; libheif lets a small one be larger than it says
_MOST_REFERENCES = 4096  # from one part; libheif takes 1,000
_MOST_ITEMS = 4096  # libheif takes 1,000
_MOST_ASSOCIATION_BYTES = 1_000_000  # of items with properties; twice what 1,000 items can have
_MOST_EXTENTS = 32  # of one item, as in libheif
_MOST_LEVELS = 16  # of parts in parts
_UNKNOWN = 1 << 40  # pixels or bytes: more than any limit


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


def meta_boxes(data: bytes) -> dict[bytes, tuple[int, int]] | None:
    """Where the boxes that describe a file's items lie, of each kind the first, as libheif has it.

    None: those that describe anything were not found.
    """
    meta = find_box(data, b"meta", 0, len(data))
    if meta is None:
        return None
    inside: dict[bytes, tuple[int, int]] = {}
    for kind, start, end in iter_boxes(data, meta[0] + 4, meta[1]):
        inside.setdefault(kind, (start, end))
    return inside


def item_places(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The items of an ``iloc`` box.

    Yields:
        Item; where its first part begins and how long that is, 0 if it is not in the file itself;
        and how long its parts are in all, wherever they are.
    """
    box = data[start:end]
    if len(box) < 8:
        return
    version = box[0]
    sizes = box[4] >> 4, box[4] & 15, box[5] >> 4, box[5] & 15 if version else 0
    offset_bytes, length_bytes, base_bytes, index_bytes = sizes
    part_bytes = index_bytes + offset_bytes + length_bytes
    id_bytes = 2 if version < 2 else 4
    place = 6

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int.from_bytes(box[place - count : place])

    for _ in range(min(take(id_bytes), _MOST_ITEMS)):
        item = take(id_bytes)
        method = take(2) if version else 0
        take(2)  # which file
        base, parts = take(base_bytes), take(2)
        first = place
        take(index_bytes)
        at = base + take(offset_bytes)
        lengths = []
        for part in range(min(parts, _MOST_EXTENTS)):
            place = first + part * part_bytes + index_bytes + offset_bytes
            lengths.append(min(take(length_bytes), len(data)))
        if lengths:
            yield item, at, lengths[0] if method == 0 else 0, sum(lengths)
        place = first + parts * part_bytes
        if place >= len(box):
            return


def metadata_bytes(data: bytes) -> int:
    """How many bytes of metadata and colour profiles are copied when a file is opened, at most.

    Each of its pictures gets a copy of its own, and all of them may have the same; libheif has one
    more of metadata. What is too much to be looked at counts as more than any limit.
    """
    inside = meta_boxes(data)
    if inside is None:
        has_more = sum(1 for _ in iter_boxes(data, 0, len(data))) == MOST_BOXES
        return _UNKNOWN if has_more else 0
    properties = inside.get(b"iprp", (0, 0))
    associations = (end - at for kind, at, end in iter_boxes(data, *properties) if kind == b"ipma")
    if sum(associations) > _MOST_ASSOCIATION_BYTES:
        return _UNKNOWN
    lengths: dict[int, int] = {}
    for item, _, _, length in item_places(data, *inside.get(b"iloc", (0, 0))):
        lengths[item] = max(lengths.get(item, 0), length)
    copied = 0
    for kind, source, targets, _ in _references(data, *inside.get(b"iref", (0, 0))):
        copied += lengths.get(source, 0) * (len(targets) + 1) if kind == b"cdsc" else 0
    for _, kind, at, stop in _properties(data, *properties):
        copied += stop - at if kind == b"colr" else 0
    return copied


def decoded_pixels(data: bytes) -> tuple[int, int]:
    """How many pixels are decoded for the picture of a file, at most: in all, and at once.

    It may be put together of parts, and a file of 3 kB can name one part of it a thousand times.
    What cannot be followed, though libheif may, counts as more than any limit.
    """
    inside = meta_boxes(data)
    if inside is None:
        return _UNKNOWN, _UNKNOWN
    areas = _areas(data, *inside.get(b"iprp", (0, 0)))
    parts, extras = _parts(data, *inside.get(b"iref", (0, 0)))
    primary = data[slice(*inside.get(b"pitm", (0, 0)))]
    path: set[int] = set()
    largest = 0

    @cache
    def cost(item: int) -> int:
        nonlocal largest
        if item in path:  # a circle, which libheif refuses
            return 0
        if len(path) > _MOST_LEVELS:
            return _UNKNOWN
        path.add(item)
        own = max(areas.get(item, 0), _LEAST_PIXELS)
        largest = max(largest, own)
        own += sum(cost(part) for part in parts.get(item, ()))
        own += max((cost(extra) for extra in extras.get(item, ())), default=0)  # its transparency
        path.discard(item)
        return own

    return cost(int.from_bytes(primary[4:])), largest


def _areas(data: bytes, start: int, end: int) -> dict[int, int]:
    """The pixels of each item, by the largest size that belongs to it."""
    areas: dict[int, int] = {}
    for item, kind, at, stop in _properties(data, start, end):
        if kind == b"ispe" and stop - at >= 12:
            width, height = struct.unpack_from(">II", data, at + 4)
            areas[item] = max(areas.get(item, 0), width * height)
    return areas


def _properties(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Item, and the kind and the place of a property, for each that belongs to an item."""
    container = find_box(data, b"ipco", start, end)
    properties = list(iter_boxes(data, *container)) if container else []
    for kind, at, stop in iter_boxes(data, start, end):
        if kind == b"ipma":
            for item, number in _associations(data[at:stop]):
                if 0 < number <= len(properties):
                    yield item, *properties[number - 1]


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


def _parts(data: bytes, start: int, end: int) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Item -> the items that it is made of, and item -> those that describe it further."""
    parts: dict[int, list[int]] = {}
    extras: dict[int, list[int]] = {}
    for kind, source, places, id_bytes in _references(data, start, end):
        if kind not in (b"dimg", b"auxl"):
            continue
        targets = [int.from_bytes(data[place : place + id_bytes]) for place in places]
        if kind == b"dimg":
            parts.setdefault(source, []).extend(targets)
        else:
            for target in targets:
                extras.setdefault(target, []).append(source)
    return parts, extras


def _references(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, range, int]]:
    """Kind, item, where the items that it leads to are named, and in how many bytes each."""
    id_bytes = 2 if data[start : start + 1] == b"\0" else 4
    for kind, at, stop in iter_boxes(data, start + 4, end):
        source = int.from_bytes(data[at : at + id_bytes])
        first = at + id_bytes + 2
        last = min(stop, first + _MOST_REFERENCES * id_bytes)
        yield kind, source, range(first, last - id_bytes + 1, id_bytes), id_bytes
