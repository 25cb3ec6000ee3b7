"""The commands about pictures: index, search, migrate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import (
    WORKERS_CHOICE,
    Bundle,
    Collection,
    Decode,
    ExifTranspose,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)
from warmclip.errors import QueueUnreachable, SettingsError, StoreHeld
from warmclip.settings import Settings
from warmclip.store.filter import Filter, Query

if TYPE_CHECKING:
    from warmclip.indexing.contact_sheet import SheetSection
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.report import IndexReport
    from warmclip.store.protocol import Hit, VectorStore


def index(
    paths: Annotated[
        list[Path],
        typer.Argument(
            readable=False, help="Pictures, folders, or quoted patterns like 'trip/*.jpg'."
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
        bool, typer.Option("--prune", help="Also forget pictures that are gone from PATHS.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --prune: even more than 20 % of the collection.")
    ] = False,
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
        settings = read_settings(bundle, collection, provider, exif_transpose, decode)
        if detach and not queue:
            raise SettingsError("--detach goes with --queue")
        if yes and not prune:
            raise SettingsError("--yes goes with --prune")
        if queue and (bundle or provider or exif_transpose or decode):
            raise SettingsError(WORKERS_CHOICE)
        if prune and queue:
            raise SettingsError(
                "--prune needs the store to itself: stop the worker for a moment, "
                "then run it without --queue"
            )
        if queue:
            report = _index_by_queue(
                terminal, settings, paths, detach=detach, retry_unreadable=retry_unreadable
            )
        else:
            with (
                _open_indexer(settings, terminal) as indexer,
                terminal.progress("images") as progress,
            ):
                report = indexer.index(
                    paths,
                    prune=prune,
                    yes=yes,
                    retry_unreadable=retry_unreadable,
                    progress=progress,
                )
        if report is not None:
            terminal.index_report(report)
            raise typer.Exit(report.exit_code)


def search(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to look for, in words.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", readable=False, help="Look for pictures like this one."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="Hits for each query.")
    ] = 10,
    folder: Annotated[
        Path | None, typer.Option("--folder", readable=False, help="Only what lies below it.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="YYYY-MM-DD",
            help="Only files that were last changed on this day or later (UTC), as indexed.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="YYYY-MM-DD",
            help="Only files that were last changed on this day or earlier.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also draw the hits into this PNG file.")
    ] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Ask a running `warmclip worker`.")
    ] = False,
    collection: Collection = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find pictures by words, or by a picture."""
    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(bundle, collection, provider, exif_transpose, decode)
        queries = [Query(text=text) for text in texts or []]
        for path in image or []:
            if not path.is_file():
                raise SettingsError(f"--image {path}: there is no such file")
            queries.append(Query(image=str(path.absolute())))
        if not queries:
            raise SettingsError("say what to look for: words, or --image FILE")
        if any(query.text is not None and not query.text.strip() for query in queries):
            raise SettingsError("an empty text is like nothing: say what to look for")
        check_sheet(sheet)
        has_own_model = bool(bundle or provider or exif_transpose or decode)
        if queue and has_own_model:
            raise SettingsError(WORKERS_CHOICE)
        below = None if folder is None else str(folder.absolute())
        only = Filter.of(below, since, until)
        if queue:
            found = _search_by_worker(settings, queries, limit, only)
        else:
            try:
                found = _search(terminal, settings, queries, limit, only)
            except StoreHeld as held:
                if has_own_model:
                    raise  # the store's owner would answer with a model of its own
                try:
                    found = _search_by_worker(settings, queries, limit, only)
                except QueueUnreachable:
                    raise held from None
        if folder is not None and not any(found) and not folder.is_dir():
            terminal.note(f"--folder {folder}: there is none, and nothing is stored below it")
        if sheet is not None:
            _draw(sheet, settings, queries, found)
        terminal.hits(queries, [[hit.to_dict() for hit in hits] for hits in found])


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
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Embed a collection's pictures with another model, then switch to it at once."""
    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(bundle, collection, provider, exif_transpose, decode)
        with _open_indexer(settings, terminal) as indexer, terminal.progress("images") as progress:
            report = indexer.migrate(yes=yes, drop=drop, progress=progress)
        terminal.index_report(report)
        raise typer.Exit(report.exit_code)


def _index_by_queue(
    terminal: Terminal,
    settings: Settings,
    paths: list[Path],
    *,
    detach: bool,
    retry_unreadable: bool,
) -> "IndexReport | None":
    from warmclip.work.broker import open_broker
    from warmclip.work.producer import submit_index, watch

    with open_broker(settings) as connection:
        run = submit_index(connection, settings, paths, retry_unreadable=retry_unreadable)
        if detach:
            terminal.submitted(run.job_ids, run.images)
            return None
        with terminal.progress("images") as progress:
            return watch(connection, run, progress=progress)


def _search(
    terminal: Terminal, settings: Settings, queries: list[Query], limit: int, only: Filter
) -> "list[list[Hit]]":
    with _open_indexer(settings, terminal) as indexer:
        return [
            indexer.search(query.text, image=query.image, limit=limit, only=only)
            for query in queries
        ]


def _search_by_worker(
    settings: Settings, queries: list[Query], limit: int, only: Filter
) -> "list[list[Hit]]":
    from warmclip.store.protocol import Hit
    from warmclip.work.broker import open_broker
    from warmclip.work.producer import call

    found = []
    with open_broker(settings) as connection:
        for query in queries:
            question = {"text": query.text, "image": query.image, "limit": limit}
            question |= {"collection": settings.collection, **only.to_dict()}
            answer = call(connection, "search", question)
            found.append([Hit.from_dict(hit) for hit in answer["hits"]])
    return found


@contextmanager
def _open_indexer(settings: Settings, terminal: Terminal) -> "Iterator[Indexer]":
    from warmclip.store.open import open_store

    # The store first: it says at once that another process owns it.
    with open_store(settings) as store:
        yield make_indexer(settings, store, terminal)


def make_indexer(settings: Settings, store: "VectorStore", terminal: Terminal) -> "Indexer":
    """An encoder of the settings' model, over a store that is open."""
    from warmclip.indexing.indexer import Indexer
    from warmclip.inference.encoder import Encoder

    # The first time on a machine with more than the CPU, it tries what there is, for a while.
    with terminal.progress("trials") as progress:
        encoder = Encoder.from_settings(settings, progress=progress)
    return Indexer.from_settings(encoder, store, settings)


def _draw(file: Path, settings: Settings, queries: list[Query], found: "list[list[Hit]]") -> None:
    from warmclip.indexing.contact_sheet import SheetSection

    searches = [
        SheetSection(heading=query.heading, hits=hits)
        for query, hits in zip(queries, found, strict=True)
    ]
    save_sheet(file, settings, searches, columns=min(5, max(3, *(len(hits) for hits in found))))


def check_sheet(file: Path | None) -> None:
    """Refuse what cannot name a sheet, before any work is done for it."""
    if file is not None and file.suffix.lower() != ".png":
        raise SettingsError(f"--sheet {file}: the sheet is a PNG, and so ends its name")


def save_sheet(file: Path, settings: Settings, rows: "list[SheetSection]", *, columns: int) -> None:
    """Draw a contact sheet into a file."""
    from warmclip.indexing.contact_sheet import draw_contact_sheet

    sheet = draw_contact_sheet(rows, columns=columns, roots=settings.roots, limits=settings.limits)
    try:
        sheet.save(file, "PNG")
    except OSError as exc:
        raise SettingsError(f"cannot write --sheet {file}: {exc.strerror}") from exc
