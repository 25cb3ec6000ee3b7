"""The command serve."""

from pathlib import Path
from typing import Annotated

import typer

from warmclip.cli.options import Collection, EnvFile, LogJson, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.errors import SettingsError, missing_package
from warmclip.serve import DEFAULT_RATE


def serve(
    host: Annotated[
        str, typer.Option("--host", help="The address; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            parser=parse_path,
            metavar="PATH",
            help="A file with the bearer token [WARMCLIP_TOKEN].",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A name by which requests may call this server."),
    ] = None,
    rate: Annotated[
        int,
        typer.Option(
            "--rate",
            min=0,
            max=10_000_000,
            help="Requests a minute of one address; 0: any number.",
        ),
    ] = DEFAULT_RATE,
    collection: Collection = None,
    env_file: EnvFile = None,
    log_json: LogJson = False,
) -> None:
    """Serve training sessions, searches and vectors over HTTP; workers do the work."""
    with open_terminal(verbose=True, log_json=log_json):
        settings = read_settings(collection=collection, env_file=env_file)
        try:
            from warmclip.serve.server import run_server
        except ModuleNotFoundError as exc:
            package = missing_package(exc)
            raise SettingsError(f"{package} is missing: pip install 'warmclip[serve]'") from exc
        run_server(
            settings,
            host=host,
            port=port,
            token_file=token_file,
            hosts=allow_host or (),
            rate=rate,
        )
