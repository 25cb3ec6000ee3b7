"""The command doctor."""

import os
from typing import Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import (
    Bundle,
    EnvFile,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)
from warmclip.inference.providers import AUTO
from warmclip.settings import Settings


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="onnxruntime only, and less patience with a hang.")
    ] = False,
    deadline: Annotated[
        float, typer.Option(min=1, max=600, help="Seconds that one step of a cell may take.")
    ] = 60.0,
    retry_provider: Annotated[
        str | None,
        typer.Option(
            "--retry-provider", metavar="NAME", help="Let a provider out of quarantine first."
        ),
    ] = None,
    bundle: Bundle = None,
    provider: Provider = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what works on this machine, and what dies in a forked process.

    Each cell runs in a child of its own: the doctor survives what it looks at.
    """
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.doctor.render import render_report
        from warmclip.doctor.report import examine

        settings = read_settings(bundle, None, provider, env_file=env_file)
        if retry_provider is not None:
            _release_provider(terminal, settings, retry_provider)
        with terminal.progress("cells") as progress:
            report = examine(
                settings, os.environ, deadline_s=deadline, quick=quick, progress=progress
            )
        if as_json:
            terminal.json(report.to_dict())
        else:
            terminal.draw(render_report(report))
        raise typer.Exit(report.exit_code)


def _release_provider(terminal: Terminal, settings: Settings, name: str) -> None:
    """Clear a provider's quarantine and its former trials."""
    from warmclip.inference.providers import check_choice
    from warmclip.inference.selection.quarantine import Quarantine
    from warmclip.inference.selection.trial_store import forget_trials

    check_choice(name)
    wanted = None if name == AUTO else name
    cleared = Quarantine(settings.home).clear(wanted)
    forgotten = forget_trials(settings.home, wanted)
    was = f"{', '.join(cleared)} out of quarantine" if cleared else "none was in quarantine"
    terminal.note(f"{name}: {was}; {forgotten} former trials forgotten")
