"""The command audit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.collection import CollectionArgument, choose_collection, hint_at_path
from warmclip.cli.commands.index import make_indexer, show_index_report
from warmclip.cli.console import Terminal
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
from warmclip.errors import BundleError, NotStored, SettingsError
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.indexing.audit_report import AuditReport
    from warmclip.indexing.report import IndexReport
    from warmclip.store.protocol import VectorStore


def audit(
    name: CollectionArgument = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            parser=parse_path,
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
    exclude: Exclude = None,
    collection: Collection = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare a collection with folders; exit code 1 if they differ.

    missing: a file without a point. stale: its content has changed. orphan: a point without a
    file, or whose file is excluded. moved: an orphan whose content lies elsewhere. suspect: no
    good check has followed. Those count; identical (the same bytes twice), touched (the same
    bytes, another time) and unreadable (no repair would help) do not.
    """
    with open_terminal(
        as_json, verbose, when_stopped="stopped; what was repaired stays, run it again to go on"
    ) as terminal:
        from warmclip.store.open import share_store

        chosen = choose_collection(name, collection)
        settings = read_settings(
            bundle, chosen, provider, exif_transpose, decode, env_file=env_file
        )
        _check_audit(chosen, paths, suspect=suspect, repair=repair, queue=queue, yes=yes)
        if queue and (bundle or provider or exif_transpose or decode):
            raise SettingsError(WORKERS_CHOICE)
        with share_store(settings) as store:
            try:
                report = _audit(terminal, settings, store, paths or [], bundle, exclude or ())
            except NotStored as exc:
                raise NotStored(f"{exc}{hint_at_path(chosen)}") from exc
            if repair and (report.orphans or report.files_to_index):
                from warmclip.indexing.repair import repair_collection

                report = repair_collection(
                    store,
                    report,
                    _make_index_files(terminal, settings, store, queue=queue),
                    roots=settings.roots,
                    home=settings.home,
                    yes=yes,
                )
        show_audit_report(terminal, report)
        raise typer.Exit(report.exit_code)


def _check_audit(
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


def _audit(
    terminal: Terminal,
    settings: Settings,
    store: "VectorStore",
    paths: Sequence[Path],
    bundle: Path | None,
    exclude: Sequence[str],
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
            exclude=exclude,
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
    return manifest.derive_fingerprint(manifest.image_with(settings.exif, settings.decode))


def _make_index_files(
    terminal: Terminal, settings: Settings, store: "VectorStore", *, queue: bool
) -> "Callable[[Sequence[str]], IndexReport]":
    """A function that indexes files, in this process or by workers."""

    def index_here(files: Sequence[str]) -> "IndexReport":
        indexer = make_indexer(settings, store, terminal)
        with terminal.progress("images") as progress:
            return indexer.index_files(files, progress=progress)

    def index_by_queue(files: Sequence[str]) -> "IndexReport":
        from warmclip.work.broker import open_broker
        from warmclip.work.producer import submit_files, watch

        with open_broker(settings) as connection:
            run = submit_files(connection, settings, files)
            with terminal.progress("images") as progress:
                return watch(connection, run, progress=progress)

    return index_by_queue if queue else index_here


def show_audit_report(terminal: Terminal, report: "AuditReport") -> None:
    """Write how files and a collection differ, and what was repaired."""
    if terminal.as_json:
        terminal.json(report.to_dict())
        return
    if report.paths:
        _show_differences(terminal, report)
    suspects = {it.path: f"{it.provider}, {it.indexed_at}" for it in report.unverified}
    if not suspects and not report.paths:
        terminal.print(f"no vector in {report.collection!r} is suspect")
    elif suspects and report.repaired is None:
        terminal.print(
            f"{len(suspects)} pictures have vectors that no good check has followed; "
            "--repair embeds them again"
        )
    if report.repaired is None:
        terminal.print_paths("suspect", "computed by", suspects)
    else:
        terminal.print("repaired:")
        show_index_report(terminal, report.repaired)
    if report.is_of_another_model:
        terminal.print(
            f"the vectors are of the model {report.generations[0].fingerprint[:12]}, the model "
            f"here is {report.model[:12]}: `warmclip migrate {report.collection}` embeds all "
            "with this one, or name the other as it was when they were made, with --bundle, "
            "--decode and --exif-transpose"
        )


def _show_differences(terminal: Terminal, report: "AuditReport") -> None:
    """Write each kind of difference, and its paths unless they were repaired."""
    kinds: dict[str, dict[str, str]] = {
        "missing": {it.path: f"{it.size_bytes} bytes" for it in report.missing},
        "stale": {
            it.path: f"{it.size_bytes} bytes, were {it.stored_bytes} on {it.indexed_at}"
            for it in report.stale
        },
        "orphan": {
            it.path: ("the file is excluded" if it.excluded else "the file is gone")
            + (it.elsewhere and f", as {it.elsewhere} it is stored")
            for it in report.orphans
        },
        "moved": {it.path: f"was {it.before.path}" for it in report.moved},
        "suspect": {it.path: it.provider for it in report.unverified},
        "other-fingerprint": {it.path: it.fingerprint[:12] for it in report.foreign},
        "not-compared": report.problems,
        "unreadable": report.unreadable,
        "touched": dict.fromkeys(report.touched, "another time, the same bytes"),
        "identical": {
            it.paths[0]: f"the same bytes: {', '.join(it.paths[1:])}" for it in report.identical
        },
    }
    terminal.print(
        f"{report.files} files compared with {report.points} points of {report.collection!r}: "
        + _summary(report)
    )
    counts = [f"{len(details)} {kind}" for kind, details in kinds.items() if details]
    if counts:
        terminal.print(", ".join(counts))
    for kept in report.generations[1:]:
        terminal.print(
            f"beside it, {kept.collection} has {kept.points} points of the model "
            f"{kept.fingerprint[:12]}: `warmclip migrate {report.collection}` with that "
            "model's --bundle brings it up to date and switches to it"
        )
    if report.repaired is None:
        for kind, details in kinds.items():
            if kind != "suspect":  # these are listed by every audit
                terminal.print_paths(kind, "because", details)


def _summary(report: "AuditReport") -> str:
    if report.faults:
        return f"{report.faults} are not as they should be"
    if report.is_of_another_model:
        return "all of another model than the one here"
    return "all is well"
