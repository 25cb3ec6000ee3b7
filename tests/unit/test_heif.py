"""HEIC is read where pillow-heif is installed, and bounded as other formats are."""

import importlib
import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from warmclip.errors import ImageUnreadable
from warmclip.inference.decoding_work import check_work, decoding_work, opening_work
from warmclip.inference.heif import decoded_pixels, heif_format, metadata_bytes
from warmclip.inference.image import open_image, readable_formats
from warmclip.settings import Limits

LIMITS = Limits()
NO_HEIC = importlib.util.find_spec("pillow_heif") is None
with_decoder = pytest.mark.skipif(NO_HEIC, reason="pillow-heif is not installed")


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A picture that is red on its left and blue on its right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


def heic(image: Image.Image, **options: object) -> bytes:
    """A HEIC file."""
    from pillow_heif import from_pillow

    stream = io.BytesIO()
    from_pillow(image).save(stream, **options)
    return stream.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an ISO base media file."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def ftyp(*brands: bytes) -> bytes:
    """What a file says that it is."""
    return box(b"ftyp", brands[0] + bytes(4) + b"".join(brands[1:]))


def meta(*references: tuple[bytes, int, tuple[int, ...]], side: int = 1000) -> bytes:
    """A file whose item 1 is the picture, each item so large; without a picture in it."""
    entries = b"".join(
        box(kind, struct.pack(f">HH{len(targets)}H", source, len(targets), *targets))
        for kind, source, targets in references
    )
    items = sorted({1}.union(*({source, *targets} for _, source, targets in references)))
    of_sizes = b"".join(struct.pack(">HBB", item, 1, 0x81) for item in items)
    properties = box(b"ipco", box(b"ispe", bytes(4) + struct.pack(">II", side, side)))
    associations = box(b"ipma", bytes(4) + struct.pack(">I", len(items)) + of_sizes)
    inside = box(b"pitm", bytes(4) + struct.pack(">H", 1))
    inside += box(b"iprp", properties + associations) + box(b"iref", bytes(4) + entries)
    return ftyp(b"heic", b"mif1", b"heic") + box(b"meta", bytes(4) + inside)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ftyp(b"heic", b"mif1"), "HEIF"),
        (ftyp(b"heix"), "HEIF"),
        (ftyp(b"mif1", b"heic"), "HEIF"),
        (ftyp(b"msf1", b"hevc"), "HEIF"),
        (ftyp(b"avif"), "AVIF"),
        (ftyp(b"mif1", b"miaf", b"avif"), "AVIF"),
        (ftyp(b"msf1", b"avis"), "AVIF"),
        (ftyp(b"miaf", b"avif"), "AVIF"),
        (ftyp(b"mif1", b"miaf"), "HEIF"),
        (ftyp(b"mif1") + box(b"meta", bytes(4) + box(b"av1C", b"")), "AVIF"),
        (ftyp(b"isom", b"mp42"), None),
        (ftyp(b"crx ", b"isom"), None),
        (b"\xff\xd8\xff", None),
        (b"", None),
        (b"\0\0\0\x08ftyp", None),
        (b"\xff\xff\xff\xffftypmif1", "HEIF"),
    ],
)
def test_format_by_brands(data: bytes, expected: str | None) -> None:
    """A brand that names a codec decides, wherever it stands; else the codec's configuration."""
    assert heif_format(data) == expected


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_of_any_major_brand() -> None:
    """It is read, though Pillow itself knows it by three of them only."""
    stream = io.BytesIO()
    picture().save(stream, "AVIF", quality=90)
    whole = stream.getvalue()
    for brand in (b"avif", b"mif1", b"miaf"):
        data = whole[:8] + brand + whole[12:]
        assert open_image(data, LIMITS).size == (64, 48)


@with_decoder
def test_heic_as_pillow_gives_it() -> None:
    """Pixel by pixel, with the rotation of its container, and EXIF's set back."""
    from pillow_heif import open_heif

    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (heic(upright), heic(upright, exif=exif.tobytes()), heic(upright.convert("RGBA"))):
        expected = open_heif(io.BytesIO(data)).to_pillow()
        opened = open_image(data, LIMITS)
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))


@with_decoder
def test_applications_pillow_stays_as_it_was() -> None:
    """Reading HEIC here registers nothing, and importing warmclip does not import the decoder."""
    program = (
        "import io, sys\n"
        "from PIL import Image\n"
        "from warmclip.inference.image import open_image\n"
        "from warmclip.settings import Limits\n"
        "assert 'pillow_heif' not in sys.modules\n"
        "data = sys.stdin.buffer.read()\n"
        "assert open_image(data, Limits()).size == (64, 48)\n"
        "assert 'HEIF' not in Image.OPEN\n"
    )
    subprocess.run([sys.executable, "-c", program], input=heic(picture()), check=True, timeout=120)


@with_decoder
def test_limits_that_an_application_took_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold for pictures that are read here, and the application finds its value again."""
    from pillow_heif import options

    monkeypatch.setattr(options, "DISABLE_SECURITY_LIMITS", True)
    data = heic(picture())
    hostile = data
    for kind in (b"ipco", b"iprp", b"meta"):
        at = data.index(kind) - 4
        longer = struct.pack(">I", struct.unpack_from(">I", data, at)[0] + 8 * 200)
        hostile = hostile[:at] + longer + hostile[at + 4 :]
    at = data.index(b"ipco") - 4
    at += struct.unpack_from(">I", data, at)[0]
    hostile = hostile[:at] + box(b"free", b"") * 200 + hostile[at:]
    with pytest.raises(ImageUnreadable, match=r"Maximum number of child boxes"):
        open_image(hostile, LIMITS)
    assert options.DISABLE_SECURITY_LIMITS


def test_heic_without_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is named."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in ((b"heic", b"mif1"), (b"mif1", b"heic")):
        with pytest.raises(ImageUnreadable, match=r"is HEIC, .*pip install 'warmclip\[heic\]'"):
            open_image(ftyp(*brands) + bytes(64), LIMITS)


def test_formats_of_the_doctor() -> None:
    """It says whether HEIC is among them."""
    formats = readable_formats()
    assert formats["HEIC"] is not NO_HEIC
    assert formats["JPEG"] is formats["RAW"] is True


@pytest.mark.parametrize(
    ("data", "megapixels"),
    [
        (meta(), 1),
        (meta((b"dimg", 1, (2, 3))), 3),
        (meta((b"dimg", 1, (2,) * 1000)), 1001),
        (meta((b"dimg", 1, (2,) * 100), (b"dimg", 2, (3,) * 100)), 10_101),
        (meta((b"auxl", 4, (1,)), (b"auxl", 5, (1,))), 2),
        (meta((b"dimg", 1, (2,)), (b"dimg", 2, (1,))), 2),
        (meta((b"thmb", 4, (1,))), 1),
    ],
    ids=["one", "two parts", "one part, often", "nested", "transparent", "circle", "thumb"],
)
def test_pixels_that_are_decoded(data: bytes, megapixels: int) -> None:
    """Each part counts as often as it is named."""
    assert decoded_pixels(data) == (megapixels * 1_000_000, 1_000_000)


def test_first_of_equal_boxes() -> None:
    """It holds, as in libheif: an empty one behind it hides no parts."""
    data = meta((b"dimg", 1, (2,) * 1000))
    at = data.index(b"meta") - 4
    extra = box(b"iref", bytes(4))
    longer = struct.pack(">I", len(data) - at + len(extra))
    assert decoded_pixels(data[:at] + longer + data[at + 4 :] + extra)[0] == 1001 * 1_000_000


def test_parts_deeper_than_any() -> None:
    """They are refused, and not hidden from who names one of them less deep."""
    chain = [(b"dimg", item, (item + 1,)) for item in range(2, 20)]
    for first in ((2,), (2, 18)):
        assert decoded_pixels(meta((b"dimg", 1, first), *chain))[0] > 1 << 40


def test_picture_behind_more_boxes_than_are_looked_at() -> None:
    """Its decoder may find it, so it is dearer than any."""
    free = box(b"free", b"") * 5000
    data = meta()
    at = data.index(b"meta") - 4
    hidden = data[:at] + free + data[at:]
    assert decoded_pixels(hidden) == (1 << 40, 1 << 40)
    assert metadata_bytes(hidden) == 1 << 40
    assert metadata_bytes(data[:at]) == 0


def test_cut_container() -> None:
    """Cut or altered anywhere, it has some cost, and no error."""
    whole = meta((b"dimg", 1, (2, 3)), (b"auxl", 4, (1,)))
    for place in range(len(whole)):
        assert min(decoded_pixels(whole[:place])) >= 0
        assert min(decoded_pixels(whole[:place] + b"\xff" + whole[place + 1 :])) >= 0


@with_decoder
def test_part_that_is_named_a_thousand_times() -> None:
    """It is refused before it is decoded: 3 kB would take minutes."""
    small = heic(picture(1024, 1024))
    head = small.index(b"meta") - 4
    length = struct.unpack_from(">I", small, head)[0]
    assert decoded_pixels(small) == (1024 * 1024, 1024 * 1024)
    extra = box(b"iref", bytes(4) + box(b"dimg", struct.pack(">HH", 1, 1000) + b"\0\1" * 1000))
    data = small[:head] + struct.pack(">I", length + len(extra))
    data += small[head + 4 : head + length] + extra + small[head + length :]
    assert decoded_pixels(data)[0] == 1024 * 1024  # of itself it cannot consist
    many = data.replace(extra, extra.replace(b"\0\1" * 1000, b"\0\2" * 1000))
    # An older libheif refuses it by itself.
    refusal = r"about 2 s .*: it has 66,.* pixels of HEVC in its|double references"
    with pytest.raises(ImageUnreadable, match=refusal):
        open_image(many, Limits(image_pixels=2_000_000))


def with_copies(pictures: int, exif: int, profile: int) -> bytes:
    """A file in which all pictures have the same metadata and the same profile, without them."""
    items = range(1, pictures + 1)
    source = pictures + 1
    described = struct.pack(f">HH{pictures}H", source, pictures, *items)
    place = struct.pack(">HHHIII", source, 0, 2, 0, exif // 2, 0) + struct.pack(">I", exif // 2)
    properties = box(b"ipco", box(b"hvcC", b"") + box(b"colr", b"prof" + bytes(profile - 4)))
    profiled = b"".join(struct.pack(">HBB", item, 1, 2) for item in items)
    inside = box(b"pitm", bytes(4) + struct.pack(">H", 1))
    inside += box(b"iloc", bytes(4) + b"\x44\0\0\1" + place)
    inside += box(b"iref", bytes(4) + box(b"cdsc", described))
    associations = box(b"ipma", bytes(4) + struct.pack(">I", pictures) + profiled)
    inside += box(b"iprp", properties + associations)
    return ftyp(b"heic", b"mif1", b"heic") + box(b"meta", bytes(4) + inside) + bytes(exif)


def test_metadata_that_are_copied_for_each_picture() -> None:
    """They are refused before the file is opened: 1 MB would take 900."""
    data = with_copies(900, 100_000, 50_000)
    assert metadata_bytes(data) == 901 * 100_000 + 900 * 50_000
    with pytest.raises(ImageUnreadable, match=r"about 135 MB .*: it has 135,100,000 bytes of meta"):
        check_work(opening_work("HEIF", data, LIMITS), Limits(image_pixels=1_000_000))
    many = box(b"meta", bytes(4) + box(b"iprp", box(b"ipma", bytes(2_000_000))))
    assert metadata_bytes(many) == 1 << 40
    check_work(opening_work("HEIF", with_copies(2, 100_000, 50_000), LIMITS), LIMITS)


@with_decoder
def test_part_that_is_larger_than_its_picture() -> None:
    """The memory is that of the part: 64 x 64 pixels may be cut from 4096 x 4096."""
    data = bytearray(heic(picture(64, 64)))
    with open_image(bytes(data), LIMITS) as image:
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", 4096, 4096)
        assert decoding_work(image, bytes(data)).bytes == 4096 * 4096 * 12


@with_decoder
def test_torn_heic() -> None:
    """It is read, or refused with a reason."""
    whole = heic(picture())
    reasons = []
    for place in range(0, len(whole), 5):
        for data in (whole[:place], whole[:place] + b"\xff" + whole[place + 1 :]):
            try:
                open_image(data, LIMITS)
            except ImageUnreadable as exc:
                reasons.append(str(exc))
    assert len(reasons) > 100
    assert all(reasons)
