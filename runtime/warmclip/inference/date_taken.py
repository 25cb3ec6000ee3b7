"""When a picture was taken, as its camera wrote it into EXIF, read without decoding the picture."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice

from warmclip.inference.heif import heif_format, item_places, meta_boxes
from warmclip.inference.iso_boxes import iter_boxes
from warmclip.inference.jpeg_segments import APP1, SCAN, jpeg_segments
from warmclip.inference.raw_preview import cr3_tags, is_cr3, raf_preview
from warmclip.inference.tiff_tags import Directory, byte_order, iter_directories

_EXIF, _ORIGINAL, _OFFSET = 34665, 36867, 36881
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ZONE = re.compile(r"[+-]\d\d:\d\d|Z")
_FIRST_YEAR = 1826  # of the oldest photograph that is left
_AHEAD = timedelta(days=2)  # of a camera whose clock is in another zone, or a little wrong
_MOST_PARTS = 4096  # segments, chunks or items that are looked at


def read_date_taken(data: bytes, now: datetime) -> str:
    """The date in a picture's EXIF data, as ISO 8601 on the camera's clock.

    It has an offset from UTC where the camera told one, such as ``2026-05-01T00:30:00+02:00``.

    Args:
        data: the file, which may be anything.
        now: what is later than this is not believed.

    Returns:
        Empty if there is none, or none that can be: a camera without a date writes zeros.
    """
    for directory in islice(_directories(data), 8):
        exif = directory.inside(_EXIF) if _EXIF in directory.entries else directory
        if taken := _parse(exif.text(_ORIGINAL), exif.text(_OFFSET), now):
            return taken
    return ""


def _parse(date: str, zone: str, now: datetime) -> str:
    found = _DATE.match(date)
    if found is None:
        return ""
    text = "{}-{}-{}T{}:{}:{}".format(*found.groups())
    with suppress(ValueError):  # a 30th of February, or an offset of 99 hours
        taken = datetime.fromisoformat(text)
        if taken.year < _FIRST_YEAR or taken > now.replace(tzinfo=None) + _AHEAD:
            return ""
        if _ZONE.fullmatch(zone):
            with suppress(ValueError):
                return datetime.fromisoformat(text + zone).isoformat()
        return taken.isoformat()
    return ""


def _directories(data: bytes) -> Iterator[Directory]:
    """The directories that may have the date, or lead to it."""
    if data[:2] == b"\xff\xd8":
        yield from _in_jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _in_chunks(data, at=8, kind=b"eXIf", order="big")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        yield from _in_chunks(data, at=12, kind=b"EXIF", order="little")
    elif heif_format(data):
        yield from _in_heif(data)
    elif is_cr3(data):
        for tags in cr3_tags(data):
            yield from iter_directories(tags)
    elif preview := raf_preview(data):
        yield from _in_jpeg(data[preview[0] : sum(preview)])
    elif byte_order(data):
        yield from iter_directories(data)


def _in_jpeg(data: bytes) -> Iterator[Directory]:
    for marker, start, end in islice(jpeg_segments(data), _MOST_PARTS):
        if marker == SCAN:
            return
        if marker == APP1:
            yield from _in_exif(data[start:end])


def _in_exif(block: bytes) -> Iterator[Directory]:
    yield from iter_directories(block.removeprefix(b"Exif\0\0"))


def _in_chunks(data: bytes, at: int, kind: bytes, order: str) -> Iterator[Directory]:
    """Of a PNG, whose chunks begin with their length, or a WebP, whose begin with their kind."""
    is_png = order == "big"
    for _ in range(_MOST_PARTS):
        head = data[at : at + 8]
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4] if is_png else head[4:], "big" if is_png else "little")
        if (head[4:] if is_png else head[:4]) == kind:
            yield from _in_exif(data[at + 8 : at + 8 + length])
        at += 12 + length if is_png else 8 + length + length % 2


def _in_heif(data: bytes) -> Iterator[Directory]:
    inside = meta_boxes(data) or {}
    if b"iinf" not in inside or b"iloc" not in inside:
        return
    start, end = inside[b"iinf"]
    wanted = set()
    is_short = data[start : start + 1] == b"\0"
    for kind, at, stop in iter_boxes(data, start + (6 if is_short else 8), end):
        id_bytes = 4 if data[at : at + 1] == b"\3" else 2
        at_type = at + 4 + id_bytes + 2
        if kind == b"infe" and data[at_type : min(stop, at_type + 4)] == b"Exif":
            wanted.add(int.from_bytes(data[at + 4 : at + 4 + id_bytes]))
    for item, at, length, _ in item_places(data, *inside[b"iloc"]):
        if item in wanted:
            wanted.discard(item)  # one that is listed again is read once
            block = data[at : at + length]
            yield from _in_exif(block[4 + int.from_bytes(block[:4]) :])
