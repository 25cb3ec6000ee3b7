"""What is dear to make, made once for all processes of a test run."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A file or folder that the first process to ask for it makes; the others wait for it.

    Args:
        factory: of pytest; each of xdist's processes has its folder inside that of the run.
        name: of what is made; no other test uses it. Nobody changes what is shared.
        make: makes it at a path where nothing is, whole or not at all.
    """
    own = factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path
