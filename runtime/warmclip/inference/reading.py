"""Files that somebody named, read safely: each within a deadline, none larger than allowed."""

import errno
import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self, TypeVar, cast

from warmclip.errors import ImageAbsent, ImageUnavailable, ImageUnreadable
from warmclip.settings import Limits

T = TypeVar("T")

_DIGEST = re.compile("sha256:[0-9a-f]{64}")

_CHUNK_BYTES = 1024 * 1024
_SF_DATALESS = 0x40000000  # in macOS's sys/stat.h

# A thread in a read that does not end cannot be stopped. This many a process leaves behind; then it
# reads nothing until one of them comes back.
MOST_STUCK = 16
_stuck: set[threading.Thread] = set()
_stuck_lock = threading.Lock()


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


class FileReader:
    """Waits for files to arrive, each for a bounded time.

    A network or cloud disk may take minutes for a file, or for ever, and no call interrupts that.
    So each read has a thread of its own, which is left behind when it is late and does not keep
    the process from ending. It may be used from several threads.
    """

    _CLOSED = object()

    def __init__(self, limits: Limits) -> None:
        """Nothing is read yet.

        Args:
            limits: ``read_s`` is how long one read may take.
        """
        self._seconds = limits.read_s
        self._lock = threading.Lock()
        self._awaited: set[SimpleQueue[object]] = set()
        self._is_closed = False

    def read(self, read: Callable[[], T], *, seconds: float | None = None) -> T:
        """Return what the call returns, or raise what it raises.

        Args:
            read: opens, reads or looks at files, and changes nothing: it may be left behind.
            seconds: how long it may take, unless as long as the limits say.

        Raises:
            ImageUnavailable: it took too long, too many others do not end, or ``close`` was called.
        """
        seconds = self._seconds if seconds is None else seconds
        outcome: SimpleQueue[object] = SimpleQueue()
        with self._lock:
            if self._is_closed:
                raise _closed()
            self._awaited.add(outcome)
        has_ended = False
        thread = _start_reading(read, outcome)
        try:
            result = outcome.get(timeout=seconds)
            has_ended = result is not self._CLOSED
        except Empty:
            raise ImageUnavailable(
                f"did not arrive within {seconds} s (WARMCLIP_READ_SECONDS); is it on a "
                "network or cloud disk that is slow or away?"
            ) from None
        finally:
            with self._lock:
                self._awaited.discard(outcome)
            if not has_ended:
                with _stuck_lock:
                    _stuck.add(thread)
        if result is self._CLOSED:
            raise _closed()
        if isinstance(result, _Raised):
            raise result.error
        return cast("T", result)

    def close(self) -> None:
        """Have no call wait any longer."""
        with self._lock:
            self._is_closed = True
            for outcome in self._awaited:
                outcome.put(self._CLOSED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


def _closed() -> ImageUnavailable:
    return ImageUnavailable("was not read, as the run was ended")


def _start_reading(read: Callable[[], object], outcome: "SimpleQueue[object]") -> threading.Thread:
    def put_outcome() -> None:
        try:
            result = read()
        except BaseException as exc:
            result = _Raised(exc)
        outcome.put(result)

    with _stuck_lock:
        _stuck.difference_update([it for it in _stuck if not it.is_alive()])
        if len(_stuck) >= MOST_STUCK:
            raise ImageUnavailable(
                f"was not read: {len(_stuck)} reads of other files have not ended; is a disk away?"
            )
    # A daemon: the interpreter ends without it.
    thread = threading.Thread(target=put_outcome, name="warmclip-read", daemon=True)
    thread.start()
    return thread


def digest_name(data: bytes) -> str:
    """What bytes without a name are called: the same bytes are known again by it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest_name(name: str) -> bool:
    """Whether a picture's name is one of ``digest_name``, and so no path."""
    return _DIGEST.fullmatch(name) is not None


def read_image_file(path: str | Path, limits: Limits) -> bytes:
    """Read a regular file, at most ``limits.image_bytes`` long; only its disk can make it wait.

    Raises:
        ImageUnreadable: it is no regular file, or too large.
        ImageUnavailable: no permission, or the disk failed.
    """
    descriptor = open_file(path)
    try:
        return read_descriptor(descriptor, limits)
    finally:
        os.close(descriptor)


def open_file(path: str | Path) -> int:
    """Open whatever lies at a path for reading, without waiting; the caller closes it.

    Raises:
        ImageUnavailable: it cannot be opened.
    """
    try:
        # Without O_NONBLOCK a FIFO would hold us here until somebody writes to it.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as exc:
        raise not_opened(exc) from exc


def not_opened(exc: OSError | ValueError) -> ImageUnavailable:
    """The error for a file that cannot be opened, or looked at."""
    if isinstance(exc, ValueError):  # a NUL, or a character that no file name has
        return ImageAbsent("cannot be opened: no file has such a name")
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return ImageAbsent(f"cannot be opened: {exc.strerror}")
    if exc.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # Linux and macOS refuse a socket so
        return ImageUnavailable("is a socket, not a regular file")
    return ImageUnavailable(f"cannot be opened: {exc.strerror}")


def read_descriptor(descriptor: int, limits: Limits) -> bytes:
    """Read an open descriptor to its end, as ``read_image_file`` does; it stays open.

    Raises:
        ImageUnreadable, ImageUnavailable: as ``read_image_file``.
    """
    chunks = []
    read_bytes = 0
    try:
        check_readable(os.fstat(descriptor), limits)
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            chunks.append(chunk)
            read_bytes += len(chunk)
            check_bytes(read_bytes, limits)  # again: a file may grow while it is read
    except OSError as exc:
        raise ImageUnavailable(f"cannot be read: {exc.strerror}") from exc
    return b"".join(chunks)


def check_readable(status: os.stat_result, limits: Limits) -> None:
    """Refuse to read what is no regular file on this disk, or larger than the limit.

    Args:
        status: of the open descriptor.
        limits: how many bytes it may have, and whether it may be downloaded.

    Raises:
        ImageUnreadable, ImageUnavailable: as ``read_image_file``.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ImageUnreadable(f"is {kind_of(status.st_mode)}, not a regular file")
    check_bytes(status.st_size, limits)
    if is_dataless(getattr(status, "st_flags", 0)) and not limits.cloud_files:
        raise ImageUnavailable(
            "is only in iCloud or another cloud, not on this disk: download it first, or set "
            "WARMCLIP_CLOUD_FILES=1 to have it downloaded when it is read"
        )


def is_dataless(flags: int) -> bool:
    """Whether a file's bytes are not on this disk, by its flags as macOS has them (st_flags)."""
    return bool(flags & _SF_DATALESS)


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
