"""What both commands have in common: -h, and the version."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

import warmclip
from warmclip import cli
from warmclip.cli.console import fold_reasons
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


def _paths(app: typer.Typer, words: list[str]) -> Iterator[Any]:
    """Each argument and option of an app's commands whose type is a path, left empty."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = str(group.typer_instance.info.name)
        yield from _paths(group.typer_instance, [*words, name])
    for command in app.registered_commands:
        assert command.callback is not None
        named = [*words, command.name or command.callback.__name__]
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            if "Path" in str(get_args(hint)[:1]):
                (info,) = hint.__metadata__
                is_option = isinstance(info, typer.models.OptionInfo)
                before = [f"--{name.replace('_', '-')}"] if is_option else []
                if not is_option and named[-1] in ("audit", "duplicates"):
                    before = ["images"]
                yield pytest.param([*named, *before, ""], id=" ".join([*named, *before]))


def test_garbage_of_a_command_that_goes_on() -> None:
    """Python looks for it as usual once all is imported: a service would keep what it drops."""
    program = """
import gc
import sys
from warmclip.__main__ import main

usual = gc.get_threshold()
sys.argv = ["warmclip", "--version"]
try:
    main()
finally:
    assert gc.get_threshold() == usual, gc.get_threshold()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


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


@pytest.mark.parametrize(
    "arguments", [*_paths(cli.app, ["warmclip"]), *_paths(export.app, ["warmclip-export"])]
)
def test_empty_path(arguments: list[str]) -> None:
    """A variable that is not set is refused by every argument and option that takes a path, and
    does not mean the current folder.
    """
    program, *rest = arguments
    told = CliRunner().invoke(cli.app if program == "warmclip" else export.app, rest)
    assert told.exit_code == 2
    assert "an empty path" in " ".join(told.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments", [["audit", "", "."], ["duplicates", ""], ["search", "a", "--collection", ""]]
)
def test_empty_collection(arguments: list[str]) -> None:
    """It is refused, and does not mean the usual one."""
    told = CliRunner().invoke(cli.app, arguments)
    assert told.exit_code == 2
    assert "collection ''" in told.stderr


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ({}, {}),
        ({"a": "empty", "b": "gone", "c": "empty", "d": "empty"}, None),
        (
            {"a": "empty", "b": "gone", "c": "empty", "d": "empty", "e": "empty"},
            {"4 files, such as a": "empty", "b": "gone"},
        ),
        (dict.fromkeys("abcdefghijklmnopqrst", "empty"), {"20 files, such as a": "empty"}),
    ],
)
def test_reasons_that_are_equal(reasons: dict[str, str], told: dict[str, str] | None) -> None:
    """Many files with one reason are one line with their number; few are told one by one."""
    assert fold_reasons(reasons) == (reasons if told is None else told)
