"""The embedded store's folder belongs to one process, and to those that it hands the lock on to."""

import contextlib
import fcntl
import os
from pathlib import Path

from warmclip.child_locks import keep_from_children
from warmclip.errors import StoreError, StoreHeld
from warmclip.fsutil import private_folder
from warmclip.process_table import is_running

_LOCK = ".owner"


def lock_store(folder: Path) -> int:
    """Make the folder, if need be, and take it for this process.

    Qdrant's engine has a lock of its own, but an attempt to open a folder that another process
    has open makes that process's next flush fail. So nothing is opened before this lock is held.

    Returns:
        A descriptor that holds the folder as long as this process has it open, or one that it
        was handed on to; forked children do not have it.

    Raises:
        StoreHeld: another process owns it.
        StoreError: it cannot be used.
    """
    try:
        private_folder(folder.parent, private=False)
        private_folder(folder, private=True)
        return _locked(folder)
    except OSError as exc:
        raise StoreError(f"cannot use the embedded store {folder}: {exc}") from exc


def check_lock(folder: Path, lock: int) -> None:
    """See that a folder is still the one whose lock was handed on, and hand it on no further.

    What a job starts may outlive it, and would hold the store.

    Raises:
        StoreError: another one is in its place, or it is not ours alone any more.
    """
    try:
        os.set_inheritable(lock, False)
        keep_from_children(os.fstat(lock))
        private_folder(folder, private=True)
        is_same = os.path.samestat(os.fstat(lock), (folder / _LOCK).lstat())
    except OSError as exc:
        raise StoreError(f"cannot use the embedded store {folder}: {exc}") from exc
    if not is_same:
        raise StoreError(f"the embedded store {folder} was replaced by another folder")


def read_owner(folder: Path) -> int | None:
    """The process that took the lock last, whether or not it still runs; None: nobody knows."""
    try:
        told = (folder / _LOCK).read_text("ascii", "replace").strip()
    except OSError:
        return None
    return int(told) if told.isdigit() else None


def _locked(folder: Path) -> int:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        holder = read_owner(folder)
        raise StoreHeld(
            f"the embedded store {folder} is in use by process {holder or '?'}; wait for it, or "
            "stop it; a `warmclip worker` does what `warmclip index --queue` asks for. Several "
            "that write need a Qdrant server (`make db-up`) and QDRANT_URL",
            by_the_living=holder is None or is_running(holder),
        ) from exc
    keep_from_children(os.fstat(descriptor))
    with contextlib.suppress(OSError):  # a full disk: only the message above loses the number
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))
    return descriptor
