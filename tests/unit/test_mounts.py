"""Disks that pictures were indexed from, where the test says which folders are mount points."""

import json
import logging
import os
from pathlib import Path

import pytest

from warmclip.indexing.mounts import FILE, MountPoints, find_mount_point


class Disks:
    """The folders at which something is mounted now; the root always is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mounted: set[str] = {"/"}
        monkeypatch.setattr("warmclip.indexing.mounts.os.path.ismount", self.mounted.__contains__)


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    """None but the root."""
    return Disks(monkeypatch)


@pytest.mark.parametrize(
    ("path", "mount_point"),
    [
        ("/a.jpg", "/"),
        ("/mnt/a.jpg", "/"),
        ("/mnt/disk", "/"),  # the folder itself lies on the root's disk
        ("/mnt/disk/a.jpg", "/mnt/disk"),
        ("/mnt/disk/x/y/a.jpg", "/mnt/disk"),
        ("/mnt/disk/inner/a.jpg", "/mnt/disk/inner"),
        ("/mnt/disk-2/a.jpg", "/"),
    ],
)
def test_mount_point(disks: Disks, path: str, mount_point: str) -> None:
    """It is the innermost one above a file; at the root it ends, whatever the system says."""
    disks.mounted |= {"/mnt/disk", "/mnt/disk/inner"}
    assert find_mount_point(path) == mount_point
    disks.mounted.clear()
    assert find_mount_point(path) == "/"


def test_disks_that_are_not_mounted(disks: Disks, tmp_path: Path) -> None:
    """The pictures below each are counted; of a disk inside another one, below both."""
    mounts = MountPoints(tmp_path / "home")
    disks.mounted |= {"/mnt/b", "/mnt/b/inner", "/mnt/c"}
    mounts.add(["/mnt/b/1.jpg", "/mnt/b/inner/2.jpg", "/mnt/c/3.jpg", "/4.jpg"])
    paths = ["/mnt/b/1.jpg", "/mnt/b/inner/2.jpg", "/mnt/b/5.jpg", "/4.jpg", "/mnt/c/3.jpg"]
    assert mounts.find_unmounted(paths) == {}
    disks.mounted -= {"/mnt/b", "/mnt/b/inner"}
    assert mounts.find_unmounted(paths) == {"/mnt/b": 3, "/mnt/b/inner": 1}
    assert mounts.find_unmounted(["/mnt/b-2/1.jpg"]) == {}
    assert json.loads((tmp_path / "home" / FILE).read_text("utf-8")) == [
        "/mnt/b",
        "/mnt/b/inner",
        "/mnt/c",
    ]


def test_disks_that_are_known_already(disks: Disks, tmp_path: Path) -> None:
    """They are added to those of former runs, and nothing is written that is there."""
    disks.mounted |= {"/mnt/a", "/mnt/b"}
    MountPoints(tmp_path).add(["/4.jpg"])
    assert list(tmp_path.iterdir()) == []
    MountPoints(tmp_path).add(["/mnt/a/1.jpg"])
    MountPoints(tmp_path).add(["/mnt/b/1.jpg"])
    before = (tmp_path / FILE).stat()
    MountPoints(tmp_path).add(["/mnt/b/2.jpg", "/mnt/a/2.jpg"])
    after = (tmp_path / FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    disks.mounted.clear()
    assert list(MountPoints(tmp_path).find_unmounted(["/mnt/a/1.jpg", "/mnt/b/1.jpg"])) == [
        "/mnt/a",
        "/mnt/b",
    ]


@pytest.mark.parametrize("content", ["no JSON", "5", "[1, null]", '{"a": 1}'])
def test_file_that_is_damaged(
    disks: Disks, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no list of folders is none, and is made anew."""
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    disks.mounted.add("/mnt/a")
    MountPoints(tmp_path).add(["/mnt/a/1.jpg"])
    assert "/mnt/a" in json.loads((tmp_path / FILE).read_text("utf-8"))
    assert (caplog.record_tuples != []) is (content in ("no JSON", "5"))


def test_home_that_cannot_be_written(
    disks: Disks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with the disk, and is no reason to stop."""
    disks.mounted |= {"/mnt/a", "/mnt/b"}
    home = tmp_path / "file"
    home.touch()
    MountPoints(home).add(["/mnt/b/1.jpg", "/mnt/a/1.jpg"])
    (*_, told) = caplog.record_tuples
    assert told[1] == logging.WARNING
    assert told[2].startswith("cannot remember the disk at /mnt/a: ")


def test_folder_of_bytes(disks: Disks, tmp_path: Path) -> None:
    """Its name need not be UTF-8."""
    folder = os.fsdecode(b"/mnt/\xf6")
    disks.mounted.add(folder)
    MountPoints(tmp_path).add([f"{folder}/1.jpg"])
    disks.mounted.remove(folder)
    assert MountPoints(tmp_path).find_unmounted([f"{folder}/1.jpg"]) == {folder: 1}
