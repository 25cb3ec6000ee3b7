"""The command forget."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import Collection, EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.errors import JobFailed, SettingsError
from warmclip.logs import printable
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.indexing.forgetting import ForgetReport
    from warmclip.progress import Progress

    Forget = Callable[[bool], ForgetReport]
    """Forgets some thousand pictures, or only counts them all if it is told so."""


def forget(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            metavar="PATH...",
            help="Folders or pictures, as they were indexed; they need not be there.",
        ),
    ],
    collection: Collection = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Have a running `warmclip worker` do it.")
    ] = False,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Delete what is stored at or below PATHS, whether or not the disk is there.

    The files are not touched. Vectors that `migrate` left are cleared as well.
    """
    with open_terminal(
        as_json, verbose, when_stopped="stopped; run the same command again to go on where it was"
    ) as terminal:
        from warmclip.indexing.roots import normalise

        settings = read_settings(collection=collection, env_file=env_file)
        named = [normalise(str(path.absolute())) for path in paths]
        with _open_forget(settings, named, queue=queue) as ask:
            report = ask(True)
            if not dry_run:
                if report.pictures or report.kept:
                    _confirm(terminal, report, named, yes=yes)
                with terminal.progress("pictures") as progress:
                    report = _forget_all(ask, report, progress)
        if as_json:
            terminal.json(report.to_dict() | {"paths": named, "dry_run": dry_run})
        else:
            _show(terminal, report, named, dry_run=dry_run)


@contextmanager
def _open_forget(settings: Settings, paths: Sequence[str], *, queue: bool) -> "Iterator[Forget]":
    """What forgets these paths: this process, or a worker."""
    from warmclip.indexing.forgetting import MOST_AT_ONCE, forget_pictures
    from warmclip.store.open import share_store

    if queue:
        with _open_worker(settings, paths) as ask:
            yield ask
        return
    with share_store(settings) as store:
        yield lambda dry_run: forget_pictures(
            store,
            settings.collection,
            paths,
            home=settings.home,
            dry_run=dry_run,
            most=None if dry_run else MOST_AT_ONCE,
        )


@contextmanager
def _open_worker(settings: Settings, paths: Sequence[str]) -> "Iterator[Forget]":
    from warmclip.indexing.forgetting import ForgetReport
    from warmclip.work.broker import QUICK_ANSWER_S, open_broker
    from warmclip.work.call import CALL_QUEUE, call
    from warmclip.work.worker_watch import wait_for_start

    with open_broker(settings, answer_s=QUICK_ANSWER_S) as connection:
        wait_for_start(connection, CALL_QUEUE)

        def ask(dry_run: bool) -> ForgetReport:
            arguments = {"paths": list(paths), "collection": settings.collection}
            answer = call(connection, "forget_images", arguments | {"dry_run": dry_run})
            try:
                return ForgetReport.from_dict(answer)
            except (LookupError, TypeError) as exc:
                raise JobFailed(
                    "a worker's answer in Redis tells of nothing forgotten: are client and "
                    "workers of one warmclip?"
                ) from exc

        yield ask


def _forget_all(ask: "Forget", counted: "ForgetReport", progress: "Progress") -> "ForgetReport":
    total = counted.pictures + counted.kept
    report = ask(False)
    while not report.complete:
        progress(report.pictures + report.kept, total, "forgetting")
        report += ask(False)
    return report


def _confirm(
    terminal: Terminal, report: "ForgetReport", paths: Sequence[str], *, yes: bool
) -> None:
    """Ask whether it is meant.

    Raises:
        SettingsError: it is not, or nobody can be asked.
    """
    question = f"Forget {_count(report)} at or below {_listed(paths)}? The files are not touched"
    if not yes and not terminal.confirm(question):
        raise SettingsError("nothing was forgotten")


def _show(
    terminal: Terminal, report: "ForgetReport", paths: Sequence[str], *, dry_run: bool
) -> None:
    if report.pictures or report.kept:
        told = "would be forgotten" if dry_run else "forgotten; the files were not touched"
        terminal.print(f"{_count(report)} at or below {_listed(paths)}: {told}")
    else:
        terminal.print(f"nothing of {report.collection!r} is stored at or below {_listed(paths)}")
        for path in paths:
            real = os.path.realpath(path)
            if real != path:
                terminal.print(f"{printable(path)} leads to {printable(real)}: forget that?")
    if report.refused:
        terminal.print(f"{report.refused} files there that could not be read: forgotten as well")


def _count(report: "ForgetReport") -> str:
    kept = f", and {report.kept} vectors that `migrate` left," if report.kept else ""
    return f"{report.pictures} pictures of {report.collection!r}{kept}"


def _listed(paths: Sequence[str]) -> str:
    first = ", ".join(printable(path) for path in paths[:3])
    return first if len(paths) <= 3 else f"{first} and {len(paths) - 3} more"
