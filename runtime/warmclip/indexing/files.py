"""Which files there are, what they are called for good, and how they are read safely.

A picture is known by the path that its open descriptor leads to, not by the path that somebody
wrote: ``a/../b.jpg``, a link to it and a folder linked elsewhere are one picture with one id.
"""

import fcntl
import glob
import hashlib
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from warmclip.errors import ImageUnreadable
from warmclip.fsutil import prefix_below
from warmclip.inference.reading import open_file, read_descriptor
from warmclip.settings import Limits, Root

# Some of these Pillow may not read (HEIC, for one): better reported with a reason than passed by.
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif"),
    *(".tiff", ".webp"),
)

_MAGIC = frozenset("*?[")

# Never change it: every stored id is made from it.
_NAMESPACE = uuid.UUID("6f1c2c5e-6d0b-5b0e-9f43-3c1d6a7be0c4")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What some paths led to."""

    files: tuple[str, ...]  # in the order named; inside a folder, sorted
    problems: dict[str, str]  # path -> why nothing could be found there
    ignored: int  # names in searched folders that are hidden, or no pictures by their suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where one file really is, and its state when it was looked at."""

    id: str  # a UUID, the same on every host that gives the root the same name
    path: str  # canonical
    size_bytes: int
    mtime_ns: int


def find_images(paths: Iterable[str | Path]) -> FoundFiles:
    """Find pictures in files, folders and patterns.

    A file is taken whatever its name is. A folder is searched to any depth for names with an
    image suffix; hidden names are passed by (macOS keeps ``._photo.jpg`` beside ``photo.jpg``),
    and links to folders are not followed, so that there are no loops. A path that does not exist
    but has ``*``, ``?`` or ``[`` in it means what the shell would have made of it.
    """
    search = _Search()
    for path in paths:
        search.add(os.fspath(path))
    return FoundFiles(files=tuple(search.files), problems=search.problems, ignored=search.ignored)


class _Search:
    def __init__(self) -> None:
        self.files: dict[str, None] = {}  # a set that keeps its order
        self.problems: dict[str, str] = {}
        self.ignored = 0

    def add(self, path: str) -> None:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
            # ValueError: a NUL inside the name.
            is_pattern = isinstance(exc, OSError) and not _MAGIC.isdisjoint(path)
            if is_pattern:
                self._add_pattern(path)
            else:
                self.problems[path] = "no such file or folder"
        except OSError as exc:
            self.problems[path] = f"cannot be reached: {exc.strerror}"
        else:
            self._add_existing(path)

    def _add_pattern(self, path: str) -> None:
        # Path.glob takes no absolute pattern.
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - as above
        for match in matches:
            self._add_existing(match)
        if not matches:
            self.problems[path] = "no file matches this pattern"

    def _add_existing(self, path: str) -> None:
        if _is_folder(path):
            walk = Walk(path)
            self.files |= dict.fromkeys(walk)
            self.problems |= walk.problems
            self.ignored += walk.ignored
        else:
            self.files[path] = None


class Walk:
    """The pictures of one folder, to any depth, as ``find_images`` finds them.

    Attributes:
        problems: folder -> why it could not be read, as far as the walk has come.
        ignored: names so far that are hidden, or no pictures by their suffix.
    """

    def __init__(self, top: str) -> None:
        self._top = top
        self.problems: dict[str, str] = {}
        self.ignored = 0

    def __iter__(self) -> Iterator[str]:
        folders = [self._top]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
            except OSError as exc:
                self.problems[folder] = f"the folder cannot be read: {exc.strerror}"
                continue
            deeper = []
            for entry in inside:
                if entry.name.startswith("."):
                    self.ignored += 1
                elif entry.is_dir(follow_symlinks=False):
                    deeper.append(entry.path)
                elif entry.is_symlink() and _is_folder(entry.path):
                    self.ignored += 1
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield entry.path
                else:
                    self.ignored += 1
            folders.extend(reversed(deeper))


def _is_folder(path: str) -> bool:
    # Path.is_dir raises for a link that leads into a closed folder.
    return os.path.isdir(path)  # noqa: PTH112 - as above


def canonical_roots(roots: Sequence[Root]) -> tuple[Root, ...]:
    """The roots with their folders' real paths, as ``locate`` and ``read_picture`` need them."""
    return tuple(replace(root, folder=Path(canonical_folder(root.folder))) for root in roots)


def canonical_folder(folder: str | Path) -> str:
    """A folder's real path; for one that cannot be opened, the path without links."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(folder)
    try:
        return _descriptor_path(descriptor, os.fspath(folder))
    finally:
        os.close(descriptor)


class Scope:
    """What lies at or below some paths, by the spelling of stored ones."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self._exact = {canonical_folder(path) for path in paths}
        self._below = tuple(map(prefix_below, self._exact))

    def __contains__(self, path: str) -> bool:
        return path in self._exact or path.startswith(self._below)


def locate(path: str | Path, roots: Sequence[Root]) -> Location:
    """Find out where a file really is, without reading it.

    Args:
        path: as somebody wrote it.
        roots: from ``canonical_roots``; none: any file that may be opened.

    Raises:
        ImageUnreadable: no permission to open it, or outside the roots.
    """
    with _opened(path, roots) as (_, location):
        return location


def read_picture(path: str | Path, roots: Sequence[Root], limits: Limits) -> tuple[Location, bytes]:
    """Read a file and say which file it was, both from one descriptor.

    Raises:
        ImageUnreadable: as ``locate``, or no regular file, or larger than the limit, or the disk
            failed.
    """
    with _opened(path, roots) as (descriptor, location):
        return location, read_descriptor(descriptor, limits)


def point_id(path: str, roots: Sequence[Root]) -> str:
    """The id of the picture at a canonical path: a UUID (version 5) over bytes.

    Under a named root it covers the root's name and the path below it, so that hosts with
    different mount points agree; else the whole path.
    """
    root = _root_of(path, roots)
    if root is not None and root.name:
        below = os.path.relpath(path, root.folder)
        name = os.fsencode(root.name) + b"\0" + os.fsencode(below)
    else:
        name = os.fsencode(path)
    # uuid.uuid5 takes bytes only from Python 3.12 on.
    digest = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def is_gone(path: str) -> bool:
    """Whether there is surely no such file; a disk that does not answer is no proof of it."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


@contextmanager
def _opened(path: str | Path, roots: Sequence[Root]) -> Iterator[tuple[int, Location]]:
    descriptor = open_file(path)
    try:
        status = os.fstat(descriptor)
        real = _descriptor_path(descriptor, os.fspath(path))
        if not _leads_to(real, status):
            raise ImageUnreadable("was moved or replaced while it was being opened")
        if roots and not is_inside(real, roots):
            listed = ", ".join(str(root.folder) for root in roots)
            raise ImageUnreadable(f"is outside the roots {listed} (WARMCLIP_ROOTS)")
        yield (
            descriptor,
            Location(
                id=point_id(real, roots),
                path=real,
                size_bytes=status.st_size,
                mtime_ns=status.st_mtime_ns,
            ),
        )
    finally:
        os.close(descriptor)


def _descriptor_path(descriptor: int, path: str) -> str:
    """The path that an open descriptor leads to, as the kernel tells it."""
    if sys.platform == "darwin":
        # Spelled as on disk, whatever case or Unicode form the caller used.
        name = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return os.fsdecode(name.rstrip(b"\0"))
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:  # no /proc: the caller compares the file behind the path instead
        return os.path.realpath(path)


def _leads_to(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False


def is_inside(path: str, roots: Sequence[Root]) -> bool:
    """Whether a path, taken as it is spelt, lies below one of the roots."""
    return _root_of(path, roots) is not None


def _root_of(path: str, roots: Sequence[Root]) -> Root | None:
    """The innermost root above a path."""
    above = [root for root in roots if path.startswith(prefix_below(str(root.folder)))]
    return max(above, key=lambda root: len(str(root.folder)), default=None)
