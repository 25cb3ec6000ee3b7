"""The folders that pictures may come from (WARMCLIP_ROOTS), and what lies below a folder."""

import fcntl
import hashlib
import os
import sys
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.fsutil import prefix_below
from warmclip.settings import Root
from warmclip.shown import show_path

# Never change it: every stored id is made from it.
_NAMESPACE = uuid.UUID("6f1c2c5e-6d0b-5b0e-9f43-3c1d6a7be0c4")


class Roots:
    """The roots of the settings, and where they really are. Without any, every path is allowed."""

    def __init__(self, roots: Iterable[Root] = ()) -> None:
        """Find out where the roots' folders are.

        Args:
            roots: as the settings name them.
        """
        self._named = tuple(roots)
        self._real = tuple(
            replace(root, folder=Path(real_folder(root.folder))) for root in self._named
        )

    def __bool__(self) -> bool:
        return bool(self._named)

    def __str__(self) -> str:
        return ", ".join(str(root.folder) for root in self._named)

    @property
    def folders(self) -> tuple[Path, ...]:
        """As the settings name them."""
        return tuple(root.folder for root in self._named)

    def allow(self, path: str) -> bool:
        """Whether the file at a real path may be opened."""
        return not self._real or _innermost_above(path, self._real) is not None

    def allow_folder(self, folder: str) -> bool:
        """Whether a folder, by its real path, may be looked into: a root, or what lies in one."""
        return not self._real or _is_within(folder, self._real)

    def resolve(self, path: object) -> str:
        """The real path of a file or folder that a request names, or of a root itself.

        What is gone keeps its name. Nothing is asked of the file system about a path that is spelt
        outside the roots, and nothing is told of what lies outside, not even whether it exists.

        Raises:
            FolderUnreadable: it is no absolute path.
            JobRefused: it is outside the roots.
        """
        if not isinstance(path, str) or not is_absolute(path):
            raise FolderUnreadable(f"{show_path(path)} is no absolute path")
        outside = JobRefused(f"{show_path(path)} is outside the roots {self} (WARMCLIP_ROOTS)")
        if self and not _is_within(os.path.normpath(path), (*self._named, *self._real)):
            raise outside
        real = real_folder(path)
        if self and not _is_within(real, self._real):
            raise outside
        return real

    def resolve_folder(self, path: object) -> str:
        """The real path of a folder that a request names.

        Raises:
            JobRefused, FolderUnreadable: as ``resolve``, or it is no folder.
        """
        real = self.resolve(path)
        if not os.path.isdir(real):  # noqa: PTH112 - Path.is_dir raises inside a closed folder
            raise FolderUnreadable(f"{show_path(path)} is no folder")
        return real

    def stored_path(self, path: object) -> str:
        """What a request names, as points have it: whether it is there is not asked.

        No link is followed but the roots themselves, so it is the same before and after a disk
        goes, and whatever was put in a folder's place.

        Raises:
            FolderUnreadable: it is no absolute path.
            JobRefused: it is outside the roots.
        """
        if not isinstance(path, str) or not is_absolute(path):
            raise FolderUnreadable(f"{show_path(path)} is no absolute path")
        plain = normalise(path)
        if not self or _is_within(plain, self._real):
            return plain
        for named, real in zip(self._named, self._real, strict=True):
            if _is_within(plain, (named,)):
                below = os.path.relpath(plain, named.folder)
                return normalise(os.path.join(real.folder, below))  # noqa: PTH118 - a str, as the file system spells it
        raise JobRefused(f"{show_path(path)} is outside the roots {self} (WARMCLIP_ROOTS)")

    def point_id(self, path: str) -> str:
        """The id of the picture at a real path: a UUID (version 5) over bytes.

        Under a named root it covers the root's name and the path below it, so that hosts with
        different mount points agree; else the whole path.
        """
        root = _innermost_above(path, self._real)
        if root is not None and root.name:
            below = os.path.relpath(path, root.folder)
            name = os.fsencode(root.name) + b"\0" + os.fsencode(below)
        else:
            name = os.fsencode(path)
        # uuid.uuid5 takes bytes only from Python 3.12 on.
        digest = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).digest()
        return str(uuid.UUID(bytes=digest[:16], version=5))


def require_roots(roots: Roots) -> Roots:
    """The roots, for a service that names no files without any.

    Raises:
        JobRefused: there are none.
    """
    if not roots:
        raise JobRefused(
            "nothing may be named, as there are no roots: start `warmclip serve` with "
            "WARMCLIP_ROOTS set to the folders that hold pictures"
        )
    return roots


class Scope:
    """What lies at or below some paths, by the real paths that are stored."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self._exact = {real_folder(path) for path in paths}
        self._below = tuple(map(prefix_below, self._exact))

    def __contains__(self, path: str) -> bool:
        return path in self._exact or path.startswith(self._below)


def is_absolute(path: str) -> bool:
    """Whether it is an absolute path that a file can have."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return os.path.isabs(path) and "\0" not in path  # noqa: PTH117 - a str, as somebody wrote it


def normalise(path: str) -> str:
    """An absolute path without ".", ".." and repeated slashes; no link is followed."""
    return os.sep + os.path.normpath(path).lstrip(os.sep)  # POSIX keeps two slashes at the start


def real_folder(folder: str | Path) -> str:
    """A folder's real path; for what cannot be opened as a folder, the path without links."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(folder)
    try:
        return descriptor_path(descriptor, os.fspath(folder))
    finally:
        os.close(descriptor)


def descriptor_path(descriptor: int, path: str) -> str:
    """The path that an open descriptor leads to, as the kernel tells it.

    Args:
        descriptor: of a file or folder.
        path: by which it was opened.
    """
    try:
        if sys.platform == "darwin":
            # Spelled as on disk, whatever case or Unicode form the caller used.
            name = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
            return os.fsdecode(name.rstrip(b"\0"))
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        # Some file systems of macOS tell no path, and there may be no /proc. Whoever reads the
        # file compares it with what is behind the path.
        return os.path.realpath(path)


def _is_within(path: str, roots: Sequence[Root]) -> bool:
    """Whether a path, taken as it is spelt, lies below one of the roots, or is one."""
    is_root = any(path == str(root.folder) for root in roots)
    return is_root or _innermost_above(path, roots) is not None


def _innermost_above(path: str, roots: Sequence[Root]) -> Root | None:
    above = [root for root in roots if path.startswith(prefix_below(str(root.folder)))]
    return max(above, key=lambda root: len(str(root.folder)), default=None)
