"""Checksums of a folder's files: written once it is made, verified each time it is used."""

import hashlib
import json
import os
from pathlib import Path

from warmclip.fsutil import replace_file


class ChecksumMismatch(Exception):
    """A file is not what it was when the checksums were written."""


def write_checksums(folder: Path, mark: str) -> None:
    """Write the length, time and digest of every file, once all of them are on the disk.

    Args:
        folder: without folders in it.
        mark: the name of the file that they are written into.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != mark:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)  # a power cut leaves lengths without contents
            finally:
                os.close(descriptor)
            files[path.name] = [*_state(path), _sha256(path)]
    replace_file(folder / mark, json.dumps(files))


def verify_checksums(folder: Path, mark: str) -> None:
    """Check that every file is as it was.

    Length and time of the last change are compared first: whatever writes into a file changes the
    time. The content is read only if the time has changed, as it has when a home is copied.

    Raises:
        ChecksumMismatch: naming the file, or why the checksums cannot be read.
    """
    try:
        files = json.loads((folder / mark).read_text())
        changed = [name for name, record in files.items() if _state(folder / name) != record[:2]]
        for name in changed:
            size_bytes, _, sha256 = files[name]
            if _state(folder / name)[0] != size_bytes or _sha256(folder / name) != sha256:
                raise ChecksumMismatch(f"{folder / name} was altered")
        if changed:
            write_checksums(folder, mark)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise ChecksumMismatch(f"{folder} is not as it was made: {exc!r}") from exc


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
