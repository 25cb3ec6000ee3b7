"""The commands about collections as a whole: audit, duplicates."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from warmclip.cli.pictures import check_sheet, make_indexer, save_sheet
from warmclip.errors import BundleError, NotStored, SettingsError
from warmclip.settings import Settings, check_collection

if TYPE_CHECKING:
    from warmclip.indexing.audit_report import AuditReport
    from warmclip.indexing.duplicates import DuplicatesReport
    from warmclip.indexing.report import IndexReport
    from warmclip.store.protocol import VectorStore

Named = Annotated[
    str | None, typer.Argument(metavar="[COLLECTION]", help="The collection to look at.")
]

_MOST_DRAWN = 50  # groups: a sheet of 17,000 px
_COLUMNS = 6


def audit(
    name: Named = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            readable=False,
            help="Compare it with these folders; without, only suspects are looked for.",
        ),
    ] = None,
    suspect: Annotated[
        bool,
        typer.Option(
            "--suspect",
            help="List the pictures whose vectors no good check of their provider has followed.",
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Embed what is missing, stale or suspect, reuse the vectors of moved files, "
            "forget orphans.",
        ),
    ] = False,
    queue: Annotated[
        bool,
        typer.Option(
            "--queue", help="With --repair: send the work to a running `warmclip worker`."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="With --repair: forget even more than 20 % of the collection."),
    ] = False,
    collection: Collection = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare a collection with folders; exit code 1 if they differ.

    missing: a file without a point. stale: its content has changed. orphan: a point without a
    file. moved: an orphan whose content lies elsewhere. suspect: no good check has followed. Those
    count; identical (the same bytes twice), touched (the same bytes, another time) and unreadable
    (no repair would help) do not.
    """
    with open_terminal(
        as_json, verbose, when_stopped="stopped; what was repaired stays, run it again to go on"
    ) as terminal:
        from warmclip.store.open import open_store

        chosen = _one_name(name, collection)
        settings = read_settings(bundle, None, provider, exif_transpose, decode)
        settings = replace(settings, collection=_checked(chosen, settings.collection))
        _check_audit(settings, chosen, paths, suspect=suspect, repair=repair, queue=queue, yes=yes)
        if queue and (bundle or provider or exif_transpose or decode):
            raise SettingsError(WORKERS_CHOICE)
        with open_store(settings) as store:
            try:
                report = _look(terminal, settings, store, paths or [], bundle)
            except NotStored as exc:
                raise NotStored(f"{exc}{_taken_for_a_path(chosen)}") from exc
            if repair and (report.orphans or report.files_to_index):
                from warmclip.indexing.repair import repair_collection

                report = repair_collection(
                    store,
                    report,
                    _indexing(terminal, settings, store, queue=queue),
                    roots=settings.roots,
                    home=settings.home,
                    yes=yes,
                )
        terminal.audit_report(report)
        raise typer.Exit(report.exit_code)


def duplicates(
    name: Named = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", readable=False, help="Only pictures at or below these."
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            help="The least cosine; 1 finds exact copies. It depends on the model: look at the "
            "sheet before you trust a lower one.",
        ),
    ] = 0.995,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also draw the groups into this PNG file.")
    ] = None,
    collection: Collection = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Group stored pictures that nearly are one picture; nothing is deleted.

    Each group has its largest picture first, and those that are near to it, each by itself.
    """
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.indexing.duplicates import find_duplicates
        from warmclip.store.open import open_store

        chosen = _one_name(name, collection)
        settings = read_settings()
        settings = replace(settings, collection=_checked(chosen, settings.collection))
        check_sheet(sheet)
        with open_store(settings) as store, terminal.progress("pictures") as progress:
            try:
                report = find_duplicates(
                    store, settings.collection, paths or [], threshold=threshold, progress=progress
                )
            except NotStored as exc:
                raise NotStored(f"{exc}{_taken_for_a_path(chosen)}") from exc
        if paths and not report.pictures:
            listed = ", ".join(map(str, paths))
            terminal.note(f"{listed}: nothing of {settings.collection!r} is stored there or below")
        if sheet is not None:
            _draw_groups(terminal, sheet, settings, report)
        terminal.duplicates_report(report)


def _draw_groups(
    terminal: Terminal, file: Path, settings: Settings, report: "DuplicatesReport"
) -> None:
    from warmclip.indexing.contact_sheet import SheetSection

    drawn = report.groups[:_MOST_DRAWN]
    if len(drawn) < len(report.groups):
        terminal.note(f"the sheet has the first {len(drawn)} of {len(report.groups)} groups")
    rows = [
        SheetSection(
            heading=f"{len(group.hits)} pictures; the same bytes as the first: {group.identical}",
            hits=group.hits[:_COLUMNS],
        )
        for group in drawn
    ]
    columns = max(3, *(len(row.hits) for row in rows)) if rows else 3
    save_sheet(file, settings, rows, columns=columns)


def _one_name(argument: str | None, option: str | None) -> str | None:
    """The collection that the command line names, by position or with --collection."""
    if argument and option and argument != option:
        raise SettingsError(f"two collections: {argument!r}, and --collection {option!r}")
    return argument or option


def _checked(named: str | None, default: str) -> str:
    if named is None:
        return default
    try:
        return check_collection(named)
    except SettingsError as exc:
        raise SettingsError(f"{exc}{_taken_for_a_path(named)}") from exc


def _taken_for_a_path(named: str | None) -> str:
    """What to add to an error about a collection that was meant to be a path, perhaps."""
    if named is None or not (os.sep in named or Path(named).exists()):
        return ""
    return (
        f". {named!r} looks like a path; the collection's name comes first: "
        "`warmclip audit COLLECTION PATH...`, and so for `duplicates`"
    )


def _check_audit(
    settings: Settings,
    named: str | None,
    paths: Sequence[Path] | None,
    *,
    suspect: bool,
    repair: bool,
    queue: bool,
    yes: bool,
) -> None:
    if named is None and not suspect:
        raise SettingsError(
            "say what to audit: `warmclip audit COLLECTION PATH...` compares folders with a "
            "collection; --suspect lists the pictures whose provider failed, or whose process "
            "died, before a check confirmed their vectors; --repair makes good what is found"
        )
    if suspect and paths:
        raise SettingsError("--suspect looks at the whole collection: leave it out, or the paths")
    if (queue or yes) and not repair:
        raise SettingsError("--queue and --yes go with --repair")
    if queue and settings.qdrant_url is None:
        raise SettingsError(
            "--queue needs a Qdrant server (QDRANT_URL): the embedded store has one owner, and "
            "the audit reads it. Stop the worker for a moment, then repair without --queue"
        )


def _look(
    terminal: Terminal,
    settings: Settings,
    store: "VectorStore",
    paths: Sequence[Path],
    bundle: Path | None,
) -> "AuditReport":
    from warmclip.indexing.audit import audit_folders
    from warmclip.indexing.audit_report import AuditReport, find_unverified

    if not paths:
        return AuditReport(
            collection=settings.collection, unverified=find_unverified(store, settings.collection)
        )
    model = _fingerprint(settings, insist=bundle is not None)
    with terminal.progress("") as progress:
        return audit_folders(
            store,
            settings.collection,
            paths,
            roots=settings.roots,
            limits=settings.limits,
            home=settings.home,
            model=model,
            progress=progress,
        )


def _fingerprint(settings: Settings, *, insist: bool) -> str:
    """The embedding space of the model here; empty if there is none, which an audit can do with."""
    from warmclip.inference.bundle import Manifest

    file = settings.bundle / "manifest.json"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        if insist:
            raise BundleError(f"--bundle: cannot read {file}: {exc.strerror}") from exc
        return ""
    manifest = Manifest.parse(text, file)
    recipe = {"exif": settings.exif, "decode": settings.decode}
    return manifest.derive_fingerprint(manifest.image.model_copy(update=recipe))


def _indexing(
    terminal: Terminal, settings: Settings, store: "VectorStore", *, queue: bool
) -> "Callable[[Sequence[str]], IndexReport]":
    """How files are brought in: here, or by workers."""

    def here(files: Sequence[str]) -> "IndexReport":
        indexer = make_indexer(settings, store, terminal)
        with terminal.progress("images") as progress:
            return indexer.index_files(files, progress=progress)

    def by_queue(files: Sequence[str]) -> "IndexReport":
        from warmclip.work.broker import open_broker
        from warmclip.work.producer import submit_files, watch

        with open_broker(settings) as connection:
            run = submit_files(connection, settings, files)
            with terminal.progress("images") as progress:
                return watch(connection, run, progress=progress)

    return by_queue if queue else here
