"""File locks that end with the process which took them, whatever it has forked.

A lock of flock belongs to every process that has its descriptor. O_CLOEXEC takes it from programs
that are started, not from forked children, such as those of multiprocessing: one that outlives its
parent would hold the parent's locks for as long as it runs.
"""

import os
from functools import cache
from pathlib import Path

_files: set[tuple[int, int]] = set()  # those with such a lock, by device and number


def keep_from_children(file: os.stat_result) -> None:
    """Have forked children let go of a file that is open here, now and whenever it is again.

    Args:
        file: whose descriptors of this process hold a lock.
    """
    _watch_forks()
    _files.add((file.st_dev, file.st_ino))


def leave_to_children(file: os.stat_result) -> None:
    """Undo ``keep_from_children``, before a file is deleted: the next one may get its number."""
    _files.discard((file.st_dev, file.st_ino))


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    # In place of each descriptor there is an empty file, so that whoever closes it closes nothing
    # else. To unlock would unlock it for the parent as well.
    empty = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in [int(it.name) for it in Path("/dev/fd").iterdir()]:
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) in _files:
                os.dup2(empty, descriptor, inheritable=False)
        except OSError:  # the listing's own descriptor, closed by now
            continue
    os.close(empty)
