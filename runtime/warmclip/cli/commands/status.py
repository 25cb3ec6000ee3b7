"""The command status."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from warmclip.cli.commands.index import show_submitted
from warmclip.cli.console import Terminal
from warmclip.cli.options import EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.logs import printable


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
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show queues, workers and recent failures."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.work import requeue as again
        from warmclip.work.broker import open_broker
        from warmclip.work.model_switch import find_differences, read_noted_model
        from warmclip.work.poisoned_files import PoisonedFiles
        from warmclip.work.status import read_status

        settings = read_settings(env_file=env_file)
        with open_broker(settings) as connection:
            if requeue or requeue_failed:
                nothing: tuple[list[str], int] = ([], 0)
                poisoned = again.requeue_poisoned(connection, settings) if requeue else nothing
                failed = again.requeue_failed(connection) if requeue_failed else nothing
                show_submitted(terminal, [*poisoned[0], *failed[0]], poisoned[1] + failed[1])
            elif dead:
                files = [file.to_dict() for file in PoisonedFiles(connection).all()]
                show_poisoned_files(terminal, files)
            else:
                found = read_status(connection)
                in_use = read_noted_model(connection, settings.collection)
                differences = find_differences(found.workers, settings.collection, in_use)
                model = {"collection": settings.collection, "model": in_use}
                show_status(terminal, found.to_dict() | model | {"differences": differences})


def show_status(terminal: Terminal, status: Mapping[str, Any]) -> None:
    """Write queues, workers and failed jobs."""
    if terminal.as_json:
        terminal.json(status)
        return
    queues = status["queues"]
    terminal.print_table(queues, ("queue", "name"), "queued", "started", "finished", "failed")
    workers = [
        worker
        | {
            "at": _how_far(worker),
            "model": ", ".join(it[:12] for it in worker["models"]),
        }
        for worker in status["workers"]
    ]
    terminal.print_table(
        workers, ("worker", "name"), "state", "job", "at", "model", "hostname", "pid"
    )
    for difference in status["differences"]:
        terminal.print(printable(difference))
    for failure in status["failures"]:
        job = f"{failure['function']} {failure['job']}"
        terminal.print(f"failed  {failure['ended_at']}  {printable(job)}")
        terminal.print(f"        {printable(failure['reason'])}")
    if status["dead"]:
        terminal.print(f"pictures set aside: {status['dead']}; `warmclip status --dead` lists them")
    if not status["workers"]:
        terminal.print("no worker is running; start one with `warmclip worker`")


def _how_far(worker: Mapping[str, Any]) -> str | None:
    """How far a worker's job is, or its start."""
    from warmclip.work.liveness import STARTING, describe_stage

    if worker["at"] is None:
        return None
    if worker["state"] == STARTING:
        return describe_stage(worker["at"])
    done, total, _ = worker["at"]
    return f"{done} of {total}"


def show_poisoned_files(terminal: Terminal, files: Sequence[Mapping[str, Any]]) -> None:
    """Write the pictures that were set aside, and why."""
    if terminal.as_json:
        terminal.json({"dead": list(files)})
        return
    for file in files:
        terminal.print(f"{printable(file['at'])}  {printable(file['path'])}")
        terminal.print(f"    {printable(file['reason'])}")
    if files:
        terminal.print("`warmclip status --requeue` gives them another chance")
    else:
        terminal.print("no picture is set aside")
