"""What a picture would cost is known before it is decoded, and hostile ones are refused by it."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from recipes import a_recipe
from warmclip.errors import ImageUnreadable
from warmclip.indexing.thumbnail import draw_thumbnail
from warmclip.inference.decoding_work import check_directory, check_work, decoding_work
from warmclip.inference.image import make_crop, open_decoded, open_image
from warmclip.inference.jpeg2000 import Shape, read_shape
from warmclip.settings import Limits

LIMITS = Limits(image_pixels=10_000_000)  # half a second, 125 MB
SIDE = 2_200  # nearly as large as that allows


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def blank(side: int, mode: str = "L") -> Image.Image:
    """A picture with nothing in it."""
    return Image.new(mode, (side, side))


def segments(marker: int, content: bytes, count: int) -> bytes:
    """So many equal segments of a JPEG."""
    return (bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content) * count


def jpeg(inserted: bytes, side: int = 8) -> bytes:
    """A JPEG with segments before its others."""
    data = encoded(blank(side), "JPEG")
    return data[:2] + inserted + data[2:]


def scans(count: int, side: int = SIDE) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(blank(side), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def png(name: bytes, content: bytes, count: int) -> bytes:
    """A PNG with so many equal chunks."""
    data = encoded(blank(8), "PNG")
    checksum = struct.pack(">I", zlib.crc32(name + content))
    chunk = struct.pack(">I", len(content)) + name + content + checksum
    return data[:33] + chunk * count + data[33:]


def gif(inserted: bytes) -> bytes:
    """A GIF with blocks before its frame."""
    data = encoded(blank(8, "P"), "GIF")
    frame = data.index(b",", 13)
    return data[:frame] + inserted + data[frame:]


def bmp_of_run_lengths(width: int, height: int) -> bytes:
    """A BMP in which each line ends at once."""
    data = b"\0\0" * 8
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1094, 0, 0, 1078) + header + b"\0" * 1024 + data


def tiff(tags: Mapping[int, int | list[int]], data: bytes = b"\1" * 64) -> bytes:
    """A TIFF of one byte a pixel; its data lie at 8."""
    tags = {258: 8, 259: 1, 262: 1, 277: 1, **tags}
    lists = b""
    entries = b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        place = values[0] if len(values) == 1 else 8 + len(data) + len(lists)
        if len(values) > 1:
            lists += struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHII", tag, 4, len(values), place)
    at = 8 + len(data) + len(lists)
    directory = struct.pack("<H", len(tags)) + entries + b"\0" * 4
    return b"II*\0" + struct.pack("<I", at) + data + lists + directory


def directory_of(entries: int, size: int, total: int) -> bytes:
    """EXIF data of which each entry names the same bytes."""
    listed = b"".join(struct.pack("<HHII", 20_000 + n, 7, size, 8) for n in range(entries))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + listed).ljust(total, b"\0")


def jpeg2000(side: int, mode: str = "RGB", **changes: bytes) -> bytes:
    """A JPEG 2000 with other blocks, layers or precincts in its header, or other tiles."""
    data = bytearray(encoded(blank(side, mode), "JPEG2000", precinct_size=(64, 64)))
    size, style = data.index(b"\xff\x51"), data.index(b"\xff\x52")
    resolutions = data[style + 9] + 1
    places = {"tiles": size + 22, "layers": style + 6, "blocks": style + 10}
    for name, content in changes.items():
        at = places.get(name, style + 14)
        written = content * resolutions if name == "precincts" else content
        data[at : at + len(written)] = written
    return bytes(data)


TINY_TILES = struct.pack(">II", 1, 1)

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans of a JPEG": (lambda: scans(120), "scans"),
    "its segments": (lambda: jpeg(segments(0xFE, b"", 180_000)), "segments"),
    "its EXIF in pieces": (lambda: jpeg(segments(0xE1, b"Exif\0\0ab", 110_000)), "of them EXIF"),
    "its EXIF read over and over": (
        lambda: jpeg(segments(0xE1, b"Exif\0\0" + directory_of(100, 60_000, 64_000), 1)),
        "a directory that names more",
    ),
    "chunks of a PNG": (lambda: png(b"abCd", b"", 120_000), "chunks"),
    "its profiles": (
        lambda: png(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000), 9), 350),
        "profiles",
    ),
    "a GIF's comment": (lambda: gif(b"!\xfe" + b"\1a" * 700_000 + b"\0"), "blocks of text"),
    "a GIF's comments": (lambda: gif(b"!\xfe\1a\0" * 350_000), "blocks of text"),
    "a PPM's header": (
        lambda: b"P6\n#" + b"a" * 1_300_000 + b"\n8 8\n255\n" + bytes(192),
        "a header that is mostly comments",
    ),
    "a PPM in digits": (lambda: b"P3 500 500 255\n" + b"1 " * 750_000, "decimal digits"),
    "comments among digits": (
        lambda: b"P3 10 10 255\n" + b"#a\n1 " * 60_000 + b"1 " * 300,
        "60,000 comments",
    ),
    "a PPM of an odd range": (
        lambda: b"P6 500 450 254\n" + bytes(675_000),
        "samples of an odd range",
    ),
    "a BMP's run lengths": (lambda: bmp_of_run_lengths(SIDE, SIDE), "run lengths"),
    "strips of a TIFF": (
        lambda: tiff({256: 1, 257: 70_000, 273: [8] * 70_000, 278: 1, 279: [1] * 70_000}),
        "70,000 parts",
    ),
    "a tile larger than its TIFF": (
        lambda: tiff({256: 8, 257: 8, 322: 4_096, 323: 4_096, 324: 8, 325: 64, 259: 8}),
        "tiles of 16,777,216 pixels",
    ),
    "pixels of a WebP": (lambda: encoded(blank(3_000), "WEBP", lossless=True), "of WebP"),
    "precincts of a JPEG 2000": (lambda: jpeg2000(500, precincts=b"\x11"), "precincts"),
    "its code blocks": (lambda: jpeg2000(1_200, blocks=b"\0\0"), "code blocks"),
    "its tiles": (lambda: jpeg2000(255, tiles=TINY_TILES), "65,025 tiles"),
    "its layers": (
        lambda: jpeg2000(1_200, layers=b"\xff\xff", precincts=b"\x77"),
        "packets",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_picture_that_repeats_what_is_dear(name: str, tmp_path: Path) -> None:
    """It is refused before it is decoded, by what it consists of, from a file as from bytes."""
    make, reason = HOSTILE[name]
    data = make()
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ImageUnreadable, match=reason):
            open_image(source, LIMITS)


@pytest.mark.parametrize("truncated", ["load", "refuse"])
@pytest.mark.parametrize(
    ("kind", "head", "text"),
    [
        (b"zTXt", b"\0\0", bytes(1_000_000)),  # has no name
        (b"iTXt", b"a\0\1\0\0\0", b"\xff" * 1_000_000),  # is no UTF-8
        (b"iTXt", b"a\0\1\0\0\0", bytes(2_000_000)),  # is more than Pillow inflates
    ],
)
def test_texts_of_a_png(kind: bytes, head: bytes, text: bytes, truncated: str) -> None:
    """Thousands that Pillow does not count are refused before it inflates one; five are read."""
    recipe = a_recipe(truncated=truncated)
    content = head + zlib.compress(text, 9)
    hostile = open_decoded(png(kind, content, 4_000), recipe, Limits())
    with pytest.raises(ImageUnreadable, match=r"chunks, 3,.* profiles and texts"), hostile:
        pass
    honest = png(kind, head + zlib.compress(b"made by hand"), 5)
    with open_decoded(honest, recipe, LIMITS) as (image, _):
        assert image.size == (8, 8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + directory_of(3, 40, 200)}),
        ("PNG", {"icc_profile": bytes(3_000)}),
        ("GIF", {"comment": b"made by hand " * 200}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {}),
        ("JPEG2000", {}),
        ("JPEG2000", {"tile_size": (256, 256), "codeblock_size": (32, 32)}),
        ("JPEG2000", {"precinct_size": (128, 128), "quality_layers": [20, 10, 1]}),
        ("PPM", {}),
        ("TGA", {"compression": "tga_rle"}),
    ],
)
def test_honest_picture(kind: str, options: dict[str, object]) -> None:
    """One as large as the limit passes."""
    data = encoded(blank(SIDE), kind, **options)
    assert open_image(data, LIMITS).size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("side", "count", "passes"),
    [
        (1_000, 10_000, True),
        (4_900, 100, True),  # 24 MP
        (4_900, 500, False),
        (10_000, 12, True),  # what encoders make
        (14_000, 12, True),  # 196 MP
        (10_000, 100, True),
        (10_000, 118, False),
    ],
)
def test_scans_that_are_allowed(side: int, count: int, passes: bool) -> None:
    """A small picture may have many, a large one more than any encoder makes."""
    data = encoded(blank(8), "JPEG", progressive=True)
    frame = data.index(b"\xff\xc2")
    size = struct.pack(">HH", side, side)
    end = data.rindex(b"\xff\xda")
    head = data[: frame + 5] + size + data[frame + 9 : end]
    whole = head[: head.index(b"\xff\xda")] + data[end:-2] * count + data[-2:]
    work = decoding_work(JpegImageFile(io.BytesIO(whole), ""), whole)
    if passes:
        check_work(work, Limits())
    else:
        with pytest.raises(ImageUnreadable, match=f"it has {count} scans"):
            check_work(work, Limits())


def test_scan_markers_that_are_none() -> None:
    """What looks like a scan in EXIF, or behind the picture, as in a motion photo, is none."""
    false = b"\xff\xda" * 5_000
    data = jpeg(segments(0xE1, b"Exif\0\0" + false, 1), SIDE) + false * 10
    assert open_image(data, LIMITS).size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Shape()),
        (b"\xff\x4f\xff\x51", Shape()),
        (b"\0\0\0\x0cjP  \x0d\x0a\x87\x0a" + b"\0\0\0\0jp2h", Shape()),
        (jpeg2000(64, "L")[:-2], None),
    ],
)
def test_headers_of_a_jpeg2000_that_are_cut_short(data: bytes, expected: Shape | None) -> None:
    """They have the parts that were found, and no other error leaves."""
    for end in range(len(data) + 1):
        shape = read_shape(data[:end])
    assert expected is None or shape == expected
    assert shape.coefficients == (64 * 64 if expected is None else 0)


def test_component_that_is_cut_up_on_its_own() -> None:
    """COC, which holds for one component, counts as COD does, with the layers of all."""
    data = jpeg2000(500)
    style = data.index(b"\xff\x52")
    length = int.from_bytes(data[style + 2 : style + 4])
    own = b"\1\1" + data[style + 9 : style + 14] + b"\x11" * (length - 12)
    segment = b"\xff\x53" + struct.pack(">H", len(own) + 2) + own
    after = style + 2 + length
    with pytest.raises(ImageUnreadable, match="precincts"):
        open_image(data[:after] + segment + data[after:], LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_of_any_format(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is turned by its EXIF data has them checked, wherever they come from: such a
    directory is never read, and the picture stays as it lies.
    """
    exif = b"Exif\0\0" + directory_of(100, 60_000, 64_000)
    data = encoded(blank(8, "RGB"), kind, exif=exif)
    monkeypatch.setattr(Image.Image, "getexif", lambda _: pytest.fail("it was read"))
    crop = make_crop(open_image(data, LIMITS), a_recipe(exif="transpose"), LIMITS)
    np.testing.assert_array_equal(crop, make_crop(open_image(data, LIMITS), a_recipe(), LIMITS))
    assert draw_thumbnail(data, 64, LIMITS)


@pytest.mark.parametrize(
    "data",
    [b"", b"II*\0", b"II*\0" + b"\xff" * 40, b"MM\0*\0\0\0\x08\0\1", directory_of(3, 40, 200)],
)
def test_directory_that_is_whole_or_short(data: bytes) -> None:
    """Nothing is said of it: Pillow knows what to do."""
    check_directory(data)
