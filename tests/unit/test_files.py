"""Finding files, their ids, and the guard on what may be read."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import (
    canonical_folder,
    canonical_roots,
    find_images,
    is_gone,
    locate,
    point_id,
    read_picture,
)
from warmclip.settings import Limits, Root

LIMITS = Limits()


def put(path: Path, content: bytes = b"picture") -> Path:
    """Write a file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def roots(**folders: Path) -> tuple[Root, ...]:
    """Named roots, as given to ``locate``."""
    return canonical_roots([Root(name=name, folder=it) for name, it in folders.items()])


def unnamed(folder: Path) -> tuple[Root, ...]:
    """One root without a name."""
    return canonical_roots([Root(name="", folder=folder)])


def test_folder(tmp_path: Path) -> None:
    """It is searched to any depth, in sorted order, for names with an image suffix."""
    expected = [
        put(tmp_path / name)
        for name in ("B.JPG", "z.webp", "a/2.png", "a/deep/er/x.tiff", "b/1.gif")
    ]
    for name in ("notes.txt", "a/.hidden.jpg", "a/._2.png", "clip.mp4", "noext"):
        put(tmp_path / name)
    found = find_images([tmp_path])
    assert found.files == tuple(str(path) for path in expected)
    assert found.ignored == 5
    assert found.problems == {}


def test_hidden_folder(tmp_path: Path) -> None:
    """It is not entered, but it may be named."""
    inside = put(tmp_path / ".cache" / "a.png")
    assert find_images([tmp_path]).files == ()
    assert find_images([tmp_path / ".cache"]).files == (str(inside),)


def test_named_file(tmp_path: Path) -> None:
    """It is taken whatever its name is."""
    path = put(tmp_path / ".scan.dat")
    assert find_images([path]).files == (str(path),)


def test_missing_path(tmp_path: Path) -> None:
    """It is told, and the others are found nevertheless."""
    there = put(tmp_path / "there.png")
    found = find_images([tmp_path / "gone", there, "nul\0.png"])
    assert found.files == (str(there),)
    assert set(found.problems) == {str(tmp_path / "gone"), "nul\0.png"}


def test_path_named_twice(tmp_path: Path) -> None:
    """It is found once."""
    path = put(tmp_path / "a.png")
    assert find_images([path, path, tmp_path]).files == (str(path),)


def test_pattern(tmp_path: Path) -> None:
    """It means what the shell would have made of it, "**" included."""
    for name in ("1.png", "2.png", "3.txt", "sub/4.png", "sub/deep/5.png"):
        put(tmp_path / name)
    found = find_images([f"{tmp_path}/?.png", f"{tmp_path}/**/5.png", f"{tmp_path}/*.bmp"])
    assert [Path(path).name for path in found.files] == ["1.png", "2.png", "5.png"]
    assert found.problems == {f"{tmp_path}/*.bmp": "no file matches this pattern"}


def test_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    """An existing file is taken by its name."""
    path = put(tmp_path / "photo[1].jpg")
    put(tmp_path / "photo1.jpg")
    assert find_images([path]).files == (str(path),)


def test_links(tmp_path: Path) -> None:
    """Links to files are taken; links to folders are not followed, so that a loop ends."""
    put(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to("a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    (tmp_path / "in" / "folder.jpg").symlink_to(tmp_path)
    found = find_images([tmp_path])
    assert [Path(path).name for path in found.files] == ["a.png", "b.png"]
    assert found.ignored == 2


def test_unreadable_folder(unprivileged: Path) -> None:
    """It is told with its reason; its neighbours are found."""
    closed = put(unprivileged / "closed" / "a.png").parent
    put(unprivileged / "open" / "b.png")
    closed.chmod(0)
    try:
        found = find_images([unprivileged])
    finally:
        closed.chmod(0o700)
    assert [Path(path).name for path in found.files] == ["b.png"]
    assert "Permission denied" in found.problems[str(closed)]


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """It is found, located and read like any other."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    Path(os.fsdecode(name)).write_bytes(b"content")
    (path,) = find_images([tmp_path]).files
    location, content = read_picture(path, (), LIMITS)
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
    found = {locate(spelling, ()) for spelling in spellings}
    assert len(found) == 1
    assert locate("photos/sub/b.png", ()) not in found


def test_named_root_mounted_elsewhere(tmp_path: Path) -> None:
    """Hosts with different mount points give a picture the same id; another name another id."""
    here = put(tmp_path / "mnt" / "photos" / "2024" / "a.png")
    there = put(tmp_path / "Volumes" / "p" / "2024" / "a.png")
    first = locate(here, roots(photos=tmp_path / "mnt" / "photos"))
    second = locate(there, roots(photos=tmp_path / "Volumes" / "p"))
    assert first.id == second.id
    assert first.path != second.path
    assert locate(here, roots(scans=tmp_path / "mnt" / "photos")).id != first.id
    assert locate(here, unnamed(tmp_path / "mnt")).id == locate(here, ()).id != first.id


def test_nested_roots(tmp_path: Path) -> None:
    """The innermost one names the picture."""
    path = put(tmp_path / "all" / "photos" / "a.png")
    both = roots(all=tmp_path / "all", photos=tmp_path / "all" / "photos")
    assert locate(path, both).id == locate(path, roots(photos=tmp_path / "all" / "photos")).id


def test_id_for_good() -> None:
    """It never changes between releases, or every collection would double."""
    named = (Root(name="photos", folder=Path("/mnt/photos")),)
    assert point_id("/photos/a.png", ()) == "b479d391-f240-5a81-9999-e18e0cdfd481"
    assert point_id("/mnt/photos/a.png", named) == "458e9774-1520-566f-8c69-fb213cfa5725"


@given(
    st.lists(
        st.binary(min_size=1, max_size=12).filter(lambda it: b"/" not in it and b"\0" not in it),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_ids_of_different_names(names: list[bytes]) -> None:
    """Any two names of bytes have two ids, under a root and without."""
    first, second = (os.fsdecode(b"/r/" + name) for name in names)
    named = (Root(name="r", folder=Path("/r")),)
    ids = {point_id(first, ()), point_id(second, ()), point_id(first, named)}
    ids.add(point_id(second, named))
    assert len(ids) == 4


@pytest.mark.parametrize(
    "lead_out",
    [
        lambda root: root / ".." / "secret.png",
        lambda root: _link(root / "link.png", root.parent / "secret.png"),
        lambda root: _link(root / "folder", root.parent) / "secret.png",
        lambda root: root.parent / "secret.png",
        lambda root: put(root.parent / f"{root.name}-2" / "a.png"),
    ],
    ids=["dots", "link", "linked folder", "plain", "name with the root's as its start"],
)
def test_path_that_leads_out_of_the_root(tmp_path: Path, lead_out: Callable[[Path], Path]) -> None:
    """It is refused, naming the roots, however it gets out."""
    root = tmp_path / "root"
    put(root / "in.png")
    put(tmp_path / "secret.png")
    path = lead_out(root)
    for attempt in (
        lambda: locate(path, unnamed(root)),
        lambda: read_picture(path, unnamed(root), LIMITS),
    ):
        with pytest.raises(ImageUnreadable, match=r"outside the roots .*WARMCLIP_ROOTS"):
            attempt()
    assert read_picture(root / "in.png", unnamed(root), LIMITS)[1] == b"picture"


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
                read_picture(tmp_path / name, (), LIMITS)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """It is refused with the system's reason, also when its name can be none."""
    with pytest.raises(ImageUnreadable, match="No such file"):
        locate(tmp_path / "gone.png", ())
    with pytest.raises(ImageUnreadable, match="name"):
        locate("a\0b.png", ())


def test_state_of_a_file(tmp_path: Path) -> None:
    """Its length and time of change are those of the file that was read, not of the link."""
    path = put(tmp_path / "a.png", b"12345")
    (tmp_path / "link.png").symlink_to(path)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    location, content = read_picture(tmp_path / "link.png", (), LIMITS)
    assert (location.size_bytes, location.mtime_ns) == (5, 1_700_000_000_123_456_789)
    assert content == b"12345"


def test_gone(tmp_path: Path) -> None:
    """Only a file that is surely not there is gone; a dangling link is still something."""
    path = put(tmp_path / "a.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    assert not is_gone(str(path))
    assert not is_gone(str(tmp_path / "dangling.png"))
    assert not is_gone(str(tmp_path / ("x" * 300)))  # too long a name: the system cannot tell
    assert is_gone(str(tmp_path / "b.png"))
    assert is_gone(str(path / "below-a-file.png"))


def test_canonical_folder(tmp_path: Path) -> None:
    """A linked folder's is where it leads; a missing one's is its own path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert canonical_folder(tmp_path / "link") == os.path.realpath(tmp_path / "real")
    assert canonical_folder(tmp_path / "none") == os.path.realpath(tmp_path) + "/none"
