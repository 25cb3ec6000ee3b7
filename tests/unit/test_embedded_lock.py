"""Who owns the folder of the embedded store."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmclip.errors import SettingsError, StoreError, StoreHeld
from warmclip.store.embedded_lock import check_lock, lock_store, read_owner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a store; it is not there yet."""
    return tmp_path / "home" / "qdrant"


@pytest.fixture
def lock(folder: Path) -> Iterator[int]:
    """Of this process; a test may have closed it."""
    lock = lock_store(folder)
    yield lock
    os.close(lock)


def test_one_owner(folder: Path) -> None:
    """A second one is refused, with the number of the first, until that has closed its lock."""
    folder.parent.mkdir(mode=0o755)  # a home that others may read
    lock = lock_store(folder)
    before = set(Path("/dev/fd").iterdir())
    with pytest.raises(StoreHeld, match=f"in use by process {os.getpid()};"):
        lock_store(folder)
    assert set(Path("/dev/fd").iterdir()) <= before
    os.close(lock)
    os.close(lock_store(folder))


@pytest.mark.parametrize(
    ("told", "known", "lives"),
    [
        ("this one", True, True),
        ("one that has ended", True, False),  # a child of it has inherited the lock
        ("", False, True),
        ("none", False, True),
    ],
)
def test_owner_that_has_ended(
    folder: Path,
    lock: int,  # noqa: ARG001 - it is held
    told: str,
    known: bool,
    lives: bool,
) -> None:
    """Whoever is refused learns whether the process that took the lock still runs."""
    numbers = {"this one": str(os.getpid()), "one that has ended": str(ended())}
    owner = numbers.get(told, told)
    (folder / ".owner").write_text(owner)
    assert read_owner(folder) == (int(owner) if known else None)
    with pytest.raises(StoreHeld, match=f"process {owner if known else '[?]'};") as caught:
        lock_store(folder)
    assert caught.value.by_the_living is lives


def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_number_of_the_owner(folder: Path) -> None:
    """It is for this user alone, nothing is left of a former one's, and none is told of nobody."""
    assert read_owner(folder) is None
    os.close(lock_store(folder))
    (folder / ".owner").write_text("9" * 20)
    os.close(lock_store(folder))
    assert (folder / ".owner").read_text() == str(os.getpid())
    assert stat.S_IMODE((folder / ".owner").stat().st_mode) == 0o600


def test_folder_of_the_owner(folder: Path, lock: int) -> None:
    """A lock that was handed on is good for the folder that it was taken for.

    It goes no further: a program that a job starts does not own the store.
    """
    os.set_inheritable(lock, True)  # as a process has it that was given it
    check_lock(folder, lock)
    assert not os.get_inheritable(lock)
    folder.rename(folder.with_name("moved"))
    with pytest.raises(StoreError, match="cannot use"):
        check_lock(folder, lock)
    other = lock_store(folder)
    with pytest.raises(StoreError, match="was replaced by another folder"):
        check_lock(folder, lock)
    check_lock(folder, other)
    os.close(other)


def test_folder_that_is_open_to_others(folder: Path, lock: int) -> None:
    """Neither is it taken, nor is a lock good for it that was taken before."""
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(SettingsError, match="open to other users"):
        check_lock(folder, lock)
    with pytest.raises(SettingsError, match="open to other users"):
        lock_store(folder)


def test_lock_that_cannot_be_made(folder: Path) -> None:
    """It is told of which store."""
    (folder / ".owner").mkdir(parents=True)
    folder.chmod(0o700)
    with pytest.raises(StoreError, match=f"cannot use the embedded store {folder}"):
        lock_store(folder)
    assert read_owner(folder) is None
