"""Locks that forked children do not hold on to."""

import fcntl
import os
import signal
import time
from pathlib import Path

from warmclip.child_locks import keep_from_children
from warmclip.fsutil import file_lock

PATIENCE_S = 60.0


def is_free(file: Path) -> bool:
    """Whether somebody else could take the lock now."""
    with file.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_lock_that_a_child_does_not_get(tmp_path: Path) -> None:
    """The parent keeps it until it lets go itself; other files stay open in the child."""
    lock, other = tmp_path / "lock", tmp_path / "other"
    with lock.open("w") as held, other.open("w") as written:
        keep_from_children(os.fstat(held.fileno()))
        fcntl.flock(held, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            held.close()  # closes nothing else, and unlocks nothing
            written.write("by the child")
            written.flush()
            signal.pause()
        try:
            gives_up_at = time.monotonic() + PATIENCE_S
            while not other.read_text():
                assert time.monotonic() < gives_up_at, "the child has not run"
                time.sleep(0.01)
            assert not is_free(lock)
            held.close()
            assert is_free(lock)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_lock_file_of_a_forking_process(tmp_path: Path) -> None:
    """Whoever forks while it holds one leaves none behind in its child."""
    lock = tmp_path / "lock"
    with file_lock(lock):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with file_lock(lock, patience_s=PATIENCE_S):  # the child may not have run yet
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
