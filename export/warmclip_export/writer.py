"""A bundle's folder: whole, or absent.

Files are written to a hidden folder beside the target, which is renamed into place when all of
them are on the disk. Whatever goes wrong before that, the target is as it was.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from warmclip.fsutil import write_out
from warmclip.inference.bundle import MANIFEST, FileRecord
from warmclip_export.errors import ExportRefused


def write_file(path: Path, content: bytes) -> FileRecord:
    """Write one file through to the disk.

    Raises:
        ExportRefused: the disk is full, or the folder cannot be written to.
    """
    try:
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as exc:
        raise ExportRefused(
            f"cannot write {path.name} ({len(content) / 1e6:.0f} MB) under {path.parent.parent}: "
            f"{exc.strerror}; nothing of the new bundle was kept"
        ) from exc
    return FileRecord(
        file=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )


def record_file(path: Path) -> FileRecord:
    """The record of a file that was written by others, which is on the disk then."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return FileRecord(file=path.name, sha256=file_sha256(path), size_bytes=path.stat().st_size)


def file_sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_target(target: Path, *, force: bool) -> None:
    """See whether a bundle may be put there.

    Raises:
        ExportRefused: something is there already that may not be replaced.
    """
    if not target.exists() and not target.is_symlink():
        return
    if not (target / MANIFEST).is_file():
        raise ExportRefused(
            f"{target} exists and is no bundle: choose another --name, or move it away"
        )
    if not force:
        raise ExportRefused(f"{target} exists already: --force replaces it, --name avoids it")


def check_target_room(target: Path, bundle_bytes: int, temporary_bytes: int) -> None:
    """Look whether the disk can hold a bundle, beside one that is there.

    Args:
        target: the bundle's folder.
        bundle_bytes: about what it will have.
        temporary_bytes: about what is in the temporary folder when all of the bundle is written.

    Raises:
        ExportRefused: it has no room for them.
    """
    with contextlib.suppress(OSError):  # `staged_bundle` tells of it
        _clear_leftovers(target)
    folder = next(it for it in target.absolute().parents if it.is_dir())
    temporary = Path(tempfile.gettempdir())
    is_shared = folder.stat().st_dev == temporary.stat().st_dev
    free = shutil.disk_usage(folder).free
    if free < bundle_bytes + (temporary_bytes if is_shared else 0):
        beside = f", and the lint {temporary_bytes / 1e9:.2f} GB in {temporary}, on the same disk"
        raise ExportRefused(
            f"{folder} has {free / 1e9:.2f} GB free; the bundle takes about "
            f"{bundle_bytes / 1e9:.2f} GB there{beside if is_shared else ''}: make room, or name "
            "another folder with --out"
        )


@contextlib.contextmanager
def staged_bundle(target: Path, *, force: bool) -> Iterator[Path]:
    """A folder to write into, which becomes the target when the block ends well.

    An old bundle stays whole until the new one is, and is then replaced by renaming.

    Raises:
        ExportRefused: the target may not be replaced, or cannot be written.
    """
    check_target(target, force=force)
    staging = _hidden(target, "tmp", os.getpid())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target)
        staging.mkdir()
    except OSError as exc:
        raise ExportRefused(f"cannot write a bundle under {target.parent}: {exc.strerror}") from exc
    try:
        yield staging
        check_target(target, force=force)
        try:
            _put_in_place(staging, target)
        except OSError as exc:
            raise ExportRefused(f"cannot put the bundle at {target}: {exc.strerror}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # renamed away, if all went well


def _put_in_place(staging: Path, target: Path) -> None:
    write_out(staging)
    old = _hidden(target, "old", os.getpid())
    replaced = target.exists()
    if replaced:
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if replaced:
            old.rename(target)
        raise
    write_out(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _hidden(target: Path, kind: str, pid: int) -> Path:
    return target.with_name(f".{kind}-{target.name}-{pid}")


def _clear_leftovers(target: Path) -> None:
    """Clear what exporters that were killed left of this bundle."""
    pattern = re.compile(rf"\.(tmp|old)-{re.escape(target.name)}-(\d+)")
    for leftover in target.parent.iterdir():
        match = pattern.fullmatch(leftover.name)
        if not match or _alive(int(match[2])):
            continue
        if match[1] == "old" and not target.exists():
            leftover.rename(target)  # killed between the two renames
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier life of this number
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
