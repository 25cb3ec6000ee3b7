"""The command migrate."""

from typing import Annotated

import typer

from warmclip.cli.commands.index import open_indexer, show_index_report
from warmclip.cli.options import (
    Bundle,
    Decode,
    EnvFile,
    ExifTranspose,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)


def migrate(
    collection: Annotated[str, typer.Argument(help="The collection to carry over.")],
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Even if more than 20 % of the pictures are gone.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Delete the former vectors after the switch.")
    ] = False,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Embed a collection's pictures with another model, then switch to it at once."""
    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(
            bundle, collection, provider, exif_transpose, decode, env_file=env_file
        )
        with open_indexer(settings, terminal) as indexer, terminal.progress("images") as progress:
            report = indexer.migrate(yes=yes, drop=drop, progress=progress)
        show_index_report(terminal, report)
        raise typer.Exit(report.exit_code)
