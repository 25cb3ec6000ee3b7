"""The command ``warmclip``. Options become Settings here, and errors become exit codes.

Exit codes: 0 done, 1 partly done, 2 bad usage or configuration, 3 a service is unreachable,
70 a bug in warmclip.
"""

import logging
import sys
import traceback
from typing import Annotated

import typer

import warmclip
from warmclip import logs
from warmclip.cli.commands.audit import audit
from warmclip.cli.commands.bench import bench
from warmclip.cli.commands.collections import app as collections
from warmclip.cli.commands.compare import compare
from warmclip.cli.commands.doctor import doctor
from warmclip.cli.commands.duplicates import duplicates
from warmclip.cli.commands.forget import forget
from warmclip.cli.commands.index import index
from warmclip.cli.commands.migrate import migrate
from warmclip.cli.commands.models import models
from warmclip.cli.commands.search import search
from warmclip.cli.commands.serve import serve
from warmclip.cli.commands.status import status
from warmclip.cli.commands.worker import worker
from warmclip.cli.console import run_app

log = logging.getLogger(__name__)

app = typer.Typer(
    name="warmclip",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 partly, 2 bad usage or configuration, 3 service unreachable.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warmclip {warmclip.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Embed pictures and texts with an exported OpenCLIP model, and search them."""


_COMMANDS = {
    command.__name__: command
    for command in (
        *(index, search, migrate, audit, duplicates, forget),
        *(worker, serve, status, models, compare, bench, doctor),
    )
}
for command in _COMMANDS.values():
    app.command()(command)
app.add_typer(collections)


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] and sys.argv[1] in _COMMANDS:
        # Typer reads the options of every command that is there before it runs one: 0.04 s.
        app.registered_commands = [
            it for it in app.registered_commands if it.callback is _COMMANDS[sys.argv[1]]
        ]
        app.registered_groups = []
    try:
        run_app(app)
    except Exception:  # a bug, which must not end in 1: that means "partly done"
        if logs.is_json():
            log.critical("a bug in warmclip", exc_info=True)
        else:
            traceback.print_exc()
        sys.exit(70)
