"""Unit: macOS's facts, asked of a program in the place of sysctl."""

from pathlib import Path

import pytest

from warmclip import sysctl
from warmclip.sysctl import read_sysctl


def tool(folder: Path, script: str) -> Path:
    """A program."""
    file = folder / "sysctl"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ('[ "$1 $2" = "-n kern.osversion" ] && echo 25B78', "25B78"),
        ("echo; exit 0", None),
        ("echo 'sysctl: unknown oid' >&2; exit 1", None),
    ],
)
def test_value(tmp_path: Path, script: str, value: str | None) -> None:
    """It is stripped; what the system does not know is None."""
    assert read_sysctl("kern.osversion", tool=tool(tmp_path, script)) == value


def test_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that hangs, or is not there, tells nothing; nobody waits for it for ever."""
    monkeypatch.setattr(sysctl, "_TIMEOUT_S", 0.2)
    assert read_sysctl("kern.osversion", tool=tool(tmp_path, "exec sleep 600")) is None
    assert read_sysctl("kern.osversion", tool=tmp_path / "none") is None
