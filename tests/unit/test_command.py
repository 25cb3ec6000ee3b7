"""What both commands have in common: -h, and the version."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import warmclip
from warmclip import cli
from warmclip_export import __main__ as export

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def _commands() -> list[tuple[typer.Typer, str]]:
    found = []
    for app in (cli.app, export.app):
        found.append((app, ""))
        for command in app.registered_commands:
            function = command.callback
            assert function is not None
            found.append((app, command.name or function.__name__))
    return found


@pytest.mark.parametrize(
    ("app", "command"), [pytest.param(*it, id=f"{it[0].info.name}-{it[1]}") for it in _commands()]
)
def test_short_help(app: typer.Typer, command: str) -> None:
    """-h is --help, for both programs and for each of their commands."""
    asked = [command] if command else []
    short = CliRunner().invoke(app, [*asked, "-h"])
    long = CliRunner().invoke(app, [*asked, "--help"])
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert "Usage:" in short.stdout


@pytest.mark.parametrize(
    ("module", "program"), [("warmclip", "warmclip"), ("warmclip_export", "warmclip-export")]
)
def test_version_of_the_command_and_of_the_package(module: str, program: str) -> None:
    """`python -m` and `--version` tell what `__version__` tells: the version of the package."""
    told = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"]
    assert told.stdout == f"{program} {declared}\n"
    assert warmclip.__version__ == version("warmclip") == declared
