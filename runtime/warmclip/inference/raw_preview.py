"""The JPEG that a camera puts into its RAW files, to be shown without developing them.

A RAW file is known by its content. Of its sensor's data nothing is read: the largest JPEG of the
picture stands for it, and is decoded as any JPEG is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from warmclip.errors import ImageUnreadable
from warmclip.inference.iso_boxes import iter_boxes, read_brands
from warmclip.inference.jpeg_segments import jpeg_segments
from warmclip.inference.tiff_tags import Directory, byte_order, iter_directories

SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
"""Of names that are taken for RAW files in folders."""

_RAF = b"FUJIFILMCCD-RAW"
_OLYMPUS = (b"IIRO", b"IIRS", b"MMOR")
_PANASONIC = b"IIU\0"
_CR3_DATA = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_CR3_PREVIEW = bytes.fromhex("eaf42b5e1c984b88b9fbb7dc406e4d16")

_COMPRESSION, _PHOTOMETRIC, _STRIPS, _STRIP_LENGTHS = 259, 262, 273, 279
_JPEG_AT, _JPEG_LENGTH = 513, 514
_ORIENTATION, _EXIF, _MAKER_NOTE, _DNG = 274, 34665, 37500, 50706
_PANASONIC_JPEG = 0x2E
_OLYMPUS_SETTINGS, _OLYMPUS_AT, _OLYMPUS_LENGTH = 0x2020, 0x101, 0x102
_SENSOR = (32803, 34892)  # photometric interpretations: colour filter array, linear raw

_MOST_JPEGS = 16  # that are looked at in one file; cameras write up to four
_MOST_SEGMENTS = 500  # before a JPEG's size, which comes early
_MOST_BYTES = 16_000_000  # before it
_SIZES = (0xC0, 0xC1, 0xC2)  # markers of frames; sensors' data are lossless JPEG, of another


@dataclass(frozen=True, slots=True)
class Preview:
    """A RAW file's JPEG.

    Attributes:
        jpeg: its bytes.
        orientation: EXIF's, of the RAW file; 0 where only the JPEG may say it.
    """

    jpeg: bytes
    orientation: int


def find_preview(data: bytes) -> Preview | None:
    """The largest JPEG in a RAW file; None: it is no RAW file.

    Raises:
        ImageUnreadable: it is one without a JPEG.
    """
    found: list[tuple[int, int]] | None
    orientation = 0
    if in_raf := raf_preview(data):
        found = [in_raf]
    elif is_cr3(data):
        orientation, found = _in_cr3(data)
    elif byte_order(data) is not None:
        orientation, found = _in_tiff(data)
    else:
        return None
    if found is None:
        return None
    view = memoryview(data)
    sized = [
        (_jpeg_pixels(view[at : at + min(length, _MOST_BYTES)]), at, length)
        for at, length in list(dict.fromkeys(found))[:_MOST_JPEGS]
        if at > 0
    ]
    pixels, at, length = max(sized, default=(0, 0, 0))
    if not pixels:
        raise ImageUnreadable(
            "is RAW without a JPEG preview in it, and RAW itself is not developed here; export it "
            "as JPEG"
        )
    return Preview(data[at : at + length], orientation)


def _in_tiff(data: bytes) -> tuple[int, list[tuple[int, int]] | None]:
    """Orientation, and where JPEGs may be; None: it is a TIFF and no RAW file."""
    is_raw = data[8:10] == b"CR" or data[:4] in (*_OLYMPUS, _PANASONIC)
    found: list[tuple[int, int]] = []
    orientation = 0
    for directory in iter_directories(data):
        orientation = orientation or directory.number(_ORIENTATION)
        is_raw |= _DNG in directory.entries
        if directory.number(_PHOTOMETRIC) in _SENSOR:
            is_raw = True
            continue
        if _JPEG_AT in directory.entries:
            found.append((directory.number(_JPEG_AT), directory.number(_JPEG_LENGTH)))
        strips, lengths = directory.numbers(_STRIPS), directory.numbers(_STRIP_LENGTHS)
        if directory.number(_COMPRESSION) in (6, 7) and len(strips) == len(lengths) == 1:
            found.append((strips[0], lengths[0]))
        if entry := directory.entries.get(_PANASONIC_JPEG):
            found.append((entry.at, entry.count))
        if data[:4] in _OLYMPUS:
            found.extend(_in_maker_note(data, directory))
    return orientation, found if is_raw else None


def _in_maker_note(data: bytes, directory: Directory) -> Iterator[tuple[int, int]]:
    """Where the JPEG of an Olympus camera is."""
    order = byte_order(data) or "<"
    exif = directory.inside(_EXIF)
    note = exif.entries.get(_MAKER_NOTE)
    if note is None:
        return
    head = 16 if data[note.at : note.at + 9] == b"OM SYSTEM" else 12
    settings_at = Directory(data, note.at + head, order, note.at).number(_OLYMPUS_SETTINGS)
    settings = Directory(data, note.at + settings_at, order, note.at)
    yield note.at + settings.number(_OLYMPUS_AT), settings.number(_OLYMPUS_LENGTH)


def raf_preview(data: bytes) -> tuple[int, int] | None:
    """Where the JPEG of a Fujifilm camera begins and how long it is; None: it is no such file."""
    if not data.startswith(_RAF):
        return None
    return int.from_bytes(data[84:88]), int.from_bytes(data[88:92])


def is_cr3(data: bytes) -> bool:
    """Whether it is a RAW file of Canon's newer form."""
    return read_brands(data)[:1] == (b"crx ",)


def cr3_tags(data: bytes) -> list[bytes]:
    """The EXIF data of a CR3: the picture's tags, then those of how it was taken."""
    found = []
    for kind, start, end in iter_boxes(data, 0, len(data)):
        for inner, at, stop in iter_boxes(data, start, end) if kind == b"moov" else ():
            if inner == b"uuid" and data[at : at + 16] == _CR3_DATA:
                tags = {name: data[slice(*span)] for name, *span in iter_boxes(data, at + 16, stop)}
                found += [tags[name] for name in (b"CMT1", b"CMT2") if name in tags]
    return found


def _in_cr3(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    found = []
    for kind, start, end in iter_boxes(data, 0, len(data)):
        if kind == b"uuid" and data[start : start + 16] == _CR3_PREVIEW:
            at = data.find(b"\xff\xd8\xff", start, min(end, start + 128))
            found.append((at, end - at))
    directories = (it for tags in cr3_tags(data) for it in iter_directories(tags))
    return next((it.number(_ORIENTATION) for it in directories), 0), found


def _jpeg_pixels(data: memoryview) -> int:
    """How many pixels a JPEG says that it has; 0 if it is none that shows a picture."""
    if bytes(data[:2]) != b"\xff\xd8":
        return 0
    for marker, start, end in islice(jpeg_segments(data), _MOST_SEGMENTS):
        if marker in _SIZES and end - start >= 5:
            height, width = (int.from_bytes(data[at : at + 2]) for at in (start + 1, start + 3))
            return height * width
    return 0
