"""The command warmclip-export, as far as it needs no torch."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from warmclip import cli
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


def _helps(command: Any) -> Iterator[str]:
    """Every help text of a command and of those below it; typer's classes vary by version."""
    yield from filter(None, (command.help, command.epilog))
    yield from filter(None, (getattr(it, "help", None) for it in command.params))
    for each in getattr(command, "commands", {}).values():
        yield from _helps(each)


@pytest.mark.parametrize("app", [command.app, cli.app])
def test_help_loses_no_words_in_brackets(app: typer.Typer) -> None:
    """Help texts are markup to rich, which drops [words] that look like a tag."""
    helps = list(_helps(typer.main.get_command(app)))

    assert len(helps) > 20
    assert [text for text in helps if Text.from_markup(text).plain != text] == []
