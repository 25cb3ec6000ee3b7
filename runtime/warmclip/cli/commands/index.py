"""The command index."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.compaction import compact_if_it_pays
from warmclip.cli.console import Terminal, fold_reasons
from warmclip.cli.options import (
    WORKERS_CHOICE,
    Bundle,
    Collection,
    Decode,
    EnvFile,
    Exclude,
    ExifTranspose,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)
from warmclip.cli.paths import parse_path
from warmclip.errors import SettingsError
from warmclip.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.report import IndexReport
    from warmclip.inference.encoder import Encoder
    from warmclip.store.protocol import VectorStore


def index(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            metavar="PATH...",
            help="Pictures, folders, or quoted patterns like 'trip/*.jpg'.",
        ),
    ],
    collection: Collection = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Send the work to a running `warmclip worker`.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="With --queue: do not wait; see `warmclip status`.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Also forget pictures that are gone from PATHS, or excluded."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --prune: even more than 20 % of the collection.")
    ] = False,
    exclude: Exclude = None,
    env_file: EnvFile = None,
    retry_unreadable: Annotated[
        bool,
        typer.Option(
            "--retry-unreadable",
            help="Also read again the files that could not be read before, though unchanged.",
        ),
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Embed pictures and keep their vectors; unchanged files are skipped."""
    when_stopped = "stopped; run the same command again to go on where it was"
    if queue:
        when_stopped = "no longer waiting; the jobs stay queued, `warmclip status` shows them"
    with open_terminal(as_json, verbose, when_stopped=when_stopped) as terminal:
        settings = read_settings(
            bundle, collection, provider, exif_transpose, decode, env_file=env_file
        )
        if detach and not queue:
            raise SettingsError("--detach goes with --queue")
        if yes and not prune:
            raise SettingsError("--yes goes with --prune")
        if queue and (bundle or provider or exif_transpose or decode):
            raise SettingsError(WORKERS_CHOICE)
        if prune and queue:
            raise SettingsError(
                "--prune goes without --queue: this process deletes, a worker may run beside it"
            )
        if queue:
            report = _index_by_queue(
                terminal,
                settings,
                paths,
                detach=detach,
                retry_unreadable=retry_unreadable,
                exclude=exclude or (),
            )
            if report is not None:
                show_index_report(terminal, report)
                raise typer.Exit(report.exit_code)
        else:
            from warmclip.store.open import share_store

            with share_store(settings) as store:
                indexer = load_indexer(settings, terminal, store, insist=bundle is not None)
                with terminal.progress("images") as progress:
                    report = indexer.index(
                        paths,
                        prune=prune,
                        yes=yes,
                        retry_unreadable=retry_unreadable,
                        exclude=exclude or (),
                        progress=progress,
                    )
                show_index_report(terminal, report)
                del indexer  # and its model, before a compaction takes memory
                compact_if_it_pays(terminal, store, settings.collection)
            raise typer.Exit(report.exit_code)


def _index_by_queue(
    terminal: Terminal,
    settings: Settings,
    paths: list[Path],
    *,
    detach: bool,
    retry_unreadable: bool,
    exclude: "Sequence[str]",
) -> "IndexReport | None":
    from warmclip.work.broker import open_broker
    from warmclip.work.producer import submit_index, watch

    with open_broker(settings) as connection:
        run = submit_index(
            connection, settings, paths, retry_unreadable=retry_unreadable, exclude=exclude
        )
        if detach:
            show_submitted(terminal, run.job_ids, run.images, run.problems)
            if run.problems:
                raise typer.Exit(1)
            return None
        with terminal.progress("images") as progress:
            return watch(connection, run, progress=progress)


@contextmanager
def open_indexer(
    settings: Settings, terminal: Terminal, *, insist: bool = True
) -> "Iterator[Indexer]":
    """Open the store, and then an encoder over it.

    Args:
        settings: with the model, the collection and the store.
        terminal: told how far trials are.
        insist: on the settings' model; else it is that of the collection's vectors, if it is here.
    """
    from warmclip.store.open import share_store

    with share_store(settings) as store:
        yield load_indexer(settings, terminal, store, insist=insist)


def load_indexer(
    settings: Settings, terminal: Terminal, store: "VectorStore", *, insist: bool
) -> "Indexer":
    """Open an encoder over a store that is open; see ``open_indexer``."""
    chosen = settings if insist else choose_model(settings, store, terminal)
    return make_indexer(chosen, store, terminal)


def choose_model(settings: Settings, store: "VectorStore", terminal: Terminal) -> Settings:
    """The settings with the model of the collection's vectors, if it is here; another one is said.

    Raises:
        StoreError: the store failed.
    """
    from warmclip.indexing.collection_bundle import follow_collection

    chosen = follow_collection(settings, store)
    if chosen.bundle != settings.bundle:
        terminal.note(f"{settings.collection!r} is of the model {chosen.bundle}, which is used")
    return chosen


def make_indexer(settings: Settings, store: "VectorStore", terminal: Terminal) -> "Indexer":
    """Open an encoder of the settings' model over a store that is open."""
    from warmclip.indexing.indexer import Indexer

    return Indexer.from_settings(open_encoder(settings, terminal), store, settings)


def open_encoder(settings: Settings, terminal: Terminal) -> "Encoder":
    """Load the settings' model."""
    from warmclip.inference.encoder import Encoder

    # The first time on a machine with more than the CPU, it tries what there is, for a while.
    with terminal.progress("trials") as progress:
        return Encoder.from_settings(settings, progress=progress)


def show_index_report(terminal: Terminal, report: "IndexReport") -> None:
    """Write what became of each picture."""
    if terminal.as_json:
        terminal.json(report.to_dict())
        return
    from warmclip.indexing.ignored import describe_ignored

    terminal.print(f"{describe_counts(report)} in {report.seconds:.1f} s")
    if report.ignored:
        terminal.print(f"{describe_ignored(report.ignored)} ignored")
    terminal.print_paths("skipped", "because", fold_reasons(report.skipped))


def describe_counts(report: "IndexReport") -> str:
    """How many pictures there were of each outcome."""
    counts = {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "reused": report.reused,
        "pruned": report.pruned,
        "skipped": len(report.skipped),
        "unreadable as before (--retry-unreadable reads them again)": len(report.unreadable),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no pictures"


def show_submitted(
    terminal: Terminal,
    job_ids: "Sequence[str]",
    images: int,
    problems: "Mapping[str, str] | None" = None,
) -> None:
    """Write what was queued, when nobody waits for it, and where nothing could be found."""
    if terminal.as_json:
        skipped = {} if problems is None else {"skipped": dict(problems)}
        terminal.json({"jobs": list(job_ids), "images": images, **skipped})
    elif not job_ids:
        terminal.print("nothing was queued")
    else:
        terminal.print(
            f"queued; images: {images}, jobs: {len(job_ids)}; `warmclip status` shows them"
        )
    if not terminal.as_json:
        terminal.print_paths("skipped", "because", problems or {})
