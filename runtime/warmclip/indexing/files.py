"""Which file a path leads to, what it is called for good, and its bytes.

A picture is known by its real path, not by the path that somebody wrote: ``a/../b.jpg``, a link to
it and a folder linked elsewhere are one picture with one id.
"""

import os
import stat
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from warmclip.errors import ImageAbsent, ImageUnavailable, ImageUnreadable
from warmclip.indexing.roots import Roots, descriptor_path, real_folder
from warmclip.inference.reading import kind_of, not_opened, open_file, read_descriptor
from warmclip.settings import Limits

_ICLOUD = ".icloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where one file really is, and its state when it was looked at."""

    id: str  # a UUID, the same on every host that gives the root the same name
    path: str  # real
    size_bytes: int
    mtime_ns: int
    device: int  # of the file system, as long as it is mounted


def locate_file(
    path: str | Path, roots: Roots, *, real_folder: Callable[[str], str] = real_folder
) -> Location:
    """Find out where a file really is, without opening it.

    Args:
        path: as somebody wrote it.
        roots: where it must lie.
        real_folder: finds a folder's real path; a caller with many files may remember it.

    Raises:
        ImageAbsent: there is no such file, or it is outside the roots.
        ImageUnavailable: it cannot be looked at.
        ImageUnreadable: it is no regular file.
    """
    try:
        real = _real_path(os.fspath(path), real_folder)
        # Before anything is told of the file, even whether it exists.
        if not roots.allow(real):
            raise _outside(roots)
        status = os.lstat(real)
    except (OSError, ValueError) as exc:
        raise not_opened(exc) from exc
    if not stat.S_ISREG(status.st_mode):
        raise ImageUnreadable(f"is {kind_of(status.st_mode)}, not a regular file")
    return Location(
        id=roots.point_id(real),
        path=real,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        device=status.st_dev,
    )


def read_picture(located: Location, roots: Roots, limits: Limits) -> tuple[Location, bytes]:
    """Read a file, and say which file it was, both from one descriptor.

    Args:
        located: from ``locate_file``; by now another file may be there.
        roots: where it must lie.
        limits: how many bytes are read at most.

    Raises:
        ImageUnavailable: as ``locate_file``, or no permission to open it, or the disk failed.
        ImageUnreadable: as ``locate_file``, or larger than the limit.
    """
    descriptor = open_file(located.path)
    try:
        location = locate_descriptor(descriptor, located, roots)
        return location, read_descriptor(descriptor, limits)
    finally:
        os.close(descriptor)


def locate_descriptor(descriptor: int, located: Location, roots: Roots) -> Location:
    """Find out which file was opened, before any of its bytes are used.

    Args:
        descriptor: from ``open_file``.
        located: from ``locate_file``; by now another file may be there.
        roots: where it must lie.

    Raises:
        ImageUnavailable: it is outside the roots, or was replaced meanwhile.
    """
    status = os.fstat(descriptor)
    location = replace(
        located, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, device=status.st_dev
    )
    real = descriptor_path(descriptor, located.path)
    if real != located.path:
        if not roots.allow(real):
            raise _outside(roots)
        location = replace(location, id=roots.point_id(real), path=real)
    if not _leads_to(real, status):
        raise ImageUnavailable("was moved or replaced while it was being opened")
    return location


def is_placeholder(name: str) -> bool:
    """Whether it is what macOS up to 13 leaves of a file that is in iCloud only: .name.icloud."""
    return name.startswith(".") and name.endswith(_ICLOUD) and len(name) > len(_ICLOUD) + 1


def is_file_gone(path: str) -> bool:
    """Whether there is surely no such file; a disk that does not answer is no proof of it.

    A file that is in iCloud only is not gone.

    A file that was renamed in case or Unicode form only is gone as well: macOS finds it by its
    former name, and it is known by another id now.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        folder, name = os.path.split(path)
        return not os.path.lexists(os.path.join(folder, f".{name}{_ICLOUD}"))  # noqa: PTH118 - a str
    except (NotADirectoryError, ValueError):  # the latter: no file can have such a name
        return True
    except OSError:
        return False
    return is_respelled(path, _path_on_disk(path))


def is_respelled(path: str, on_disk: str) -> bool:
    """Whether two paths differ, but only in case or Unicode form."""
    return path != on_disk and _folded(path) == _folded(on_disk)


def _folded(path: str) -> str:
    # As HFS+ and APFS compare names: canonically decomposed, without case.
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _path_on_disk(path: str) -> str:
    """A file's path as its disk spells it, where the disk takes other spellings as well."""
    if sys.platform != "darwin":
        return path
    try:
        # It needs no permission to read, and downloads nothing.
        descriptor = os.open(path, os.O_EVTONLY | os.O_SYMLINK | os.O_CLOEXEC)
    except OSError:
        return path
    try:
        return descriptor_path(descriptor, path)
    finally:
        os.close(descriptor)


def _real_path(path: str, real_folder: Callable[[str], str]) -> str:
    folder, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir):  # it ends with a folder
        return os.path.realpath(path)
    real = os.path.join(real_folder(folder or os.curdir), name)  # noqa: PTH118 - a str, as stored
    return os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114 - as above


def _outside(roots: Roots) -> ImageAbsent:
    return ImageAbsent(f"is outside the roots {roots} (WARMCLIP_ROOTS)")


def _leads_to(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False
