"""The commands about jobs: worker, status."""

from typing import Annotated

import typer

from warmclip.cli.options import (
    Bundle,
    ExifTranspose,
    Json,
    LogJson,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)
from warmclip.errors import SettingsError


def worker(
    queues: Annotated[
        str, typer.Option("--queues", help="What to work on, the most urgent first.")
    ] = "high,default",
    burst: Annotated[bool, typer.Option("--burst", help="Stop when the queues are empty.")] = False,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    log_json: LogJson = False,
) -> None:
    """Run jobs from Redis with a warm model, without ever forking it."""
    with open_terminal(verbose=True, log_json=log_json):
        from warmclip.work.worker import run_worker

        names = [name.strip() for name in queues.split(",") if name.strip()]
        if not names:
            raise SettingsError(f"--queues={queues!r}: name at least one queue")
        settings = read_settings(bundle, None, provider, exif_transpose)
        run_worker(settings, queues=names, burst=burst)


def status(as_json: Json = False, verbose: Verbose = False) -> None:
    """Show queues, workers and recent failures."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.work.broker import open_broker
        from warmclip.work.status import read_status

        with open_broker(read_settings()) as connection:
            terminal.queue_status(read_status(connection).to_dict())
