"""Files that were refused, remembered until they change; what is not remembered does no harm."""

import logging
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from warmclip.indexing.files import Location
from warmclip.indexing.refusals import FILE, Refusals, forget_below
from warmclip.settings import Limits

LIMITS = Limits()


def located(path: str, size_bytes: int = 5, mtime_ns: int = 7) -> Location:
    """A file as it was looked at."""
    return Location(id="", path=path, size_bytes=size_bytes, mtime_ns=mtime_ns, device=1)


def remembering(home: Path, fingerprint: str = "a" * 64, limits: Limits = LIMITS) -> Refusals:
    """The refusals of a host."""
    return Refusals(home, fingerprint=fingerprint, limits=limits)


def test_file_as_it_was(tmp_path: Path) -> None:
    """Its reason is found as long as neither its length nor its time changes."""
    file = located(os.fsdecode(b"/p/\xe9.jpg"))
    remembering(tmp_path / "home").add({file: "is no picture", located("/p/b.jpg"): "is odd"})
    refusals = remembering(tmp_path / "home")
    assert refusals.find([file, located("/p/c.jpg")]) == {file.path: "is no picture"}
    for size_bytes, mtime_ns in ((4, 7), (6, 7), (5, 6), (5, 8)):
        assert refusals.find([replace(file, size_bytes=size_bytes, mtime_ns=mtime_ns)]) == {}
    moved = replace(file, device=2, id="other")
    assert refusals.find([moved]) == {file.path: "is no picture"}
    refusals.add({file: "is something else"})
    assert refusals.find([file]) == {file.path: "is something else"}


def test_home_that_others_may_read(tmp_path: Path) -> None:
    """They may, as in a service's home: nobody but its owner writes there."""
    tmp_path.chmod(0o755)
    remembering(tmp_path).add({located("/p/a.jpg"): "is no picture"})
    assert remembering(tmp_path).find([located("/p/a.jpg")]) == {"/p/a.jpg": "is no picture"}


@pytest.mark.parametrize("name", ["image_pixels", "image_bytes", "resized_side_px"])
def test_other_limits(tmp_path: Path, name: str) -> None:
    """What was refused under other limits is read again."""
    remembering(tmp_path).add({located("/p/a.jpg"): "is too large"})
    other = replace(LIMITS, **{name: getattr(LIMITS, name) + 1})
    assert remembering(tmp_path, limits=other).find([located("/p/a.jpg")]) == {}
    assert remembering(tmp_path).find([located("/p/a.jpg")]) == {"/p/a.jpg": "is too large"}


def test_spaces_are_apart(tmp_path: Path) -> None:
    """Another model decodes otherwise; what it refuses or forgets is its own."""
    one, other = remembering(tmp_path), remembering(tmp_path, "b" * 64)
    one.add({located("/p/a.jpg"): "one"})
    assert other.find([located("/p/a.jpg")]) == {}
    other.add({located("/p/a.jpg"): "other"})
    other.forget([located("/p/a.jpg"), located("/p/b.jpg")])
    assert other.find([located("/p/a.jpg")]) == {}
    assert one.find([located("/p/a.jpg")]) == {"/p/a.jpg": "one"}


def test_more_files_than_a_statement_takes(tmp_path: Path) -> None:
    """All of them are found."""
    files = [located(f"/p/{number}.jpg") for number in range(1_101)]
    remembering(tmp_path).add(dict.fromkeys(files, "no"))
    assert len(remembering(tmp_path).find(files)) == 1_101


def test_nothing_to_remember(tmp_path: Path) -> None:
    """No file is made for it."""
    refusals = remembering(tmp_path)
    refusals.add({})
    refusals.forget([located("/p/a.jpg")])
    assert refusals.find([located("/p/a.jpg")]) == {}
    assert forget_below(tmp_path, ["/p"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_below_a_path(tmp_path: Path) -> None:
    """The path itself and what lies below it is forgotten, of every space, and nothing beside."""
    paths = ["/p", "/p/a.jpg", "/p/b/c.jpg", "/p-2/a.jpg", "/p0", "/q.jpg", "/"]
    for fingerprint in ("a" * 64, "b" * 64):
        remembering(tmp_path, fingerprint).add({located(path): "no" for path in paths})
    assert forget_below(tmp_path, []) == 0
    assert forget_below(tmp_path, ["/p", "/q.jpg"]) == 8
    found = remembering(tmp_path).find([located(path) for path in paths])
    assert set(found) == {"/p-2/a.jpg", "/p0", "/"}
    assert forget_below(tmp_path, ["/"]) == 6


def test_damaged_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and the next refusal is remembered in a new one."""
    (tmp_path / FILE).write_bytes(b"no database " * 500)
    refusals = remembering(tmp_path)
    assert refusals.find([located("/p/a.jpg")]) == {}
    assert "is made anew" in caplog.text
    refusals.add({located("/p/a.jpg"): "no"})
    assert refusals.find([located("/p/a.jpg")]) == {"/p/a.jpg": "no"}


def test_file_of_a_newer_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is left as it is."""
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    remembering(tmp_path).add({located("/p/a.jpg"): "no"})
    assert "it is of format 2, which a newer warmclip wrote" in caplog.text
    assert (tmp_path / FILE).read_bytes() == before


def test_format_is_marked(tmp_path: Path) -> None:
    """So that a former version will know."""
    remembering(tmp_path).add({located("/p/a.jpg"): "no"})
    connection = sqlite3.connect(tmp_path / FILE)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


def test_home_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and nothing is remembered."""
    home = tmp_path / "file"
    home.touch()
    remembering(home).add({located("/p/a.jpg"): "no"})
    assert [told[1] for told in caplog.record_tuples] == [logging.WARNING]
    assert "refused files are not remembered" in caplog.text
