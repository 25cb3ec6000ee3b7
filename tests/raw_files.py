"""RAW files, as cameras lay them out: each of one preview, and no sensor's data."""

import io
import struct
from collections.abc import Callable, Mapping

from PIL import Image

CFA = 32803


def jpeg(width: int = 48, height: int = 32) -> bytes:
    """A picture that is red on its left and blue on its right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


PREVIEW = jpeg()
SMALL = jpeg(16, 12)


class Writer:
    """Puts a TIFF together; what is no number stands outside the directories."""

    def __init__(self, order: str = "<", magic: bytes = b"*\0") -> None:
        self.order = order
        self.data = bytearray((b"II" if order == "<" else b"MM") + magic + bytes(4))

    def blob(self, content: bytes) -> int:
        """Where some bytes were put."""
        at = len(self.data)
        self.data += content
        return at

    def directory(self, tags: Mapping[int, int | tuple[int, ...]], following: int = 0) -> int:
        """Where a directory was put."""
        entries = b""
        for tag, value in sorted(tags.items()):
            values = value if isinstance(value, tuple) else (value,)
            packed = struct.pack(f"{self.order}{len(values)}I", *values)
            if len(values) > 1:
                packed = struct.pack(f"{self.order}I", self.blob(packed))
            entries += struct.pack(f"{self.order}HHI", tag, 4, len(values)) + packed
        head = struct.pack(f"{self.order}H", len(tags))
        return self.blob(head + entries + struct.pack(f"{self.order}I", following))

    def file(self, first: int) -> bytes:
        """The file, by its first directory."""
        struct.pack_into(f"{self.order}I", self.data, 4, first)
        return bytes(self.data)


def dng(preview: bytes = PREVIEW, *, order: str = "<", orientation: int = 1) -> bytes:
    """A thumbnail, and the sensor's data and the preview inside it, as Adobe lays it out."""
    writer = Writer(order, b"*\0" if order == "<" else b"\0*")
    sensor = writer.directory({254: 0, 256: 6000, 257: 4000, 259: 7, 262: CFA, 273: 8, 279: 8})
    small = writer.directory({254: 1, 259: 7, 262: 6, 273: writer.blob(SMALL), 279: len(SMALL)})
    large = writer.directory({254: 1, 259: 7, 262: 6, 273: writer.blob(preview), 279: len(preview)})
    tags = {254: 1, 259: 1, 262: 2, 273: 8, 274: orientation, 279: 12, 50706: 0x01040000}
    return writer.file(writer.directory(tags | {330: (sensor, small, large)}))


def nef() -> bytes:
    """The preview inside a directory as JPEGInterchangeFormat, as Nikon lays it out."""
    writer = Writer(">", b"\0*")
    large = writer.directory({259: 6, 513: writer.blob(PREVIEW), 514: len(PREVIEW)})
    sensor = writer.directory({254: 0, 259: 34713, 262: CFA})
    return writer.file(writer.directory({254: 1, 274: 1, 330: (large, sensor)}))


def arw() -> bytes:
    """The preview in the first directory, as Sony lays it out."""
    writer = Writer()
    thumbnail = writer.directory({259: 6, 513: writer.blob(SMALL), 514: len(SMALL)})
    sensor = writer.directory({259: 32767, 262: CFA})
    tags = {254: 1, 259: 6, 513: writer.blob(PREVIEW), 514: len(PREVIEW), 330: sensor}
    return writer.file(writer.directory(tags, thumbnail))


def cr2() -> bytes:
    """The preview as the strip of the first directory, as Canon lays it out."""
    writer = Writer()
    writer.blob(b"CR\2\0" + bytes(4))
    tags = {259: 6, 273: writer.blob(PREVIEW), 274: 1, 279: len(PREVIEW)}
    return writer.file(writer.directory(tags))


def rw2() -> bytes:
    """The preview as the value of a tag, as Panasonic lays it out."""
    writer = Writer(magic=b"U\0")
    at = writer.blob(PREVIEW)
    first = writer.directory({0x2E: 0, 274: 1})
    struct.pack_into("<HHII", writer.data, first + 2, 0x2E, 7, len(PREVIEW), at)
    return writer.file(first)


def orf() -> bytes:
    """The preview in the camera's own note, with offsets of its own, as Olympus lays it out."""
    note = Writer()
    note.data[:] = b"OLYMPUS\0II\3\0"
    note.blob(bytes(42))  # its directory is at 12
    settings = note.directory({0x101: note.blob(PREVIEW), 0x102: len(PREVIEW)})
    note.data[12:30] = struct.pack("<HHHIII", 1, 0x2020, 13, 1, settings, 0)
    writer = Writer(magic=b"RO")
    at = writer.blob(bytes(note.data))
    exif = writer.directory({37500: 0})
    struct.pack_into("<HHII", writer.data, exif + 2, 37500, 7, len(note.data), at)
    return writer.file(writer.directory({274: 1, 34665: exif}))


def raf() -> bytes:
    """The preview where the head says, as Fujifilm lays it out."""
    head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0")
    return head + struct.pack(">II", 148, len(PREVIEW)) + bytes(56) + PREVIEW


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an ISO base media file."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def cr3(orientation: int = 1) -> bytes:
    """The preview in a box of its own, as Canon lays it out since 2018."""
    tags = Writer()
    about = tags.file(tags.directory({274: orientation}))
    ours = box(b"uuid", bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + box(b"CMT1", about))
    shown = box(b"PRVW", bytes(16) + PREVIEW)
    preview = box(b"uuid", bytes.fromhex("eaf42b5e1c984b88b9fbb7dc406e4d16") + bytes(8) + shown)
    return box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", ours) + preview


RAW: dict[str, Callable[[], bytes]] = {
    it.__name__: it for it in (dng, nef, arw, cr2, rw2, orf, raf, cr3)
}
