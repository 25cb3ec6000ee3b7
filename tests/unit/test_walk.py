"""Finding pictures in files, folders and patterns."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from warmclip.indexing.walk import Walk, find_images


def put(path: Path, content: bytes = b"picture") -> Path:
    """Write a file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


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
    assert found.ignored == {".txt": 1, "hidden": 2, ".mp4": 1, "without suffix": 1}
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
    missing = [str(tmp_path / "gone"), str(there / "below-a-file.png"), "nul\0*.png"]
    found = find_images([*missing, there])
    assert found.files == (str(there),)
    assert found.problems == dict.fromkeys(missing, "no such file or folder")


def test_path_named_twice(tmp_path: Path) -> None:
    """It is found once."""
    path = put(tmp_path / "a.png")
    assert find_images([path, path, tmp_path]).files == (str(path),)


def test_placeholders_of_icloud(tmp_path: Path) -> None:
    """What is in iCloud only is counted, by itself."""
    for name in (".a.heic.icloud", ".b.jpg.icloud", ".icloud", ".c.png", "d.icloud"):
        put(tmp_path / name)
    found = find_images([tmp_path])
    assert (found.files, found.ignored) == ((), {"only in iCloud": 2, "hidden": 2, ".icloud": 1})


def test_several_folders(tmp_path: Path) -> None:
    """What was passed by in each is counted by its kind, all together."""
    for name in ("a/1.mov", "a/2.MOV", "b/3.mov", "b/4.psd"):
        put(tmp_path / name)
    assert find_images([tmp_path / "a", tmp_path / "b"]).ignored == {".mov": 3, ".psd": 1}


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
    assert found.ignored == {"linked": 2}


def test_unreadable_folder(unprivileged: Path) -> None:
    """It is told with its reason; its neighbours are found."""
    closed = put(unprivileged / "closed" / "a.png").parent
    put(unprivileged / "open" / "b.png")
    closed.chmod(0)
    try:
        found = find_images([unprivileged])
        named = find_images([closed / "a.png"])
    finally:
        closed.chmod(0o700)
    assert named.problems == {str(closed / "a.png"): "cannot be reached: Permission denied"}
    assert [Path(path).name for path in found.files] == ["b.png"]
    assert "Permission denied" in found.problems[str(closed)]


def test_library_of_photos(tmp_path: Path) -> None:
    """Only its originals are taken, wherever it lies, and when it is named itself."""
    library = tmp_path / "Pictures" / "Photos Library.photoslibrary"
    original = put(library / "originals" / "4" / "4F.jpeg")
    for name in ("resources/derivatives/4/4F_1_105_c.jpeg", "private/a.png", "b.jpg"):
        put(library / name)
    other = put(tmp_path / "Pictures" / "a.png")
    found = find_images([tmp_path])
    assert (found.files, found.ignored) == ((str(other), str(original)), {"excluded": 3})
    assert find_images([library]).files == (str(original),)


def closing(monkeypatch: pytest.MonkeyPatch, folder: Path, error: int) -> None:
    """Have a folder not be let in."""
    real = os.scandir

    def scandir(path: str) -> Any:
        if path == str(folder):
            raise OSError(error, os.strerror(error))
        return real(path)

    monkeypatch.setattr("warmclip.indexing.walk.os.scandir", scandir)


def test_folder_that_macos_keeps_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to allow is told; it is no problem of a run, unless it is all that was asked for."""
    put(tmp_path / "open" / "a.png")
    closed = put(tmp_path / "closed" / "b.png").parent
    closing(monkeypatch, closed, errno.EPERM)
    found = find_images([tmp_path])
    assert [Path(path).name for path in found.files] == ["a.png"]
    assert (found.problems, list(found.closed)) == ({}, [str(closed)])
    assert "Full Disk Access" in found.closed[str(closed)]
    named = find_images([closed])
    assert (list(named.problems), named.closed) == ([str(closed)], {})
    assert "Full Disk Access" in named.problems[str(closed)]


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a problem of the run."""
    closed = put(tmp_path / "closed" / "b.png").parent
    closing(monkeypatch, closed, errno.EACCES)
    found = find_images([tmp_path])
    assert (list(found.problems), found.closed) == ([str(closed)], {})


def test_folder_that_vanishes(tmp_path: Path) -> None:
    """While it is searched: it is told, and the rest is found; the named one itself as well."""
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        put(tmp_path / name)
    walk = Walk(str(tmp_path))
    names = iter(walk)
    assert next(names).endswith("1.png")
    (tmp_path / "b" / "2.png").unlink()
    (tmp_path / "b").rmdir()
    assert [Path(path).name for path in names] == ["3.png"]
    assert list(walk.problems) == [str(tmp_path / "b")]
    gone = Walk(str(tmp_path / "gone"))
    assert (list(gone), list(gone.problems)) == ([], [str(tmp_path / "gone")])


def test_walk_that_excludes_nothing(tmp_path: Path) -> None:
    """Only what is hidden is passed by: it shows whether a folder holds pictures at all."""
    for name in ("a.png", "node_modules/b.png", ".c.png"):
        put(tmp_path / name)
    (tmp_path / ".warmclipignore").write_text("*", encoding="utf-8")
    names = [Path(path).name for path in Walk(str(tmp_path), None)]
    assert names == ["a.png", "b.png"]
    assert list(Walk(str(tmp_path))) == []
