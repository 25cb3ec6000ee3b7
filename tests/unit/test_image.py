"""Reading, decoding, cropping and normalising one picture."""

import io
import os
import random
import re
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile

from recipes import a_recipe
from warmclip.errors import ImageUnreadable
from warmclip.inference import image as image_module
from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.image import (
    keep_decoder_memory,
    make_crop,
    normalise,
    open_decoded,
    open_image,
)
from warmclip.inference.pillow_flags import own_flags
from warmclip.inference.reading import read_descriptor, read_image_file
from warmclip.inference.resizing import resized_size
from warmclip.settings import Limits

LIMITS = Limits()
ORIENTATION = 0x0112
POOL = Image.core  # type: ignore[attr-defined]  # a name that Pillow's own stubs leave out


def noise(width: int = 31, height: int = 23, seed: int = 0) -> Image.Image:
    """A picture that no two readings would give by chance."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size, one byte a pixel, with next to no data in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)


def refused(source: Path | bytes, limits: Limits = LIMITS) -> str:
    """The reason for which a source is refused."""
    with pytest.raises(ImageUnreadable) as caught:
        open_image(source, limits)
    return str(caught.value)


def test_every_kind_of_source(tmp_path: Path) -> None:
    """A path, its text, bytes in any holder and a Pillow image all give the picture."""
    data = encoded(noise())
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data), noise()):
        opened = open_image(source, LIMITS)
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000"])
def test_every_lossless_format(kind: str) -> None:
    """Each format is read as Pillow reads it."""
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(noise(), kind, **options)
    with Image.open(io.BytesIO(data)) as expected:
        opened = open_image(data, LIMITS)
        assert (opened.format, opened.mode) == (kind, expected.mode)
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))


def test_animation() -> None:
    """An animation gives its first frame."""
    frames = [noise(seed=index).quantize(8) for index in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    opened = open_image(data, LIMITS).convert("RGB")
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(frames[0].convert("RGB")))


def test_postscript_is_no_picture_here() -> None:
    """A format whose reader starts a program is not asked."""
    assert "no picture in a format that is read here" in refused(encoded(noise(), "EPS"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"x", "is no picture in a format that is read here"),
        (b"hello, I am a text", "is no picture in a format that is read here"),
        (b"\0" * 4096, "is no picture in a format that is read here"),
        (encoded(noise())[:-40], "is truncated"),
        (encoded(noise(200, 200), "JPEG")[:900], "is truncated"),
        (encoded(noise(), "PNG")[:20], "cannot be decoded as PNG"),
        (encoded(noise(), "WEBP")[:40], "cannot be decoded as WEBP"),
    ],
)
def test_bytes_that_are_no_whole_picture(data: bytes, reason: str) -> None:
    """Bytes without a whole picture in them are refused with a reason for people."""
    assert refused(data).startswith(reason)


def test_more_pixels_than_the_limit() -> None:
    """A bomb is refused by its header: decoding this one would say that it is truncated."""
    assert refused(png_header(20_000, 20_000)) == (
        "has 400,000,000 pixels, more than the limit of 210,000,000 (WARMCLIP_MAX_IMAGE_PIXELS)"
    )
    with pytest.raises(ImageUnreadable, match="has 713 pixels, more than the limit of 712"):
        open_image(noise(), Limits(image_pixels=712))
    assert open_image(noise(), Limits(image_pixels=713)).size == (31, 23)


def test_limit_above_pillows_own() -> None:
    """It holds, and so does one that the user raised: Pillow's neither warns nor refuses."""
    assert refused(png_header(16_384, 12_288)).startswith("is truncated")  # a phone's 200 MP
    assert refused(png_header(10_000, 9_500)).startswith("is truncated")
    assert refused(png_header(20_000, 9_500), Limits(image_pixels=10**9)).startswith("is truncated")


def test_frame_larger_than_its_animation_says() -> None:
    """A bomb inside a frame, which only Pillow's reader sees, is refused as well."""
    data = bytearray(encoded(noise().quantize(4), "GIF"))
    frame = data.index(b"\x2c", 13 + 3 * 4)
    struct.pack_into("<HH", data, frame + 5, 60_000, 60_000)
    assert re.match("cannot be decoded as GIF|has 3,600,000,000 pixels", refused(bytes(data)))


def test_more_bytes_than_the_limit(tmp_path: Path) -> None:
    """The bound on bytes holds for files and for bytes, and names its variable."""
    data = encoded(noise())
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (path, data):
        reason = refused(source, Limits(image_bytes=len(data) - 1))
        assert reason.endswith(f"the limit of {len(data) - 1:,} (WARMCLIP_MAX_IMAGE_BYTES)")
        assert open_image(source, Limits(image_bytes=len(data))).size == (31, 23)


def test_missing_file(tmp_path: Path) -> None:
    """A path that leads nowhere is a reason, not a traceback."""
    assert refused(tmp_path / "gone.png") == "cannot be opened: No such file or directory"
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "x.png") == "cannot be opened: Not a directory"
    assert refused(tmp_path / "nul\0.png") == "cannot be opened: no file has such a name"
    (tmp_path / "loop").symlink_to("loop")
    assert refused(tmp_path / "loop").startswith("cannot be opened: Too many levels")


def test_file_without_permission(unprivileged: Path) -> None:
    """A file that may not be read says so."""
    path = unprivileged / "secret.png"
    path.write_bytes(encoded(noise()))
    path.chmod(0)
    assert refused(path) == "cannot be opened: Permission denied"


def make_socket(path: Path) -> None:
    """Bind by a short relative name: macOS allows a socket's path 104 bytes."""
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "is a directory, not a regular file"),
        (os.mkfifo, "is a named pipe, not a regular file"),
        (make_socket, "is a socket, not a regular file"),
        (lambda path: path.symlink_to(os.devnull), "is a character device, not a regular file"),
        (Path.touch, "is empty (0 bytes)"),
    ],
    ids=["directory", "fifo", "socket", "device", "empty"],
)
def test_what_is_no_regular_file(
    make: Callable[[Path], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused at once: nobody ever writes to this FIFO, and nothing waits for them."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "picture.png"
    make(path)
    answer: list[str] = []
    reader = threading.Thread(target=lambda: answer.append(refused(path)), daemon=True)
    reader.start()
    reader.join(timeout=10)
    assert answer == [reason]


def test_descriptors_stay_balanced(tmp_path: Path) -> None:
    """Our descriptor is closed whatever happens; a caller's is left open."""
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(noise()))
    before = os.dup(0)
    os.close(before)
    assert read_image_file(path, LIMITS) == path.read_bytes()
    refused(tmp_path)
    refused(path, Limits(image_bytes=1))
    descriptor = os.open(path, os.O_RDONLY)
    assert descriptor == before, "the lowest free number is free again"
    assert read_descriptor(descriptor, LIMITS) == path.read_bytes()
    os.close(descriptor)


@pytest.mark.parametrize("growth", [1, 7])
def test_file_that_grows_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growth: int
) -> None:
    """A file that was small enough when it was opened, and is written to ever faster than it is
    read, is given up at the limit, not read for ever.
    """
    path = tmp_path / "picture.png"
    path.write_bytes(b"x")
    limits = Limits(image_bytes=3 * 1024 * 1024)
    real, read_bytes = os.read, [0]

    def read(descriptor: int, count: int) -> bytes:
        with path.open("ab") as stream:
            stream.write(b"x" * growth * count)
        chunk = real(descriptor, count)
        read_bytes[0] += len(chunk)
        assert read_bytes[0] < 10 * limits.image_bytes, "it is read without end"
        return chunk

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(ImageUnreadable, match=r"more than the limit of 3,145,728 \(WARMCLIP_MAX"):
        read_image_file(path, limits)
    assert read_bytes[0] <= limits.image_bytes + 1024 * 1024


def test_large_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is enough: not one byte of it is read."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"x" * 1000)
    monkeypatch.setattr(os, "read", None)
    assert refused(path, Limits(image_bytes=999)).startswith("has 1,000 bytes, more than")


def test_what_is_no_source() -> None:
    """An object of another type is that item's fault alone."""
    with pytest.raises(ImageUnreadable, match="is of type int, not a path"):
        open_image(3, LIMITS)  # type: ignore[arg-type]  # what a caller without mypy would do


@pytest.mark.parametrize("rule", ["full", "scaled"])
def test_hostile_bytes(rule: str) -> None:
    """Mutated files are read or refused; no other error ever leaves."""
    seeds = [
        encoded(image, kind, **options)
        for image, kind, options in [
            (noise(), "PNG", {}),
            (noise().quantize(16), "PNG", {}),
            (noise(), "JPEG", {}),
            (noise().convert("CMYK"), "JPEG", {}),
            (noise(), "GIF", {}),
            (noise(), "WEBP", {}),
            (noise(), "TIFF", {"compression": "tiff_lzw"}),
            (noise().quantize(16), "TIFF", {}),
            (noise(), "BMP", {}),
            (noise().quantize(16), "BMP", {}),
            (noise(), "PPM", {}),
            (noise(), "TGA", {}),
        ]
    ]
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    seeds.append(encoded(noise(), "JPEG", exif=exif))
    rng = random.Random(0)
    limits = Limits(image_pixels=100_000)
    recipe = a_recipe(2, exif="transpose", decode=rule)  # so small that all pictures are large
    read = 0
    reasons = []
    for turn in range(4000):
        data = mutated(seeds[turn % len(seeds)], rng)
        try:
            with open_decoded(data, recipe, limits) as (picture, size):
                make_crop(picture, recipe, limits, whole=size)
            read += 1
        except ImageUnreadable as exc:
            reasons.append(str(exc))
    assert read > 500
    assert len(reasons) > 500
    assert all(reasons)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, delete or cut a few bytes, mostly in the header."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(min(len(changed), rng.choice((64, 200, 10_000))) or 1)
        action = rng.random()
        if action < 0.7:
            changed[place : place + 1] = bytes([rng.choice((0, 1, 127, 128, 255))])
        elif action < 0.9:
            del changed[place : place + rng.randrange(1, 30)]
        else:
            del changed[max(place, 1) :]
    return bytes(changed)


def test_one_lazy_picture_in_many_threads() -> None:
    """A caller may name the same lazy picture twice in one call."""
    data = encoded(noise(1500, 1500), "JPEG")
    for _ in range(5):
        with Image.open(io.BytesIO(data)) as lazy, ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda image: open_image(image, LIMITS), [lazy] * 8))
            assert all(image is lazy for image in opened)


def test_large_pictures_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large pictures a process holds one at a time; small ones pass meanwhile."""
    monkeypatch.setattr(image_module, "_LARGE_PIXELS", 100)
    large, small = encoded(noise(40, 40)), encoded(noise(10, 10))

    def decode(data: bytes) -> tuple[int, int]:
        with open_decoded(data, a_recipe(), LIMITS) as (picture, _size):
            return picture.size

    with ThreadPoolExecutor(2) as pool:
        with open_decoded(large, a_recipe(), LIMITS):
            waiting = pool.submit(decode, large)
            assert pool.submit(decode, small).result(30) == (10, 10)
            assert not waiting.done()
        assert waiting.result(30) == (40, 40)


def test_memory_is_kept_while_it_is_used() -> None:
    """A second picture takes the memory of the first; in the end, all of it is given back."""
    data = encoded(noise(2500, 2500), "JPEG")
    with keep_decoder_memory():
        open_image(data, LIMITS)
        with keep_decoder_memory():
            before = POOL.get_stats()
            open_image(data, LIMITS)
        assert POOL.get_stats()["reused_blocks"] > before["reused_blocks"]
        assert POOL.get_stats()["blocks_cached"] > 0
    assert POOL.get_stats()["blocks_cached"] == POOL.get_blocks_max() == 0


def test_memory_that_the_user_keeps() -> None:
    """Who told Pillow how much to keep is obeyed."""
    POOL.set_blocks_max(3)
    try:
        with keep_decoder_memory():
            assert POOL.get_blocks_max() == 3
        assert POOL.get_blocks_max() == 3
    finally:
        POOL.set_blocks_max(0)


FLAGS = (
    (ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    (Image, "MAX_IMAGE_PIXELS", 10),
    (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_ALWAYS),
)


@pytest.fixture
def flags_of_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's, as a user's job may set them when it is imported."""
    for module, name, value in FLAGS:
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("flags_of_an_application")
def test_flags_that_an_application_has_set() -> None:
    """They change nothing here, on however many threads, and the application finds them again."""
    cut = encoded(noise(200, 200), "JPEG")[:-500]
    gif = encoded(noise().quantize(16), "GIF")

    def decode(turn: int) -> str:
        if turn % 2:
            with open_decoded(gif, a_recipe(), LIMITS) as (picture, _):
                make_crop(picture, a_recipe(), LIMITS)
                return picture.mode
        return refused(cut)[:12]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(decode, range(100))) == {"is truncated", "P"}
    for module, name, value in FLAGS:
        assert getattr(module, name) == value


def load_and_crop(data: bytes, recipe: ImageRecipe) -> Crop | None:
    """A crop of a picture's bytes; None if they are refused."""
    try:
        with open_decoded(data, recipe, LIMITS) as (picture, _):
            return make_crop(picture, recipe, LIMITS)
    except ImageUnreadable:
        return None


def load_and_crop_as_pillow(
    data: bytes, recipe: ImageRecipe, monkeypatch: pytest.MonkeyPatch
) -> Crop | None:
    """What an application has of it that sets Pillow's flag; None if Pillow raises all the same."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            return make_crop(opened, recipe, LIMITS)
    except (OSError, SyntaxError, ValueError):
        return None
    finally:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@pytest.mark.parametrize("order", ["after_crop", "before_resize"])
@pytest.mark.parametrize(
    ("kind", "options", "at_least"),
    [
        ("JPEG", {}, 5),
        ("JPEG", {"progressive": True}, 5),
        ("PNG", {}, 6),
        ("WEBP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 1),
        ("TIFF", {}, 0),
        ("BMP", {}, 1),
    ],
)
def test_truncated_pictures_are_loaded_as_pillow_loads_them(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: dict[str, object],
    at_least: int,
    order: str,
) -> None:
    """By a recipe that says so, wherever they were cut; by another one they are refused."""
    refusing = a_recipe().model_copy(update={"rgb_conversion": order})
    loading = refusing.model_copy(update={"truncated": "load"})
    picture = noise(300, 260).quantize(64) if kind == "PNG" else noise(300, 260)
    whole = encoded(picture, kind, **options)
    loaded = 0
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999):
        cut = whole[: int(share * len(whole))]
        expected = load_and_crop_as_pillow(cut, loading, monkeypatch)
        got = load_and_crop(cut, loading)
        assert (got is None) == (expected is None), share
        if got is not None and expected is not None:
            np.testing.assert_array_equal(got, expected)
            loaded += 1
        assert load_and_crop(cut, refusing) is None
    assert loaded >= at_least
    np.testing.assert_array_equal(load_and_crop(whole, loading), load_and_crop(whole, refusing))


def test_recipes_that_differ_on_truncated_pictures() -> None:
    """Pillow's flag is one for the process: neither sees the other's, on however many threads."""
    recipes = [a_recipe(), a_recipe().model_copy(update={"truncated": "load"})]
    cut = encoded(noise(200, 200), "JPEG")[:-500]
    with ThreadPoolExecutor(4) as pool:
        crops = list(pool.map(lambda turn: load_and_crop(cut, recipes[turn % 2]), range(200)))
    assert all(crop is None for crop in crops[::2])
    assert all(crop is not None for crop in crops[1::2])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("of_the_application", [False, True])
def test_truncated_pictures_of_several_bundles_at_once(
    monkeypatch: pytest.MonkeyPatch, of_the_application: bool
) -> None:
    """Neither waits for the other's pictures, and an application has its own way."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", of_the_application)
    cut = encoded(noise(200, 200), "JPEG")[:-500]
    both = threading.Barrier(3, timeout=20.0)

    def loads(flags: AbstractContextManager[None]) -> bool:
        with flags:
            both.wait()  # while the others are inside as well
            try:
                Image.open(io.BytesIO(cut)).load()
            except OSError:
                return False
            finally:
                both.wait()
            return True

    with ThreadPoolExecutor(3) as pool:
        ways = [own_flags(), own_flags(load_truncated=True), nullcontext()]
        assert list(pool.map(loads, ways)) == [False, True, of_the_application]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is of_the_application


def test_flag_that_is_set_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sets one while pictures are decoded keeps it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with own_flags():
        ImageFile.LOAD_TRUNCATED_IMAGES = True
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.usefixtures("flags_of_an_application")
def test_picture_that_an_application_opened() -> None:
    """It is loaded as the application would load it: half of it, if that is what it wants."""
    Image.MAX_IMAGE_PIXELS = None
    cut = encoded(noise(200, 200), "JPEG")[:-500]
    with Image.open(io.BytesIO(cut)) as lazy:
        assert open_image(lazy, LIMITS).size == (200, 200)


def test_small_pictures_are_decoded_side_by_side() -> None:
    """Only pictures that the caller opened take turns, and only for loading."""
    data = encoded(noise())
    with ThreadPoolExecutor(1) as pool, open_decoded(data, a_recipe(), LIMITS):
        assert pool.submit(lambda: open_image(data, LIMITS).size).result(30) == (31, 23)


def test_lazy_picture_that_was_closed() -> None:
    """A picture closed before it was read is refused."""
    with Image.open(io.BytesIO(encoded(noise()))) as lazy:
        pass
    with pytest.raises(ImageUnreadable, match="cannot be decoded"):
        open_image(lazy, LIMITS)


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("shortest", (640, 480), (298, 224)),
        ("shortest", (480, 640), (224, 298)),
        ("shortest", (224, 230), (224, 230)),  # 230 / 224 * 224 would be cut to 229
        ("shortest", (1, 3), (224, 672)),
        ("longest", (640, 480), (224, 168)),
        ("longest", (3, 1), (224, 75)),
        ("squash", (640, 480), (224, 224)),
    ],
)
def test_resized_size(mode: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The size before the crop follows the recipe's mode."""
    assert resized_size(size, a_recipe(224, resize_mode=mode)) == expected


@pytest.mark.parametrize(("side", "left"), [(8, 0), (9, 0), (10, 1), (11, 2), (12, 2), (15, 4)])
def test_centre(side: int, left: int) -> None:
    """The cut is torchvision's: half a pixel is rounded to even."""
    columns = np.broadcast_to(np.arange(side, dtype=np.uint8), (8, side))
    cut = make_crop(Image.fromarray(np.ascontiguousarray(columns)), a_recipe(8), LIMITS)
    assert cut.shape == (8, 8, 3)
    assert cut[0, 0].tolist() == [left] * 3


def test_palette_picture() -> None:
    """Resizing precedes RGB: a palette picture keeps its own colours, and nothing warns."""
    image = noise(40, 40).quantize(4)
    image.info["transparency"] = bytes([9, 90, 190, 255])
    palette = {
        tuple(colour) for colour in np.asarray(image.convert("RGBA"))[..., :3].reshape(-1, 3)
    }
    cut = make_crop(open_image(encoded(image), LIMITS), a_recipe(), LIMITS)
    assert {tuple(colour) for colour in cut.reshape(-1, 3)} <= palette


def test_longest_is_padded_with_the_fill() -> None:
    """A picture that was fitted in whole is surrounded, the odd row below."""
    image = Image.new("RGB", (16, 10), (10, 20, 30))
    cut = make_crop(image, a_recipe(8, resize_mode="longest", fill=7), LIMITS)
    assert cut[:, 0].tolist() == [[7] * 3] + [[10, 20, 30]] * 5 + [[7] * 3] * 2


def test_panorama_past_the_limit() -> None:
    """A picture that would grow past the limit is refused before it grows."""
    with pytest.raises(ImageUnreadable) as caught:
        make_crop(Image.new("L", (1, 100_000)), a_recipe(224), LIMITS)
    assert str(caught.value) == (
        "would be 224 x 22,400,000 pixels after resizing, the limit is 16,384 a side "
        "(WARMCLIP_MAX_RESIZED_SIDE)"
    )
    assert make_crop(Image.new("L", (1, 73)), a_recipe(224), LIMITS).shape == (224, 224, 3)


def test_mode_that_cannot_become_rgb() -> None:
    """A mode that open_clip cannot take is refused by its name."""
    with pytest.raises(ImageUnreadable, match="of mode La cannot be made a crop"):
        make_crop(Image.new("La", (20, 20)), a_recipe(), LIMITS)


def test_orientation() -> None:
    """The orientation tag is ignored as open_clip ignores it, and followed by request."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    upright = noise(20, 20)
    image = open_image(encoded(upright, "PNG", exif=exif), LIMITS)
    turned = upright.transpose(Image.Transpose.ROTATE_270)
    for rule, expected in (("ignore", upright), ("transpose", turned)):
        np.testing.assert_array_equal(
            make_crop(image, a_recipe(exif=rule), LIMITS), make_crop(expected, a_recipe(), LIMITS)
        )


def test_tags_that_are_damaged() -> None:
    """They are no reason to leave a picture out: it is taken as it lies."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    tags = exif.tobytes().replace(b"MM\0*", b"MM\0?")
    upright = noise(20, 20)
    image = open_image(encoded(upright, "PNG", exif=tags), LIMITS)
    np.testing.assert_array_equal(
        make_crop(image, a_recipe(exif="transpose"), LIMITS),
        make_crop(upright, a_recipe(), LIMITS),
    )


def test_normalise() -> None:
    """Channels come first, each by its own mean and deviation."""
    one = np.zeros((8, 8, 3), np.uint8)
    one[0, 1] = 255
    pixels = normalise([one, one], a_recipe())
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels.dtype == np.float32
    assert pixels[1, :, 0, 0].tolist() == [-1.0, -1.0, 0.0]
    assert pixels[1, :, 0, 1].tolist() == [1.0, 3.0, 1.0]
    np.testing.assert_array_equal(normalise(np.stack([one, one]), a_recipe()), pixels)


def test_normalise_nothing() -> None:
    """No crops make no pixels, in the right shape."""
    assert normalise([], a_recipe()).shape == (0, 3, 8, 8)
    assert normalise(np.empty((0, 8, 8, 3), np.uint8), a_recipe()).shape == (0, 3, 8, 8)
