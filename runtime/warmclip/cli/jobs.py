"""The commands about jobs: worker, status."""

from typing import Annotated

import typer

from warmclip.cli.options import (
    Bundle,
    Decode,
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
    max_jobs: Annotated[
        int | None, typer.Option("--max-jobs", min=1, help="Stop after so many.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=256, help="So many processes; needs QDRANT_URL."),
    ] = 1,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    log_json: LogJson = False,
    supervisor: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run jobs from Redis with a warm model, without ever forking it."""
    with open_terminal(verbose=True, log_json=log_json):
        from warmclip.work.run import run_worker
        from warmclip.work.supervisor import run_workers

        names = [name.strip() for name in queues.split(",") if name.strip()]
        if not names:
            raise SettingsError(f"--queues={queues!r}: name at least one queue")
        settings = read_settings(bundle, None, provider, exif_transpose, decode)
        if workers > 1:
            # What was said to this command, said to each of them.
            arguments = [f"--queues={','.join(names)}"]
            arguments += ["--burst"] if burst else []
            arguments += [f"--max-jobs={max_jobs}"] if max_jobs else []
            arguments += [f"--bundle={bundle}"] if bundle else []
            arguments += [f"--provider={provider}"] if provider else []
            arguments += ["--exif-transpose"] if exif_transpose else []
            arguments += [f"--decode={decode}"] if decode else []
            arguments += ["--log-json"] if log_json else []
            raise typer.Exit(run_workers(workers, settings, arguments))
        run_worker(settings, queues=names, burst=burst, max_jobs=max_jobs, supervisor=supervisor)


def status(
    dead: Annotated[
        bool, typer.Option("--dead", help="List the pictures that were set aside, and why.")
    ] = False,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="Give them another chance, and queue them again.")
    ] = False,
    requeue_failed: Annotated[
        bool, typer.Option("--requeue-failed", help="Queue the jobs again that failed.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show queues, workers and recent failures."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.work import requeue as again
        from warmclip.work.broker import open_broker
        from warmclip.work.poisoned_files import PoisonedFiles
        from warmclip.work.status import read_status

        settings = read_settings()
        with open_broker(settings) as connection:
            if requeue or requeue_failed:
                nothing: tuple[list[str], int] = ([], 0)
                poisoned = again.requeue_poisoned(connection, settings) if requeue else nothing
                failed = again.requeue_failed(connection) if requeue_failed else nothing
                terminal.submitted([*poisoned[0], *failed[0]], poisoned[1] + failed[1])
            elif dead:
                terminal.dead_letters([it.to_dict() for it in PoisonedFiles(connection).all()])
            else:
                terminal.queue_status(read_status(connection).to_dict())
