"""What commands print without doing anything, into a file system that is full."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.quick,
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="macOS has no /dev/full"),
]


@pytest.mark.parametrize("program", ["warmclip", "warmclip_export"])
@pytest.mark.parametrize("options", ["", "--help", "--version", "--show-completion bash"])
def test_help_that_has_no_room(program: str, options: str) -> None:
    """One sentence says so, with the exit code that the answer of a command would have."""
    command = [sys.executable, "-m", program, *options.split()]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: the answer could not be written to standard output: No space")


@pytest.mark.parametrize("program", ["warmclip", "warmclip_export"])
def test_version_that_has_room(program: str) -> None:
    """It is written once."""
    command = [sys.executable, "-m", program, "--version"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.decode().startswith(program.replace("_", "-") + " ")
    assert (len(done.stdout.splitlines()), done.stderr) == (1, b"")
