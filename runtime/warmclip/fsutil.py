"""Folders that are ours alone: what lies in them is trusted, so nobody else may write there."""

import errno
import fcntl
import hashlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from warmclip.child_locks import keep_from_children
from warmclip.errors import SettingsError

# What a socket's address holds on macOS, without the final zero; Linux has 4 bytes more.
_MAX_SOCKET_BYTES = 103
# Not TMPDIR, which differs between a terminal and a service: every client must agree.
_SOCKET_FOLDERS = "/tmp"  # noqa: S108 - private_folder checks what is made there
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def private_folder(folder: Path, *, private: bool) -> Path:
    """Make a folder, unless it is there, and check that nobody else can tamper with it.

    Args:
        folder: made with mode 0700, its parents as usual.
        private: whether others may not even read an existing one.

    Raises:
        SettingsError: it belongs to somebody else, is a link of somebody else's, is no folder, or
            is open to others.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        link = folder.lstat()
        status = link if private else folder.stat()
    except OSError as exc:
        raise SettingsError(
            f"cannot make {folder}: {exc.strerror}; name another folder with WARMCLIP_HOME"
        ) from exc
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
        # In a folder that all users share, it may lead to any folder of ours.
        raise SettingsError(
            f"{folder} is a link of the user with the number {link.st_uid}; "
            "name a folder of your own with WARMCLIP_HOME"
        )
    forbidden = 0o077 if private else 0o022
    if not stat.S_ISDIR(status.st_mode):
        raise SettingsError(f"{folder} is not a folder; remove it, or set WARMCLIP_HOME")
    if status.st_uid != os.geteuid():
        raise SettingsError(
            f"{folder} belongs to the user with the number {status.st_uid}, not to you; "
            "name a folder of your own with WARMCLIP_HOME"
        )
    if status.st_mode & stat.S_ISVTX:
        raise SettingsError(
            f"{folder} is shared by all users; name a folder of your own with WARMCLIP_HOME, "
            f"such as {folder / 'warmclip'}"
        )
    if status.st_mode & forbidden:
        raise SettingsError(
            f"{folder} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}), who could "
            "have put anything there. If nobody did, close it: "
            f"chmod {'700' if private else 'go-w'} '{folder}'"
        )
    return folder


@contextmanager
def file_lock(
    lock: Path, *, waiting: Callable[[], None] | None = None, patience_s: float | None = None
) -> Iterator[None]:
    """Hold a lock file: one process at a time is inside, and a process that dies lets go.

    Args:
        lock: made with mode 0600, and never deleted; a link is not followed.
        waiting: called about five times a second while another process is inside.
        patience_s: how long to wait for it; None: as long as it lives.

    Raises:
        TimeoutError: another process was inside for all that time.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(lock, flags, 0o600)
    keep_from_children(os.fstat(descriptor))
    gives_up_at = None if patience_s is None else time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if gives_up_at is not None and time.monotonic() >= gives_up_at:
                    raise TimeoutError(
                        f"another process holds {lock} for over {patience_s:.0f} s"
                    ) from None
                if waiting is not None:
                    waiting()
                time.sleep(0.2 if waiting is not None else 0.01)
            else:
                break
        yield
    finally:
        os.close(descriptor)


def replace_file(file: Path, content: str) -> None:
    """Write a file whole or not at all, mode 0600; a reader sees the former content or this."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(partial, flags, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def write_out(path: Path) -> None:
    """Have the system write a file to its disk; of a folder, the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def socket_path(folder: Path, name: str) -> Path:
    """Where the server of a folder listens: inside it, if the address is short enough.

    Otherwise the folder above it is still to be made, by ``socket_folder``.
    """
    inside = folder / name
    if len(os.fsencode(inside)) <= _MAX_SOCKET_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(_SOCKET_FOLDERS, f"{_socket_prefix()}{digest}", name)


@contextmanager
def socket_folder(folder: Path) -> Iterator[int]:
    """Make the folder of a socket, and keep it while the server is not listening yet.

    Yields:
        A descriptor: as long as a server that has inherited it lives, the folder is kept as well.

    Raises:
        SettingsError: as of ``private_folder``.
    """
    descriptor = None
    while descriptor is None:
        private_folder(folder, private=True)
        descriptor = _lock_folder(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_folder(folder: Path) -> int | None:
    """A descriptor with a lock that keeps a folder; None: it was swept just now."""
    try:
        descriptor = os.open(folder, _FOLDER_FLAGS)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.path.samestat(os.fstat(descriptor), folder.lstat()):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError:  # locks are not to be had there, and it is no folder that is swept
        return descriptor
    os.close(descriptor)
    return None


def sweep_socket_folders() -> None:
    """Remove what is left of this user's servers in the folder that all users share."""
    for folder in Path(_SOCKET_FOLDERS).glob(f"{_socket_prefix()}*"):
        with suppress(OSError):  # somebody's link, or one in use, or gone
            _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    descriptor = os.open(folder, _FOLDER_FLAGS)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sockets = list(folder.iterdir())
        if all(map(_is_dead_socket, sockets)):
            for it in sockets:
                it.unlink()
            folder.rmdir()
    finally:
        os.close(descriptor)


def _is_dead_socket(path: Path) -> bool:
    """Whether it is a socket on which nobody listens; a server of a former release has no lock."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED


def _socket_prefix() -> str:
    return f"warmclip-{os.geteuid()}-"


def prefix_below(folder: str) -> str:
    """What the path of everything below a folder begins with, and of nothing else."""
    return folder.rstrip(os.sep) + os.sep
