"""Thumbnails on disk, so that a picture that was looked at is not read and drawn again.

They are named by the digest of the picture's bytes, so none is ever out of date.
"""

import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from warmclip.errors import SettingsError
from warmclip.fsutil import private_folder

log = logging.getLogger(__name__)

FOLDER = "thumbnails"
"""In WARMCLIP_HOME."""

MOST_BYTES = 256_000_000  # some 25,000 of the page's thumbnails
_LEFT_FREE = 0.9  # of that is kept when it is too much
_TRIM_EVERY = 64  # drawings
_VERSION = re.compile(r"[0-9a-f]{32}-[0-9]{1,4}-[0-9]{1,3}")


def version_of(sha256: str, side_px: int, drawing: int) -> str:
    """What tells a drawing from all others: the picture's digest, the side, how it is drawn."""
    return f"{sha256[:32]}-{side_px}-{drawing}"


def is_version(text: str) -> bool:
    """Whether it is one of ``version_of``: a store that others write to names the digest."""
    return _VERSION.fullmatch(text) is not None


class ThumbnailCache:
    """The drawings of one host, which processes may share.

    One that cannot be read or written does no harm: what is wrong is told in the log.
    """

    def __init__(self, home: Path, *, most_bytes: int = MOST_BYTES) -> None:
        """Nothing is opened yet.

        Args:
            home: where the folder is made.
            most_bytes: about how much is kept; what was used longest ago goes first.
        """
        self._folder = home / FOLDER
        self._most_bytes = most_bytes

    def get(self, version: str) -> bytes | None:
        """A drawing, if it is there and whole.

        Args:
            version: of it, see ``version_of``; anything else is not there.
        """
        if not is_version(version):
            return None
        file = self._folder / version
        try:
            jpeg = file.read_bytes()
            os.utime(file)  # it was used now
        except OSError:
            return None
        is_whole = jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")
        return jpeg if is_whole else None

    def put(self, version: str, jpeg: bytes) -> None:
        """Keep a drawing; some of the others go if there are too many."""
        if not is_version(version):
            return
        partial = self._folder / f".{version}.{os.getpid()}"
        try:
            private_folder(self._folder, private=True)
            partial.write_bytes(jpeg)
            partial.replace(self._folder / version)
            # By the name, which is as good as chance: so often, whoever draws.
            if int(version[:8], 16) % _TRIM_EVERY == 0:
                self._trim()
        except (OSError, SettingsError) as exc:
            log.warning("thumbnails are not kept in %s: %s", self._folder, exc)
            with suppress(OSError):
                partial.unlink()

    def clear(self) -> None:
        """Delete all drawings."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _trim(self) -> None:
        files = []
        for entry in os.scandir(self._folder):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another process trims as well
                continue
            files.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total <= self._most_bytes:
            return
        for _, size, path in sorted(files):
            if total <= _LEFT_FREE * self._most_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
