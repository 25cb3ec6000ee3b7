"""Options that several commands have, the settings that they make, and the exit codes."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.paths import parse_path
from warmclip.errors import WarmclipError
from warmclip.inference.providers import check_choice
from warmclip.settings import DecodeRule, Settings, check_collection, read_env_file

Bundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        parser=parse_path,
        metavar="PATH",
        help="The model folder [WARMCLIP_BUNDLE].",
    ),
]
Collection = Annotated[
    str | None, typer.Option("--collection", help="Where the vectors live [WARMCLIP_COLLECTION].")
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider", help="Where to compute; auto: the fastest that is right [WARMCLIP_PROVIDER]."
    ),
]
ExifTranspose = Annotated[
    bool,
    typer.Option(
        "--exif-transpose",
        help="Turn pictures by their EXIF tag; its vectors are a space of their own.",
    ),
]
Decode = Annotated[
    DecodeRule | None,
    typer.Option(
        "--decode",
        help="scaled: large JPEGs in less than half the time; its vectors are a space of their own "
        "[WARMCLIP_DECODE].",
    ),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        parser=parse_path,
        metavar="PATH",
        help="A file with variables, such as .env; those of the environment come first.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="Pass by what matches, as .gitignore has it, such as 'raw/' or '*-small.jpg'; may be "
        "repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")]
LogJson = Annotated[
    bool,
    typer.Option("--log-json", help="On stderr only logs, one JSON object a line."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]

WORKERS_CHOICE = (
    "--bundle, --provider, --exif-transpose and --decode are the worker's own choice: "
    "give them to `warmclip worker`, or do without --queue"
)
"""Why the options of a model are refused beside --queue."""


@contextmanager
def open_terminal(
    as_json: bool = False,
    verbose: bool = False,
    *,
    log_json: bool = False,
    when_stopped: str = "stopped",
) -> Iterator[Terminal]:
    """Open what a command writes to; an error becomes one paragraph and an exit code."""
    terminal = Terminal(as_json=as_json, verbose=verbose, log_json=log_json)
    try:
        yield terminal
    except WarmclipError as exc:
        terminal.error(exc)
        raise typer.Exit(exc.exit_code) from None
    except KeyboardInterrupt:
        terminal.note(when_stopped)
        raise typer.Exit(130) from None


def read_settings(
    bundle: Path | None = None,
    collection: str | None = None,
    provider: str | None = None,
    exif_transpose: bool = False,
    decode: DecodeRule | None = None,
    *,
    env_file: Path | None = None,
) -> Settings:
    """The settings of a file and of the environment, replaced by the options that are given."""
    variables = read_env_file(env_file) if env_file is not None else {}
    # One that is empty counts as unset, so that the file's counts.
    variables |= {name: value for name, value in os.environ.items() if value}
    settings = Settings.from_env(variables)
    return dataclasses.replace(
        settings,
        bundle=bundle or settings.bundle,
        collection=settings.collection if collection is None else check_collection(collection),
        provider=check_choice(provider or settings.provider),
        exif="transpose" if exif_transpose else settings.exif,
        decode=decode or settings.decode,
    )
