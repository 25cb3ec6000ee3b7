"""The date on which a picture was taken, from EXIF data wherever a format keeps them."""

import importlib.util
import io
import struct
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import ExifTags, Image, features

from raw_files import PREVIEW, RAW, Writer, box
from warmclip.indexing import scan
from warmclip.indexing.files import locate_file
from warmclip.indexing.roots import Roots
from warmclip.indexing.scan import FileContent, LocatedFile, read_files
from warmclip.inference import date_taken
from warmclip.inference.date_taken import read_date_taken
from warmclip.settings import Limits
from warmclip.store.payload import clock_ns

NOW = datetime(2026, 11, 29, tzinfo=UTC)
DATE = "2025:05:01 00:30:00"
TAKEN = "2025-05-01T00:30:00"


def exif(date: str = DATE, zone: str = "") -> bytes:
    """EXIF data as Pillow writes them."""
    data = Image.Exif()
    inside = data.get_ifd(ExifTags.IFD.Exif)
    inside[ExifTags.Base.DateTimeOriginal] = date
    if zone:
        inside[ExifTags.Base.OffsetTimeOriginal] = zone
    return data.tobytes()


def picture(kind: str = "JPEG", **options: object) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, kind, **options)
    return stream.getvalue()


def directory_with_date(writer: Writer) -> int:
    """Where the directory of how a picture was taken was put."""
    at = writer.blob(DATE.encode() + b"\0")
    directory = writer.directory({36867: 0})
    struct.pack_into("<HHII", writer.data, directory + 2, 36867, 2, 20, at)
    return directory


def raw(kind: str) -> bytes:
    """A RAW file with a date, by where the date is."""
    writer = Writer()
    if kind == "tiff":
        return writer.file(writer.directory({274: 1, 34665: directory_with_date(writer)}))
    if kind == "raf":
        return RAW["raf"]().replace(PREVIEW, picture(exif=exif()))
    tags = writer.file(directory_with_date(writer))
    ours = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + box(b"CMT2", tags)
    return box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"uuid", ours))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_format(kind: str) -> None:
    """The date is found where the format keeps it."""
    if kind == "HEIF":
        if importlib.util.find_spec("pillow_heif") is None:
            pytest.skip("pillow-heif is not installed")
        from pillow_heif import from_pillow

        stream = io.BytesIO()
        from_pillow(Image.new("RGB", (64, 64))).save(stream, exif=exif())
        data = stream.getvalue()
    elif kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    else:
        data = picture(kind, exif=exif())
    assert read_date_taken(data, NOW) == TAKEN


@pytest.mark.parametrize("kind", ["tiff", "raf", "cr3"])
def test_raw(kind: str) -> None:
    """So is that of a camera's own file."""
    assert read_date_taken(raw(kind), NOW) == TAKEN


@pytest.mark.parametrize(
    ("date", "zone", "expected"),
    [
        (DATE, "+02:00", TAKEN + "+02:00"),
        (DATE, "Z", TAKEN + "+00:00"),
        (DATE, "-11:30", TAKEN + "-11:30"),
        (DATE, "+99:00", TAKEN),
        (DATE, "summer", TAKEN),
        ("2025-05-01T00:30:00", "", TAKEN),
        ("1940:06:01 12:00:00", "", "1940-06-01T12:00:00"),  # a scan that was dated by hand
        ("2026:11:30 10:00:00", "+14:00", "2026-11-30T10:00:00+14:00"),
        ("2026:12:02 00:00:00", "", ""),
        ("2446:01:01 00:00:00", "", ""),
        ("9999:99:99 99:99:99", "", ""),
        ("2025:02:30 00:00:00", "", ""),
        ("0000:00:00 00:00:00", "", ""),
        ("1825:01:01 00:00:00", "", ""),
        ("    :  :     :  :  ", "", ""),
        ("yesterday", "", ""),
        ("", "", ""),
    ],
)
def test_dates(date: str, zone: str, expected: str) -> None:
    """What no camera can have meant is none."""
    assert read_date_taken(picture(exif=exif(date, zone)), NOW) == expected


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"II*\0\x08\0\0\0", b"RIFF\0\0\0\0WEBP", PREVIEW]
)
def test_pictures_without_a_date(data: bytes) -> None:
    """They have none, whatever they are."""
    assert read_date_taken(data, NOW) == ""


@pytest.mark.parametrize("make", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "tiff", "raf", "cr3"])
def test_torn_files(make: str) -> None:
    """Cut or altered anywhere, they have a date or none, and no error."""
    if make == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    whole = picture(make, exif=exif()) if make.isupper() else raw(make)
    for place in range(min(len(whole), 2000)):
        for value in (b"\0", b"\xff"):
            read_date_taken(whole[:place] + value + whole[place + 1 :], NOW)
        read_date_taken(whole[:place], NOW)


def heic_of(*boxes: bytes) -> bytes:
    """A HEIC whose items are described so, without a picture."""
    return box(b"ftyp", b"heic\0\0\0\0heic") + box(b"meta", bytes(4) + b"".join(boxes))


def test_list_of_items_that_is_empty() -> None:
    """It has none, though nothing comes behind it."""
    assert read_date_taken(heic_of(box(b"iloc", bytes(8)), box(b"iinf", b"")), NOW) == ""


EXIF_ITEM = box(b"iinf", bytes(5) + b"\1" + box(b"infe", b"\2" + bytes(4) + b"\1\0\0Exif\0"))


def test_items_of_many_parts() -> None:
    """Parts that take no room in the list are not counted out, for each of thousands of items."""
    items = struct.pack(">HHH", 2, 0, 65_535) * 4_096
    assert (
        read_date_taken(heic_of(EXIF_ITEM, box(b"iloc", bytes(6) + b"\x10\0" + items)), NOW) == ""
    )


def test_item_that_is_listed_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read once."""
    read = Mock(return_value=iter(()))
    monkeypatch.setattr(date_taken, "iter_directories", read)
    items = struct.pack(">HHHII", 1, 0, 1, 0, 64) * 100
    read_date_taken(heic_of(EXIF_ITEM, box(b"iloc", bytes(4) + b"\x44\0\0\x64" + items)), NOW)
    assert read.call_count == 1


def test_bytes_that_fill() -> None:
    """Some may stand before a marker, and millions lead to none."""
    data = picture(exif=exif())
    assert read_date_taken(data[:2] + b"\xff" * 1000 + data[2:], NOW) == TAKEN
    assert read_date_taken(b"\xff\xd8" + b"\xff" * 4_000_000 + b"\0", NOW) == ""


def test_picture_whose_date_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is read without one; the run would end with the error."""
    path = tmp_path / "a.jpg"
    path.write_bytes(PREVIEW)
    roots = Roots()
    file = LocatedFile(path=str(path), location=locate_file(path, roots))
    for error in (IndexError, ValueError, struct.error, OverflowError):
        monkeypatch.setattr(scan, "read_date_taken", Mock(side_effect=error))
        with closing(read_files([file], roots, Limits())) as reading:
            ((_, content),) = next(reading)
        assert isinstance(content, FileContent)
        assert (content.taken_at, content.data) == ("", PREVIEW)


def test_day_of_the_camera() -> None:
    """Half past midnight is of that day, wherever it was."""
    midnight = int(datetime(2025, 5, 1, tzinfo=UTC).timestamp()) * 10**9
    assert clock_ns(TAKEN + "+02:00") == clock_ns(TAKEN) == midnight + 1800 * 10**9
    assert clock_ns("1940-06-01T12:00:00") < 0
    exact = clock_ns("2026-11-30T12:00:00.123457")
    assert (exact % 10**9, type(exact)) == (123_457_000, int)
