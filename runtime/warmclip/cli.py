"""The command ``warmclip``. Options become Settings here, and errors become exit codes.

Exit codes: 0 done, 1 partly done, 2 bad usage or configuration, 3 a service is unreachable,
70 a bug in warmclip.
"""

import dataclasses
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.console import Terminal
from warmclip.errors import QueueUnreachable, SettingsError, StoreHeld, WarmclipError
from warmclip.indexing.query import Query
from warmclip.settings import ProviderChoice, Settings, check_collection

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.report import IndexReport
    from warmclip.indexing.store import Hit

app = typer.Typer(
    name="warmclip",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 partly, 2 bad usage or configuration, 3 service unreachable.",
)

Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="The model folder [WARMCLIP_BUNDLE].")
]
Collection = Annotated[
    str | None, typer.Option("--collection", help="Where the vectors live [WARMCLIP_COLLECTION].")
]
Provider = Annotated[
    ProviderChoice | None,
    typer.Option("--provider", help="Where to compute; auto is the CPU [WARMCLIP_PROVIDER]."),
]
ExifTranspose = Annotated[
    bool,
    typer.Option(
        "--exif-transpose",
        help="Turn pictures by their EXIF tag; its vectors are a space of their own.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warmclip {importlib.metadata.version('warmclip')}")
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


@app.command()
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
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Embed pictures and keep their vectors; unchanged files are skipped."""
    when_stopped = "stopped; run the same command again to go on where it was"
    if queue:
        when_stopped = "no longer waiting; the jobs stay queued, `warmclip status` shows them"
    with _terminal(as_json, verbose, when_stopped=when_stopped) as terminal:
        settings = _settings(bundle, collection, provider, exif_transpose)
        if detach and not queue:
            raise SettingsError("--detach goes with --queue")
        if queue and (bundle or provider or exif_transpose):
            raise SettingsError(
                "--bundle, --provider and --exif-transpose are the worker's own choice: "
                "give them to `warmclip worker`, or index without --queue"
            )
        if prune and queue:
            raise SettingsError(
                "--prune needs the store to itself: stop the worker for a moment, "
                "then run it without --queue"
            )
        if queue:
            report = _index_by_queue(terminal, settings, paths, detach=detach)
        else:
            with _open_indexer(settings) as indexer, terminal.progress("images") as progress:
                report = indexer.index(paths, prune=prune, yes=yes, progress=progress)
        if report is not None:
            terminal.index_report(report)
            raise typer.Exit(report.exit_code)


@app.command()
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
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also draw the hits into this PNG file.")
    ] = None,
    collection: Collection = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find pictures by words, or by a picture."""
    with _terminal(as_json, verbose) as terminal:
        settings = _settings(bundle, collection, provider, exif_transpose)
        queries = [Query(text=text) for text in texts or []]
        for path in image or []:
            if not path.is_file():
                raise SettingsError(f"--image {path}: there is no such file")
            queries.append(Query(image=str(path.absolute())))
        if not queries:
            raise SettingsError("say what to look for: words, or --image FILE")
        if any(query.text is not None and not query.text.strip() for query in queries):
            raise SettingsError("an empty text is like nothing: say what to look for")
        if sheet is not None and sheet.suffix.lower() != ".png":
            raise SettingsError(f"--sheet {sheet}: the sheet is a PNG, and so ends its name")
        try:
            found = _search(settings, queries, limit)
        except StoreHeld as held:
            if bundle or provider or exif_transpose:
                raise  # the store's owner would answer with a model of its own
            try:
                found = _search_by_worker(settings, queries, limit)
            except QueueUnreachable:
                raise held from None
        if sheet is not None:
            _draw(sheet, settings, queries, found)
        terminal.hits(queries, [[hit.to_dict() for hit in hits] for hits in found])


@app.command()
def migrate(
    collection: Annotated[str, typer.Argument(help="The collection to carry over.")],
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
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
    with _terminal(as_json, verbose) as terminal:
        settings = _settings(bundle, collection, provider, exif_transpose)
        with _open_indexer(settings) as indexer, terminal.progress("images") as progress:
            report = indexer.migrate(yes=yes, drop=drop, progress=progress)
        terminal.index_report(report)
        raise typer.Exit(report.exit_code)


@app.command()
def worker(
    queues: Annotated[
        str, typer.Option("--queues", help="What to work on, the most urgent first.")
    ] = "high,default",
    burst: Annotated[bool, typer.Option("--burst", help="Stop when the queues are empty.")] = False,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
) -> None:
    """Run jobs from Redis with a warm model, without ever forking it."""
    with _terminal(verbose=True):
        from warmclip.work.worker import run_worker

        names = [name.strip() for name in queues.split(",") if name.strip()]
        if not names:
            raise SettingsError(f"--queues={queues!r}: name at least one queue")
        settings = _settings(bundle, None, provider, exif_transpose)
        run_worker(settings, queues=names, burst=burst)


@app.command()
def status(as_json: Json = False, verbose: Verbose = False) -> None:
    """Show queues, workers and recent failures."""
    with _terminal(as_json, verbose) as terminal:
        from warmclip.work.broker import open_broker
        from warmclip.work.status import read_status

        with open_broker(_settings()) as connection:
            terminal.queue_status(read_status(connection).to_dict())


@app.command()
def bench(
    bundle: Bundle = None,
    provider: Provider = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of which the median counts.")] = 7,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine: images and texts a second, by batch size."""
    with _terminal(as_json, verbose) as terminal:
        from warmclip.inference.bench import measure

        settings = _settings(bundle, None, provider)
        with terminal.progress("rounds") as progress:
            benchmark = measure(settings, rounds=rounds, progress=progress)
        terminal.benchmark(benchmark.to_dict())


def main() -> None:
    """Run the command line."""
    try:
        app()
    except Exception:  # a bug, which must not end in 1: that means "partly done"
        traceback.print_exc()
        sys.exit(70)


def _index_by_queue(
    terminal: Terminal, settings: Settings, paths: list[Path], *, detach: bool
) -> "IndexReport | None":
    from warmclip.work.broker import open_broker
    from warmclip.work.client import submit_index, watch

    with open_broker(settings) as connection:
        run = submit_index(connection, settings, paths)
        if detach:
            terminal.submitted(run.job_ids, run.images)
            return None
        with terminal.progress("images") as progress:
            return watch(connection, run, progress=progress)


def _search(settings: Settings, queries: list[Query], limit: int) -> "list[list[Hit]]":
    with _open_indexer(settings) as indexer:
        return [indexer.search(query.text, image=query.image, limit=limit) for query in queries]


def _search_by_worker(settings: Settings, queries: list[Query], limit: int) -> "list[list[Hit]]":
    from warmclip.indexing.store import Hit
    from warmclip.work.broker import open_broker
    from warmclip.work.client import call

    found = []
    with open_broker(settings) as connection:
        for query in queries:
            question = {"text": query.text, "image": query.image, "limit": limit}
            answer = call(connection, "search", question | {"collection": settings.collection})
            found.append([Hit.from_dict(hit) for hit in answer["hits"]])
    return found


@contextmanager
def _open_indexer(settings: Settings) -> "Iterator[Indexer]":
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.qdrant import open_store

    # The store first: it says at once that another process owns it.
    with open_store(settings) as store:
        from warmclip.inference.encoder import Encoder

        yield Indexer.from_settings(Encoder.from_settings(settings), store, settings)


def _draw(file: Path, settings: Settings, queries: list[Query], found: "list[list[Hit]]") -> None:
    from warmclip.indexing.sheet import Search, contact_sheet

    searches = [
        Search(heading=query.heading, hits=hits) for query, hits in zip(queries, found, strict=True)
    ]
    columns = min(5, max(3, *(len(hits) for hits in found)))
    sheet = contact_sheet(searches, columns=columns, roots=settings.roots, limits=settings.limits)
    try:
        sheet.save(file, "PNG")
    except OSError as exc:
        raise SettingsError(f"cannot write --sheet {file}: {exc.strerror}") from exc


@contextmanager
def _terminal(
    as_json: bool = False, verbose: bool = False, *, when_stopped: str = "stopped"
) -> Iterator[Terminal]:
    """What a command writes to; errors become one paragraph and an exit code."""
    terminal = Terminal(as_json=as_json, verbose=verbose)
    try:
        yield terminal
    except WarmclipError as exc:
        terminal.error(exc)
        raise typer.Exit(exc.exit_code) from None
    except KeyboardInterrupt:
        terminal.note(when_stopped)
        raise typer.Exit(130) from None


def _settings(
    bundle: Path | None = None,
    collection: str | None = None,
    provider: ProviderChoice | None = None,
    exif_transpose: bool = False,
) -> Settings:
    """The environment's settings, with what the command line says in their place."""
    settings = Settings.from_env(os.environ)
    return dataclasses.replace(
        settings,
        bundle=bundle or settings.bundle,
        collection=check_collection(collection) if collection else settings.collection,
        provider=provider or settings.provider,
        exif="transpose" if exif_transpose else settings.exif,
    )


if __name__ == "__main__":
    main()
