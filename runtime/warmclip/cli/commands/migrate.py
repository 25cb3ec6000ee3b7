"""The command migrate."""

from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.commands.index import open_indexer, show_index_report
from warmclip.cli.console import Terminal
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
from warmclip.errors import QueueUnreachable, SettingsError
from warmclip.progress import Progress
from warmclip.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warmclip.work.model_switch import ModelSwitch
    from warmclip.work.workers import WorkerState

_PATIENCE_S = 120.0  # for the next worker: it may try providers with the model first


def migrate(
    collection: Annotated[str, typer.Argument(help="The collection to carry over.")],
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    switch: Annotated[
        bool,
        typer.Option(
            "--switch/--no-switch",
            help="Whether to switch when all are embedded, or to leave that to a further run.",
        ),
    ] = True,
    back: Annotated[
        bool,
        typer.Option("--switch-back", help="Embed nothing: switch back to the former vectors."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Even if more than 20 % of the pictures cannot be read or, with --switch-back, "
            "have no former vectors.",
        ),
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
        if drop and (back or not switch):
            raise SettingsError("--drop goes with a switch to other vectors")
        if back and not switch:
            raise SettingsError("--switch-back and --no-switch exclude each other")
        if back:
            _switch_back(terminal, settings, insist=bundle is not None, yes=yes)
            return
        with open_indexer(settings, terminal) as indexer, terminal.progress("images") as progress:
            report = indexer.migrate(
                yes=yes,
                drop=drop,
                switch=switch,
                on_switch=lambda former: _tell_workers(
                    terminal, settings, former, indexer.fingerprint, progress
                ),
                progress=progress,
            )
        show_index_report(terminal, report)
        if not switch and not terminal.as_json:
            terminal.print("nothing was switched; the same command without --no-switch does that")
        raise typer.Exit(report.exit_code)


def _switch_back(terminal: Terminal, settings: Settings, *, insist: bool, yes: bool) -> None:
    from warmclip.indexing.collection_bundle import bundle_fingerprint
    from warmclip.indexing.migration import switch_back
    from warmclip.store.open import share_store

    wanted = bundle_fingerprint(settings.bundle, settings) if insist else None
    with share_store(settings) as store:
        outcome = switch_back(store, settings.collection, wanted, yes=yes)
    with terminal.progress("workers") as progress:
        _tell_workers(terminal, settings, outcome.former, outcome.now, progress)
    if terminal.as_json:
        terminal.json(outcome.to_dict())
        return
    terminal.print(
        f"{outcome.collection!r} leads to the vectors of the model {outcome.now[:12]} again"
    )
    if outcome.behind:
        terminal.print(
            f"{outcome.behind} pictures were indexed or changed since and are not found in them: "
            "`warmclip index` with their folders embeds them"
        )


def _tell_workers(
    terminal: Terminal, settings: Settings, former: str, now: str, progress: Progress
) -> None:
    """Announce a switch, and wait until the workers have followed."""
    from warmclip.work.model_switch import ModelSwitch
    from warmclip.work.private_redis import has_private_redis

    if settings.redis_url is None and not has_private_redis(settings.home):
        return  # there was never a worker
    switch = ModelSwitch(collection=settings.collection, former=former, now=now)
    try:
        left = _announce(settings, switch, progress)
    except QueueUnreachable as exc:
        terminal.note(f"workers learn of it at their next job, as they could not be told: {exc}")
        return
    for worker in left:
        terminal.note(
            f"the worker {worker.name} on {worker.hostname} still has the former model, "
            f"as {worker.trouble or 'it is busy'}"
        )


def _announce(
    settings: Settings, switch: "ModelSwitch", progress: Progress
) -> "Sequence[WorkerState]":
    from warmclip.work.broker import QUICK_ANSWER_S, open_broker
    from warmclip.work.model_switch import announce, wait_for_workers

    with open_broker(settings, answer_s=QUICK_ANSWER_S) as connection:
        announce(connection, switch)
        return wait_for_workers(
            connection,
            switch,
            patience_s=_PATIENCE_S,
            on_poll=lambda done, total: progress(done, total, "workers load the model"),
        )
