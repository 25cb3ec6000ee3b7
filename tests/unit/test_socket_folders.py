"""Folders of sockets in the folder that all users share: kept while in use, and then removed."""

import fcntl
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from running import eventually
from warmclip import fsutil
from warmclip.fsutil import socket_folder, socket_path, sweep_socket_folders


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that all users share."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fsutil, "_SOCKET_FOLDERS", ".")  # of a socket's address, which is short
    return Path()


@pytest.fixture
def folder(shared: Path) -> Path:
    """One that a server has used."""
    made = socket_path(Path("/", "x" * 200), "s").parent
    made.mkdir(mode=0o700)
    assert made.parent == shared
    return made


def bound(path: Path) -> socket.socket:
    """A socket at a path, on which nobody listens."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(os.fspath(path))
    return made


def _other_file(folder: Path) -> None:
    bound(folder / "s").close()
    (folder / "file").touch()


def _link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def _link_inside(folder: Path) -> None:
    bound(folder.parent / "s").close()
    (folder / "s").symlink_to(folder.parent / "s")


def _of_somebody_else(folder: Path) -> None:
    folder.rename(folder.with_name(f"warmclip-{os.geteuid() + 1}-0123"))


def _open_to_others(folder: Path) -> None:
    folder.chmod(0o755)


@pytest.mark.parametrize(
    "change", [_other_file, _link, _link_inside, _of_somebody_else, _open_to_others]
)
def test_what_is_no_folder_of_a_dead_server(folder: Path, change: Callable[[Path], None]) -> None:
    """It is left alone, and so is what a link leads to."""
    change(folder)
    before = sorted(folder.parent.rglob("*"))
    sweep_socket_folders()
    assert sorted(folder.parent.rglob("*")) == before


def test_server_that_is_gone(folder: Path) -> None:
    """An empty folder is removed, and one with the socket of a killed server."""
    empty = socket_path(Path("/", "y" * 200), "s").parent
    empty.mkdir(mode=0o700)
    bound(folder / "s").close()
    sweep_socket_folders()
    assert not folder.exists()
    assert not empty.exists()


def test_server_that_listens(folder: Path) -> None:
    """It is kept, also if the server takes no connection: it may be stopped."""
    with bound(folder / "s") as listening:
        listening.listen(0)
        for _ in range(5):
            sweep_socket_folders()
        assert (folder / "s").is_socket()


def test_server_that_is_being_started(folder: Path) -> None:
    """Its folder is kept before it listens, and made anew if it was just being swept."""
    with socket_folder(folder), bound(folder / "s"):
        sweep_socket_folders()
        assert (folder / "s").is_socket()
    sweeping = os.open(folder, os.O_RDONLY)
    fcntl.flock(sweeping, fcntl.LOCK_EX)
    entered, leave = threading.Event(), threading.Event()

    def start() -> None:
        with socket_folder(folder):
            entered.set()
            leave.wait()

    server = threading.Thread(target=start)
    server.start()
    assert not entered.wait(0.2)
    (folder / "s").unlink()
    folder.rmdir()
    os.close(sweeping)
    eventually(entered.is_set)
    sweep_socket_folders()
    assert folder.is_dir()
    leave.set()
    server.join()
    sweep_socket_folders()
    assert not folder.exists()
