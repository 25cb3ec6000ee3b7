"""Which file a path leads to, and the guard on what may be read."""

import os
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from warmclip.errors import ImageUnavailable, ImageUnreadable
from warmclip.indexing.files import (
    Location,
    is_file_gone,
    is_placeholder,
    is_respelled,
    locate_file,
    read_picture,
)
from warmclip.indexing.roots import Roots
from warmclip.indexing.walk import find_images
from warmclip.inference.reading import is_dataless, read_image_file
from warmclip.settings import Limits, Root

LIMITS = Limits()


def put(path: Path, content: bytes = b"picture") -> Path:
    """Write a file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def locate(path: str | Path, roots: Roots | None = None) -> Location:
    """Where a file is."""
    return locate_file(path, roots or Roots())


def read(path: str | Path, roots: Roots | None = None) -> tuple[Location, bytes]:
    """Where a file is, and what it holds."""
    return read_picture(locate(path, roots), roots or Roots(), LIMITS)


def unnamed(folder: Path) -> Roots:
    """One root without a name."""
    return Roots([Root(name="", folder=folder)])


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """It is found, located and read like any other."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    Path(os.fsdecode(name)).write_bytes(b"content")
    (path,) = find_images([tmp_path]).files
    location, content = read(path)
    assert content == b"content"
    assert os.fsencode(location.path).endswith(b"/caf\xe9.png")


def test_one_picture_by_many_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, with "..", through a linked folder or file: it has one id and one path."""
    path = put(tmp_path / "photos" / "a.png")
    put(tmp_path / "photos" / "sub" / "b.png")
    (tmp_path / "linked").symlink_to("photos")
    (tmp_path / "copy.png").symlink_to("linked/a.png")
    monkeypatch.chdir(tmp_path)
    spellings = [
        str(path),
        "photos/a.png",
        "./photos//a.png",
        "photos/sub/../a.png",
        "linked/a.png",
        "copy.png",
    ]
    found = {locate(spelling) for spelling in spellings}
    assert len(found) == 1
    assert locate("photos/sub/b.png") not in found


@pytest.mark.parametrize(
    "lead_out",
    [
        lambda root: root / ".." / "secret.png",
        lambda root: _link(root / "link.png", root.parent / "secret.png"),
        lambda root: _link(root / "folder", root.parent) / "secret.png",
        lambda root: root.parent / "secret.png",
        lambda root: root / "..",
        lambda root: root / "." / "..",
        lambda root: put(root.parent / f"{root.name}-2" / "a.png"),
    ],
    ids=[
        "dots",
        "link",
        "linked folder",
        "plain",
        "above",
        "here and above",
        "name with the root's as its start",
    ],
)
def test_path_that_leads_out_of_the_root(tmp_path: Path, lead_out: Callable[[Path], Path]) -> None:
    """It is refused, naming the roots, however it gets out."""
    root = tmp_path / "root"
    put(root / "in.png")
    put(tmp_path / "secret.png")
    path = lead_out(root)
    with pytest.raises(ImageUnreadable, match=r"outside the roots .*WARMCLIP_ROOTS"):
        locate(path, unnamed(root))
    assert read(root / "in.png", unnamed(root))[1] == b"picture"


def test_path_outside_the_root_that_does_not_exist(tmp_path: Path) -> None:
    """It is refused in the same words: nothing is told of what lies outside."""
    (tmp_path / "root").mkdir()
    for path in (tmp_path / "gone.png", tmp_path / "root" / ".." / "gone.png"):
        with pytest.raises(ImageUnreadable, match="outside the roots"):
            locate(path, unnamed(tmp_path / "root"))


def test_folder_replaced_by_a_link_that_leads_out(tmp_path: Path) -> None:
    """Between looking and reading: the file that was opened counts, and it is outside."""
    root = tmp_path / "root"
    located = locate(put(root / "folder" / "a.png"), unnamed(root))
    put(tmp_path / "secret" / "a.png", b"secret")
    (root / "folder").rename(tmp_path / "moved")
    (root / "folder").symlink_to(tmp_path / "secret")
    with pytest.raises(ImageUnreadable, match="outside the roots"):
        read_picture(located, unnamed(root), LIMITS)


@pytest.mark.parametrize("moved", ["another", "moved"])
def test_folder_replaced_by_a_link_that_stays_inside(tmp_path: Path, moved: str) -> None:
    """Between looking and reading: path and id are those of the file that was opened."""
    located = locate(put(tmp_path / "folder" / "a.png"))
    (tmp_path / "folder").rename(tmp_path / moved)
    (tmp_path / "folder").symlink_to(moved)
    location, _ = read_picture(located, Roots(), LIMITS)
    assert location == locate(tmp_path / moved / "a.png")
    assert location.id != located.id


def test_file_changed_between_looking_and_reading(tmp_path: Path) -> None:
    """What is told is what was read, and of the disk from which it was."""
    path = put(tmp_path / "a.png", b"one")
    located = replace(locate(path), device=-1)  # that was mounted there until now
    put(path, b"other")
    location, content = read_picture(located, Roots(), LIMITS)
    assert (location.size_bytes, content) == (5, b"other")
    assert location.mtime_ns == path.stat().st_mtime_ns
    assert location.device == path.stat().st_dev
    assert (location.id, location.path) == (located.id, located.path)


def _link(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    return link


def test_root_that_is_a_link(tmp_path: Path) -> None:
    """What lies in the folder it leads to is inside."""
    path = put(tmp_path / "disk" / "a.png")
    (tmp_path / "photos").symlink_to("disk")
    assert locate(path, unnamed(tmp_path / "photos")).path == os.path.realpath(path)


def test_no_regular_file(tmp_path: Path) -> None:
    """A FIFO, a socket, a folder, a device: each is refused with its kind, and none waits."""
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # macOS allows a socket 104 bytes of path
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
        for name, kind in {
            "fifo.png": "pipe",
            "socket.png": "socket",
            ".": "directory",
            "/dev/null": "character device",
        }.items():
            with pytest.raises(ImageUnreadable, match=kind):
                locate(tmp_path / name)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """It is refused with the system's reason, also when its name can be none."""
    with pytest.raises(ImageUnreadable, match="No such file"):
        locate(tmp_path / "gone.png")
    with pytest.raises(ImageUnreadable, match="name"):
        locate("a\0b.png")


def test_state_of_a_file(tmp_path: Path) -> None:
    """Its length and time of change are those of the file that was read, not of the link."""
    path = put(tmp_path / "a.png", b"12345")
    (tmp_path / "link.png").symlink_to(path)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    location, content = read(tmp_path / "link.png")
    assert (location.size_bytes, location.mtime_ns) == (5, 1_700_000_000_123_456_789)
    assert content == b"12345"


def test_file_replaced_between_opening_and_checking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one's bytes are taken for the other's."""
    path = put(tmp_path / "a.png", b"one")
    other = put(tmp_path / "b.png", b"other")
    located = locate(path)

    def open_and_replace(name: str) -> int:
        descriptor = os.open(name, os.O_RDONLY)
        # As over a network, where the system still tells the former path.
        monkeypatch.setattr("warmclip.indexing.files.descriptor_path", lambda _, path: path)
        other.replace(path)
        return descriptor

    monkeypatch.setattr("warmclip.indexing.files.open_file", open_and_replace)
    with pytest.raises(ImageUnavailable, match="moved or replaced"):
        read_picture(located, Roots(), LIMITS)


def test_file_deleted_between_opening_and_checking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as one that was replaced, not as one that may not be opened."""
    path = put(tmp_path / "a.png")
    located = locate(path)

    def open_and_delete(name: str) -> int:
        descriptor = os.open(name, os.O_RDONLY)
        path.unlink()
        return descriptor

    monkeypatch.setattr("warmclip.indexing.files.open_file", open_and_delete)
    with pytest.raises(ImageUnavailable, match="moved or replaced"):
        read_picture(located, Roots(), LIMITS)


def test_system_that_tells_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some file systems of macOS: the path without links counts, and the file behind it."""
    real = put(tmp_path / "folder" / "a.png")
    (tmp_path / "link").symlink_to("folder")

    def fail(*_: object) -> Path:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("warmclip.indexing.roots.Path.readlink", fail)
    monkeypatch.setattr("warmclip.indexing.roots.fcntl.fcntl", fail)
    location, content = read(tmp_path / "link" / "a.png")
    assert (location.path, content) == (os.path.realpath(real), b"picture")


@pytest.mark.parametrize(
    ("stored", "on_disk", "is_other"),
    [
        ("/p/a.png", "/p/a.png", False),
        ("/p/photo.jpg", "/p/Photo.JPG", True),
        ("/p/Trip/a.png", "/p/trip/a.png", True),
        ("/p/caf\u00e9.png", "/p/cafe\u0301.png", True),
        ("/p/cafe\u0301.png", "/p/CAF\u00c9.png", True),
        ("/p/stra\u00dfe.png", "/p/STRASSE.png", True),
        ("/p/a.png", "/p/b.png", False),  # another link of the file
        ("/p/a.png", "/q/a.png", False),
        ("/p/b.png", "/p/a.png", False),
        (os.fsdecode(b"/p/\xe9.png"), os.fsdecode(b"/p/\xe9.PNG"), True),
    ],
)
def test_respelled_path(stored: str, on_disk: str, is_other: bool) -> None:
    """Renamed in case or Unicode form only it is gone by its former name, and nothing else is."""
    assert is_respelled(stored, on_disk) is is_other
    assert not is_respelled(stored, "/".join(stored.split("/")))  # the same, in another str


@pytest.mark.skipif(sys.platform != "darwin", reason="Linux takes one spelling of a name only")
def test_file_renamed_in_case_only(tmp_path: Path) -> None:
    """It is gone by its former name, though the system still finds it."""
    path = put(tmp_path / "photo.jpg")
    path.rename(tmp_path / "Photo.JPG")
    assert is_file_gone(os.path.realpath(path))
    assert not is_file_gone(os.path.realpath(tmp_path / "Photo.JPG"))


def test_file_that_is_only_in_a_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused without a byte being read, naming what to set; unless that is set."""
    assert [is_dataless(flags) for flags in (0, 0x40, 0x40000000, 0x40000040)] == [
        *(False, False, True, True)
    ]
    path = put(tmp_path / "a.png")
    status = SimpleNamespace(st_mode=stat.S_IFREG, st_size=7, st_flags=0x40000000)
    reads: list[int] = []

    def read_nothing(descriptor: int, _: int) -> bytes:
        reads.append(descriptor)
        return b""

    with monkeypatch.context() as patch:
        patch.setattr("warmclip.inference.reading.os.fstat", lambda _: status)
        patch.setattr("warmclip.inference.reading.os.read", read_nothing)
        with pytest.raises(ImageUnavailable, match="WARMCLIP_CLOUD_FILES=1"):
            read_image_file(path, LIMITS)
        assert reads == []
        assert read_image_file(path, Limits(cloud_files=1)) == b""
        assert len(reads) == 1


def test_file_that_became_no_regular_file(tmp_path: Path) -> None:
    """A pipe or a folder in a file's place, between looking and reading, is refused."""
    for make, kind in ((os.mkfifo, "pipe"), (os.mkdir, "directory")):
        path = put(tmp_path / kind / "a.png")
        located = locate(path)
        path.unlink()
        make(path)
        with pytest.raises(ImageUnreadable, match=kind):
            read_picture(located, Roots(), LIMITS)


def test_gone(tmp_path: Path) -> None:
    """Only a file that is surely not there is gone; a dangling link is still something."""
    path = put(tmp_path / "a.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    assert not is_file_gone(str(path))
    assert not is_file_gone(str(tmp_path / "dangling.png"))
    assert not is_file_gone(str(tmp_path / ("x" * 300)))  # too long a name: the system cannot tell
    assert is_file_gone(str(tmp_path / "b.png"))
    put(tmp_path / ".b.png.icloud")
    assert not is_file_gone(str(tmp_path / "b.png"))  # macOS took it away from this disk only
    assert is_file_gone(str(path / "below-a-file.png"))
    assert is_file_gone("/no\0name.png")  # which others may have stored
    assert is_file_gone("/no\ud800name.png")


def test_placeholder() -> None:
    """It has the name of a file in it, between the dot and the suffix."""
    names = [".a.icloud", ".a.jpg.icloud", "..icloud", ".icloud", "a.icloud", ".a.icloudx"]
    assert [is_placeholder(name) for name in names] == [True, True, False, False, False, False]
