"""Disks that pictures were indexed from, so that one which is not mounted is not taken for empty.

The mount points are kept in a file of WARMCLIP_HOME: they are a fact of this host.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from warmclip.errors import SettingsError
from warmclip.fsutil import prefix_below, private_folder, replace_file

log = logging.getLogger(__name__)

FILE = "mounts.json"
"""In WARMCLIP_HOME."""


class MountPoints:
    """The folders at which disks with pictures were mounted, whatever is there now."""

    def __init__(self, home: Path) -> None:
        """Nothing is read yet.

        Args:
            home: where the file is.
        """
        self._file = home / FILE

    def add(self, paths: Iterable[str]) -> None:
        """Remember the disks that these files are on now; the root's is left out.

        Args:
            paths: real paths of files that are there.
        """
        known = self._read()
        new = {find_mount_point(path) for path in paths} - known - {os.sep}
        if not new:
            return
        try:
            private_folder(self._file.parent, private=False)
            replace_file(self._file, json.dumps(sorted(known | new)))
        except (OSError, SettingsError) as exc:
            log.warning("cannot remember the disk at %s: %s", sorted(new)[0], exc)

    def find_unmounted(self, paths: Iterable[str]) -> dict[str, int]:
        """The disks that are not mounted now, and how many of these files are below each."""
        below = {
            folder: prefix_below(folder)
            for folder in sorted(self._read())
            if not os.path.ismount(folder)
        }
        counts: dict[str, int] = {}
        for path in paths if below else ():
            for folder, prefix in below.items():
                if path.startswith(prefix):
                    counts[folder] = counts.get(folder, 0) + 1
        return counts

    def _read(self) -> set[str]:
        try:
            listed = json.loads(self._file.read_text(encoding="utf-8"))
            return {it for it in listed if isinstance(it, str)}
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, TypeError) as exc:
            log.warning("%s cannot be read and is made anew: %s", self._file, exc)
            return set()


def find_mount_point(path: str) -> str:
    """The folder at which the disk of a file is mounted."""
    folder = os.path.dirname(path)  # noqa: PTH120 - a str as the file system spells it
    while not os.path.ismount(folder) and folder != os.sep:
        folder = os.path.dirname(folder)  # noqa: PTH120 - as above
    return folder
