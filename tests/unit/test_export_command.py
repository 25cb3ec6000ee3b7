"""The command warmclip-export, as far as it needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from warmclip_export import __main__ as command

HEAVY = ("torch", "open_clip", "onnx", "onnxruntime", "skimage", "sklearn")


def test_help_loads_nothing_heavy() -> None:
    """--help answers at once: the module is imported without torch or onnxruntime."""
    code = (
        "import sys, warmclip_export.__main__;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )

    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert found.stdout.strip() == "[]"


def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the extra, the command says what to install and ends with 2."""
    monkeypatch.setattr("warmclip_export.__main__.find_spec", lambda _name: None)

    result = CliRunner().invoke(command.app, ["model", "--out", str(tmp_path)])

    assert result.exit_code == 2
    assert "pip install 'warmclip[export]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_drawn_and_listed(tmp_path: Path) -> None:
    """draw-scenes writes as many pictures as asked, and --json names them."""
    result = CliRunner().invoke(
        command.app, ["draw-scenes", str(tmp_path), "--count", "3", "--json"]
    )

    files = json.loads(result.stdout)["files"]
    assert result.exit_code == 0
    assert sorted(files) == sorted(str(path) for path in tmp_path.iterdir())
    assert len(files) == 3


def test_drawing_into_a_file_is_refused(tmp_path: Path) -> None:
    """A path that is no folder ends with 2 and the path."""
    (tmp_path / "taken").write_bytes(b"")

    result = CliRunner().invoke(command.app, ["draw-scenes", str(tmp_path / "taken")])

    assert result.exit_code == 2
    assert "taken" in result.stderr


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden"])
def test_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    """--name is the plain name of a folder."""
    result = CliRunner().invoke(command.app, ["model", "--out", str(tmp_path), "--name", name])

    assert result.exit_code == 2
    assert "--name" in result.stderr
    assert list(tmp_path.iterdir()) == []
