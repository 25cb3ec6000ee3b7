"""Reads that take their time: each has a deadline, and none keeps a process from ending."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from recipes import a_recipe
from warmclip.activity import Stage
from warmclip.errors import ImageUnavailable, ImageUnreadable
from warmclip.inference import reading
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.decoding import Decoded, ImageSource, decode_each
from warmclip.inference.reading import FileReader, LazyImage
from warmclip.settings import Limits

SOON_S = 0.05


@pytest.fixture
def stalled() -> Iterator[int]:
    """A descriptor whose reads do not end, until the test is over."""
    from_it, to_it = os.pipe()
    yield from_it
    os.close(to_it)
    for thread in [it for it in threading.enumerate() if it.name == "warmclip-read"]:
        thread.join(30)
    os.close(from_it)


def test_result_and_error() -> None:
    """What the read returns or raises is what whoever waits gets."""
    with FileReader(Limits()) as reader:
        assert reader.read(lambda: b"bytes") == b"bytes"
        with pytest.raises(ZeroDivisionError):
            reader.read(lambda: 1 // 0)


def test_read_that_does_not_end(stalled: int) -> None:
    """It is given up, naming the setting; the next read is as quick as ever."""
    with FileReader(Limits()) as reader:
        with pytest.raises(ImageUnavailable, match=r"within 0\.05 s \(WARMCLIP_READ_SECONDS\)"):
            reader.read(lambda: os.read(stalled, 1), seconds=SOON_S)
        assert reader.read(lambda: b"bytes") == b"bytes"


def test_many_reads_that_do_not_end(stalled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process leaves a bounded number behind; it reads again when one of them has ended."""
    monkeypatch.setattr(reading, "MOST_STUCK", 2)
    goes_on = threading.Event()
    with FileReader(Limits()) as reader:
        for read in (lambda: os.read(stalled, 1), goes_on.wait):
            with pytest.raises(ImageUnavailable, match="did not arrive"):
                reader.read(read, seconds=SOON_S)
        for most in (2, 1):  # more may be left behind, if several were begun at once
            monkeypatch.setattr(reading, "MOST_STUCK", most)
            with pytest.raises(ImageUnavailable, match="2 reads of other files have not ended"):
                reader.read(lambda: b"never begun")
        monkeypatch.setattr(reading, "MOST_STUCK", 2)
        goes_on.set()
        while all(it.is_alive() for it in reading._stuck):
            time.sleep(0.01)
        assert reader.read(lambda: b"bytes") == b"bytes"


def close_while_it_reads(reader: FileReader, stalled: int) -> str:
    """Close a reader as soon as one waits for it; what that one is told."""
    begun = threading.Event()
    told: list[Exception] = []

    def read() -> bytes:
        begun.set()
        return os.read(stalled, 1)

    def wait() -> None:
        try:
            reader.read(read)
        except ImageUnavailable as exc:
            told.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(30)
    reader.close()
    waiting.join(30)
    return str(told[0])


def test_end_of_the_run(stalled: int) -> None:
    """Whoever waits is told at once, and nothing new is begun."""
    reader = FileReader(Limits())
    assert "the run was ended" in close_while_it_reads(reader, stalled)
    with pytest.raises(ImageUnavailable, match="the run was ended"):
        reader.read(lambda: b"bytes")


def test_reads_that_a_reader_left(stalled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reader that was closed they count as well, until they end."""
    monkeypatch.setattr(reading, "MOST_STUCK", 1)
    assert "the run was ended" in close_while_it_reads(FileReader(Limits()), stalled)
    with (
        FileReader(Limits()) as another,
        pytest.raises(ImageUnavailable, match="1 reads of other files have not ended"),
    ):
        another.read(lambda: b"never begun")


_STUCK = """
import os
from warmclip.errors import ImageUnavailable
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.decoding import decode_each
from warmclip.inference.reading import LazyImage
from warmclip.settings import Limits

stalled, _kept_open = os.pipe()
picture = LazyImage("stuck.jpg", lambda: os.read(stalled, 1))
recipe = ImageRecipe.model_validate_json({recipe!r})
{body}
print("ends", flush=True)
"""


@pytest.mark.parametrize(
    "body",
    [
        "from warmclip.inference.reading import FileReader\n"
        "try:\n    FileReader(Limits(read_s=1)).read(picture.read)\n"
        "except ImageUnavailable as exc:\n    print(exc)",
        "from warmclip.activity import Unwatched\n"
        "results = decode_each([(0, b''), (1, picture)], recipe, Limits(read_s=3600), ahead=8,"
        " activity=Unwatched())\n"
        "assert next(results)[0] == 0\nresults.close()",
    ],
    ids=["late", "a stream that is closed"],
)
def test_process_with_a_stuck_read(body: str) -> None:
    """It ends all the same."""
    done = subprocess.run(
        [sys.executable, "-c", _STUCK.format(body=body, recipe=a_recipe().model_dump_json())],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith("ends\n")


class Recorded:
    """An ``Activity`` that knows what goes on."""

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.now: list[str] = []
        self.ever: list[str] = []

    @contextmanager
    def during(
        self, stage: Stage, what: str, *, rows: int = 1, provider: str = ""
    ) -> Iterator[None]:
        """Note it."""
        del rows, provider
        self.now.append(f"{stage} {what}")
        self.ever.append(f"{stage} {what}")
        yield
        self.now.remove(f"{stage} {what}")


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_reading_is_not_announced_as_decoding(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, one_at_a_time: bool
) -> None:
    """Nobody takes a slow disk for a picture that hangs its decoder: files by path, and those that
    are read when it is their turn.
    """
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    activity = Recorded(one_at_a_time=one_at_a_time)
    real_read = os.read

    def read(descriptor: int, size: int) -> bytes:
        assert activity.now == []
        return real_read(descriptor, size)

    monkeypatch.setattr("warmclip.inference.reading.os.read", read)
    recipe = ModelBundle.open(demo_bundle).manifest.image
    for source in (
        str(path),
        LazyImage("lazy.png", lambda: reading.read_image_file(path, Limits())),
    ):
        sources: list[tuple[int, ImageSource]] = [(0, source)]
        ((_, result),) = decode_each(sources, recipe, Limits(), ahead=4, activity=activity)
        assert isinstance(result, Decoded)
    assert activity.ever == [f"decode {path}", "decode lazy.png"]


def test_file_that_does_not_arrive(demo_bundle: Path) -> None:
    """It costs itself: its neighbours are decoded, and it is told why it is not."""
    stalled, to_it = os.pipe()
    recipe = ModelBundle.open(demo_bundle).manifest.image
    png = _png()
    sources: list[tuple[int, ImageSource]] = [(number, png) for number in range(8)]
    sources[3] = (3, LazyImage("stuck.png", lambda: os.read(stalled, 1)))
    activity = Recorded(one_at_a_time=False)
    results = dict(decode_each(sources, recipe, Limits(read_s=1), ahead=4, activity=activity))
    os.close(to_it)
    stuck = results.pop(3)
    assert isinstance(stuck, ImageUnreadable)
    assert "did not arrive within 1 s" in str(stuck)
    assert all(isinstance(result, Decoded) for result in results.values())
    assert len(results) == 7


def test_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as soon as more than the limit came, not read to an end that runs away."""
    path = tmp_path / "log.png"
    path.write_bytes(bytes(1000))
    real_read, taken = os.read, 0

    def read(descriptor: int, size: int) -> bytes:
        nonlocal taken
        with path.open("ab") as stream:
            stream.write(bytes(1_000_000))
        assert taken < 10_000_000, "it would go on for ever"
        data = real_read(descriptor, size)
        taken += len(data)
        return data

    monkeypatch.setattr("warmclip.inference.reading.os.read", read)
    with pytest.raises(ImageUnreadable, match="more than the limit"):
        reading.read_image_file(path, Limits(image_bytes=2_000_000))
    assert taken < 4_000_000


def _png() -> bytes:
    out = BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def test_size_of_a_file(tmp_path: Path) -> None:
    """So many bytes are read, however many chunks they come in, and one more is refused."""
    path = tmp_path / "a.png"
    data = os.urandom(2_500_000)
    path.write_bytes(data)
    assert reading.read_image_file(path, Limits(image_bytes=2_500_000)) == data
    with pytest.raises(ImageUnreadable, match=r"has 2,500,000 bytes.*WARMCLIP_MAX_IMAGE_BYTES"):
        reading.read_image_file(path, Limits(image_bytes=2_499_999))


def test_descriptors_that_were_read(tmp_path: Path) -> None:
    """Each is closed again, also of a file that is refused."""
    (tmp_path / "a.png").write_bytes(b"png")
    before = set(Path("/dev/fd").iterdir())
    reading.read_image_file(tmp_path / "a.png", Limits())
    for refused in (tmp_path, tmp_path / "none"):
        with pytest.raises((ImageUnreadable, ImageUnavailable)):
            reading.read_image_file(refused, Limits())
    assert set(Path("/dev/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), "cannot be opened: No such file"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be opened: Permission denied"),
        (OSError(errno.ENXIO, "No such device"), "is a socket"),
        (OSError(errno.EOPNOTSUPP, "Not supported"), "is a socket"),
        (ValueError("embedded null byte"), "no file has such a name"),
    ],
)
def test_file_that_cannot_be_opened(error: OSError | ValueError, told: str) -> None:
    """Why not, in words."""
    assert told in str(reading.not_opened(error))


def test_name_that_no_file_can_have() -> None:
    """It is told as a file that is not there, not as a bug."""
    for name in ("/a\0b.png", "/a\ud800.png"):
        with pytest.raises(ImageUnavailable, match="no file has such a name"):
            reading.read_image_file(name, Limits())


def test_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason is told."""
    path = tmp_path / "a.png"
    path.write_bytes(b"png")

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("warmclip.inference.reading.os.read", fail)
    with pytest.raises(ImageUnavailable, match="cannot be read: Input/output error"):
        reading.read_image_file(path, Limits())


def test_file_that_grew_by_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read counts, not what its size was before."""
    path = tmp_path / "a.png"
    path.write_bytes(b"png")
    before = SimpleNamespace(st_mode=path.stat().st_mode, st_size=2)
    with monkeypatch.context() as patch:
        patch.setattr("warmclip.inference.reading.os.fstat", lambda _: before)
        assert reading.read_image_file(path, Limits(image_bytes=3)) == b"png"
        with pytest.raises(ImageUnreadable, match="has 3 bytes, more than the limit of 2"):
            reading.read_image_file(path, Limits(image_bytes=2))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (stat.S_IFDIR, "a directory"), (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFSOCK, "a socket"), (stat.S_IFCHR, "a character device"),
        (stat.S_IFBLK, "a block device"), (0, "something else"),
    ],
)  # fmt: skip
def test_what_is_no_file(kind: int, name: str) -> None:
    """It is called what it is."""
    assert reading.kind_of(kind | 0o644) == name


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer and a device without an end are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a named pipe"),
        ("/dev/zero", "a character device"),
        (tmp_path, "a directory"),
    ):
        with pytest.raises(ImageUnreadable, match=f"is {kind}, not a regular file"):
            reading.read_image_file(path, Limits())


@pytest.mark.parametrize(
    ("flags", "cloud_files", "is_read"),
    [(0, 0, True), (0x40000000, 0, False), (0x40000000, 1, True), (0x80000000, 0, True)],
)
def test_file_that_is_only_in_a_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, cloud_files: int, is_read: bool
) -> None:
    """It is not downloaded unless that is wanted."""
    path = tmp_path / "a.png"
    path.write_bytes(b"png")
    status = path.stat()
    flagged = SimpleNamespace(st_mode=status.st_mode, st_size=status.st_size, st_flags=flags)
    limits = Limits(cloud_files=cloud_files)
    with monkeypatch.context() as patch:
        patch.setattr("warmclip.inference.reading.os.fstat", lambda _: flagged)
        if is_read:
            assert reading.read_image_file(path, limits) == b"png"
            return
        with pytest.raises(ImageUnavailable, match="WARMCLIP_CLOUD_FILES=1"):
            reading.read_image_file(path, limits)


def test_bytes_without_a_name() -> None:
    """They are called by their digest, which no path is taken for."""
    name = reading.digest_name(b"png")
    assert name == f"sha256:{hashlib.sha256(b'png').hexdigest()}"
    assert reading.is_digest_name(name)
    for path in (name[:-1], f"{name}0", name.upper(), f"/{name}", "/a.jpg", ""):
        assert not reading.is_digest_name(path)
