"""Files that somebody named, read safely: nothing waits, nothing is larger than allowed."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from warmclip.errors import ImageUnreadable
from warmclip.settings import Limits

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class NamedImage:
    """A picture's bytes.

    Attributes:
        name: what it is called in messages, such as its path.
        data: the file's bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class LazyImage:
    """A picture whose bytes are read when it is its turn.

    Attributes:
        name: what it is called in messages, such as its path.
        read: returns the bytes, or raises ImageUnreadable.
    """

    name: str
    read: Callable[[], bytes]


def read_image_file(path: str | Path, limits: Limits) -> bytes:
    """Read a regular file, at most ``limits.image_bytes`` long; nothing else can make it wait.

    Raises:
        ImageUnreadable: no regular file, no permission, too large, or the disk failed.
    """
    descriptor = open_file(path)
    try:
        return read_descriptor(descriptor, limits)
    finally:
        os.close(descriptor)


def open_file(path: str | Path) -> int:
    """Open whatever lies at a path for reading, without waiting; the caller closes it.

    Raises:
        ImageUnreadable: it cannot be opened.
    """
    try:
        # Without O_NONBLOCK a FIFO would hold us here until somebody writes to it.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as exc:
        raise ImageUnreadable(reason_not_opened(exc)) from exc


def reason_not_opened(exc: OSError | ValueError) -> str:
    """Why a file cannot be opened, or looked at, as a report says it."""
    if isinstance(exc, ValueError):  # a NUL, or a character that no file name has
        return "cannot be opened: no file has such a name"
    if exc.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # Linux and macOS refuse a socket so
        return "is a socket, not a regular file"
    return f"cannot be opened: {exc.strerror}"


def read_descriptor(descriptor: int, limits: Limits) -> bytes:
    """Read an open descriptor to its end, as ``read_image_file`` does; it stays open.

    Raises:
        ImageUnreadable: no regular file, too large, or the disk failed.
    """
    chunks = []
    read_bytes = 0
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageUnreadable(f"is {kind_of(status.st_mode)}, not a regular file")
        check_bytes(status.st_size, limits)
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            chunks.append(chunk)
            read_bytes += len(chunk)
            check_bytes(read_bytes, limits)  # again: a file may grow while it is read
    except OSError as exc:
        raise ImageUnreadable(f"cannot be read: {exc.strerror}") from exc
    return b"".join(chunks)


def check_bytes(size_bytes: int, limits: Limits) -> None:
    """Refuse more bytes than the limit.

    Raises:
        ImageUnreadable: naming the limit and its variable.
    """
    if size_bytes > limits.image_bytes:
        raise ImageUnreadable(
            f"has {size_bytes:,} bytes, more than the limit of {limits.image_bytes:,} "
            "(WARMCLIP_MAX_IMAGE_BYTES)"
        )


def kind_of(mode: int) -> str:
    """What kind of thing a file system's entry is, by its mode."""
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for test, name in kinds if test(mode)), "something else")
