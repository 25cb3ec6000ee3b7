"""What is not searched for pictures: ignore files, patterns that are given, defaults."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from warmclip.errors import FolderUnreadable, SettingsError
from warmclip.indexing.exclusion import IGNORE_FILE, ExcludedPaths, Exclusion
from warmclip.indexing.roots import Roots
from warmclip.indexing.walk import FoundFiles, find_images
from warmclip.settings import Root

TREE = (
    *("a.png", "b.png", "raw/c.png", "raw/keep/d.png", "trip/a.png", "trip/raw/e.png"),
    *("trip/day/f-small.png", "trip/day/g.png", "@eaDir/h.png", "trip/node_modules/x/i.png"),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures in several folders."""
    top = tmp_path / "photos"
    for name in TREE:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"picture")
    return top


def ignore(folder: Path, *lines: str) -> Path:
    """Write an ignore file."""
    file = folder / IGNORE_FILE
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def found_in(top: Path, found: FoundFiles) -> set[str]:
    """What was found, relative to a folder."""
    return {str(Path(path).relative_to(top)) for path in found.files}


COMMON = {"a.png", "b.png", "trip/a.png", "trip/day/g.png"}
RAW = {"raw/c.png", "raw/keep/d.png", "trip/raw/e.png"}


@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        ({}, [], {*COMMON, *RAW, "trip/day/f-small.png"}),
        ({".": ["raw/", "*-small.png"]}, [], COMMON),
        ({}, ["raw/", "*-small.png"], COMMON),
        ({".": ["/raw", "*-small.png"]}, [], {*COMMON, "trip/raw/e.png"}),
        ({".": ["/raw/*", "!/raw/keep", "f*"]}, [], {*COMMON, *RAW} - {"raw/c.png"}),
        # A pattern is about what lies below its own file.
        ({"trip": ["/a.png", "raw", "f*"]}, [], {*COMMON, *RAW} - {"trip/a.png", "trip/raw/e.png"}),
        # The innermost file decides; but nobody looks into a folder that is excluded.
        ({".": ["*.png"], "trip": ["!a.png"]}, [], {"trip/a.png"}),
        ({".": ["trip/"], "trip": ["!*"]}, [], {"a.png", "b.png", *RAW} - {"trip/raw/e.png"}),
        # A pattern for folders says nothing of files.
        ({}, ["a.png/", "raw/keep/"], {*COMMON, *RAW, "trip/day/f-small.png"} - {"raw/keep/d.png"}),
        # What is given decides before all files.
        ({".": ["raw/", "f*"]}, ["!/raw"], {*COMMON, "raw/c.png", "raw/keep/d.png"}),
        ({".": ["!raw", "f*"]}, ["raw"], COMMON),
        # The defaults are the last to be asked.
        (
            {".": ["!@eaDir/", "f*"], "trip": ["!node_modules"]},
            ["raw"],
            {*COMMON, "@eaDir/h.png", "trip/node_modules/x/i.png"},
        ),
        ({".": ["# nothing", "", "  "]}, ["#recycle"], {*COMMON, *RAW, "trip/day/f-small.png"}),
    ],
)
def test_folder(
    photos: Path, files: dict[str, list[str]], given: list[str], expected: set[str]
) -> None:
    """What is found, and what belongs to a collection no more, are told by the same rules."""
    for folder, lines in files.items():
        ignore(photos / folder, *lines)
    exclusion = Exclusion(given)
    found = find_images([photos], exclusion)
    assert (found_in(photos, found), found.problems) == (expected, {})
    excluded = ExcludedPaths(exclusion, [photos])
    assert {name for name in TREE if str(photos / name) not in excluded} == expected
    assert found.ignored["excluded"] > 0


def test_file_above_the_named_folder(photos: Path) -> None:
    """It counts as well: it does not matter which folder is named."""
    ignore(photos, "raw", "/trip/a.png")
    assert found_in(photos, find_images([photos / "trip"])) == {
        "trip/day/f-small.png",
        "trip/day/g.png",
    }
    excluded = ExcludedPaths(Exclusion(), [photos / "trip"])
    assert str(photos / "trip/raw/e.png") in excluded
    assert str(photos / "trip/day/g.png") not in excluded
    assert str(photos / "raw/c.png") not in excluded  # it is not below what was named


@pytest.mark.parametrize("pattern", ["raw", "raw/", "/raw/"])
def test_named_folder_that_is_excluded(photos: Path, pattern: str) -> None:
    """It is told which file excludes it, and the folders in it are no way round that."""
    file = ignore(photos, pattern)
    for folder in (photos / "raw", photos / "raw" / "keep"):
        found = find_images([folder])
        assert (found.files, list(found.problems)) == ((), [str(folder)])
        assert str(file) in found.problems[str(folder)]


def test_named_folder_with_a_name_that_is_excluded_by_default(photos: Path) -> None:
    """It is searched: whoever names it means it."""
    assert found_in(photos, find_images([photos / "@eaDir"])) == {"@eaDir/h.png"}


def test_named_file(photos: Path) -> None:
    """It is taken whatever files say, but not against what was given with it."""
    ignore(photos, "*.png")
    named = [photos / "a.png", photos / "trip/day/f-small.png", photos / "raw/keep/d.png"]
    assert len(find_images(named).files) == 3
    found = find_images(named, Exclusion(["*-small.png", "raw/"]))
    assert (found_in(photos, found), found.ignored) == ({"a.png"}, {"excluded": 2})
    above = photos.parts[1]  # of every folder that a named file lies in
    assert find_images(named, Exclusion([f"/{above}/"])).files == ()
    assert len(find_images(named, Exclusion(["a.png/", "d.png/"])).files) == 3  # no folders
    assert str(photos / "a.png") not in ExcludedPaths(Exclusion(), [photos, photos / "a.png"])


@pytest.mark.parametrize("path", ["/x", "/x/y", "/y/x", "/y/y/x", "/y/x/y/y", "/!/x", "/y/y/y/!x"])
def test_named_file_at_any_depth(path: str) -> None:
    """Each name on its path is compared, the last one as a file's."""
    assert Exclusion(["x", r"\!x"]).excludes_named(path)
    assert not Exclusion(["z"]).excludes_named(path)


def test_stored_picture_whose_name_is_a_folder_s_now(photos: Path) -> None:
    """Patterns count for what is not there any more as for what is."""
    excluded = ExcludedPaths(Exclusion(["raw"]), [photos])
    assert str(photos / "a.png" / "raw" / "x.png") in excluded  # a.png was a folder
    assert str(photos / "a.png" / "x.png") not in excluded


def test_names_before_the_ignore_file_s(tmp_path: Path) -> None:
    """It counts wherever it stands among the names of its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("#a.png", "(b).png", "-c.png"):
        (folder / name).write_bytes(b"picture")
    ignore(folder, "*.png")
    assert find_images([tmp_path]).files == find_images([folder]).files == ()


def test_file_outside_the_roots(photos: Path) -> None:
    """It is not read, whatever it holds; that of a root itself is."""
    ignore(photos.parent, "*")
    ignore(photos, "raw", "f*")
    roots = Roots([Root(name="", folder=photos)])
    assert found_in(photos, find_images([photos], Exclusion([], roots))) == COMMON
    assert find_images([photos]).files == ()


def not_utf8(file: Path) -> None:
    """As an editor of Windows saves it."""
    file.write_bytes("raw/\n".encode("utf-16"))


def too_large(file: Path) -> None:
    """One byte more than is read."""
    file.write_bytes(b"#" * (64 * 1024 + 1))


def link(file: Path) -> None:
    """To what must not be told of."""
    (file.parent / "secret").write_text("[secret")
    file.symlink_to("secret")


BAD: dict[str, Callable[[Path], object]] = {
    "not UTF-8": not_utf8,
    "larger than 65,536 bytes": too_large,
    "is a directory": Path.mkdir,
    "is a named pipe": os.mkfifo,
    "is a link": link,
    "line 2: the pattern '[z-a]'": lambda file: file.write_text("raw\n[z-a]\n"),
    "more than 1000 patterns": lambda file: file.write_text("a\n" * 1001),
}


@pytest.mark.parametrize("told", BAD)
def test_file_that_cannot_be_used(photos: Path, told: str) -> None:
    """Its folder is not searched, the reason is told, and nothing counts as excluded there; its
    neighbours are searched.
    """
    BAD[told](photos / "trip" / IGNORE_FILE)
    (photos / "zoo").mkdir()
    (photos / "zoo" / "z.png").write_bytes(b"picture")
    found = find_images([photos])
    assert found_in(photos, found) == {"a.png", "b.png", "raw/c.png", "raw/keep/d.png", "zoo/z.png"}
    reason = found.problems[str(photos / "trip")]
    assert told in reason
    assert str(photos / "trip" / IGNORE_FILE) in reason
    assert "secret" not in reason
    below = find_images([photos / "trip" / "day"])
    assert (below.files, told in below.problems[str(photos / "trip" / "day")]) == ((), True)
    assert str(photos / "trip" / "a.png") not in ExcludedPaths(Exclusion(), [photos])


def test_largest_file(photos: Path) -> None:
    """It is read to its last byte."""
    lines = b"raw/\nf*\n"
    (photos / IGNORE_FILE).write_bytes(b"#" * (64 * 1024 - len(lines) - 1) + b"\n" + lines)
    assert found_in(photos, find_images([photos])) == COMMON


def test_file_that_may_not_be_read(unprivileged: Path) -> None:
    """It is no reason to search the whole folder."""
    (unprivileged / "a.png").write_bytes(b"picture")
    ignore(unprivileged, "a.png").chmod(0)
    found = find_images([unprivileged])
    assert found.files == ()
    assert "Permission denied" in found.problems[str(unprivileged)]


def test_file_with_a_byte_order_mark(photos: Path) -> None:
    """As Notepad saves it: the first pattern counts, and lines may end as on Windows."""
    (photos / IGNORE_FILE).write_bytes(b"\xef\xbb\xbfraw/\r\nf*\r\n")
    assert found_in(photos, find_images([photos])) == COMMON


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_name_in_another_unicode_form(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    """A pattern that was typed is about the name as macOS stores it."""
    name = "Z\u00fcrich.png"
    (tmp_path / unicodedata.normalize("NFD", name)).write_bytes(b"picture")
    exclusion = Exclusion([unicodedata.normalize(form, name)])
    assert find_images([tmp_path], exclusion).files == ()


def test_most_patterns_that_may_be_given(photos: Path) -> None:
    """A thousand, and each counts."""
    exclusion = Exclusion(["raw", *["x"] * 998, "f*"])
    assert found_in(photos, find_images([photos], exclusion)) == COMMON


@pytest.mark.parametrize("patterns", [[""], ["a["], ["x" * 501], ["a"] * 1001])
def test_given_pattern_that_is_none(patterns: Sequence[str]) -> None:
    """It is refused before anything is searched."""
    with pytest.raises(SettingsError, match="exclude"):
        Exclusion(patterns)


def test_pattern_that_is_long(photos: Path) -> None:
    """Its first hundred characters are told."""
    with pytest.raises(SettingsError) as refused:
        Exclusion(["x" * 501])
    assert f"exclude {'x' * 100!r} is longer" in str(refused.value)
    (photos / IGNORE_FILE).write_text("y" * 501)
    assert f"pattern {'y' * 100!r} is longer" in find_images([photos]).problems[str(photos)]


def test_rules_of_a_folder_that_is_excluded(photos: Path) -> None:
    """There are none."""
    ignore(photos, "raw")
    with pytest.raises(FolderUnreadable):
        Exclusion().rules_of(str(photos / "raw"))
