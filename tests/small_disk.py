"""A disk that can be filled: a file system in memory, for who may mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A folder on a file system of its own.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, free_bytes: int) -> None:
        """Leave so much room; what was filled before is given back first."""
        self.empty()
        disk = os.statvfs(self.folder)
        with self._ballast.open("wb") as ballast:
            ballast.write(bytes(disk.f_bavail * disk.f_frsize - free_bytes))

    def empty(self) -> None:
        """Give back what was filled."""
        self._ballast.unlink(missing_ok=True)

    def forbid_writing(self, *, forbidden: bool = True) -> None:
        """Make the whole disk one that is only read, for root as well, or undo that."""
        how = f"remount,{'ro' if forbidden else 'rw'}"
        subprocess.run(["mount", "-o", how, str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of this size on a folder; a test without the right to is skipped."""
    folder.mkdir(mode=0o700, exist_ok=True)
    options = f"size={megabytes}m,mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is refused: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
