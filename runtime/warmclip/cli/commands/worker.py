"""The command worker."""

from typing import Annotated

import typer

from warmclip.cli.options import (
    Bundle,
    Decode,
    EnvFile,
    ExifTranspose,
    LogJson,
    Provider,
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
    reserve: Annotated[
        str | None,
        typer.Option(
            "--reserve",
            metavar="QUEUES",
            help="One more worker, only for these queues: `high` for searches that never wait "
            "behind long jobs.",
        ),
    ] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(
            "--metrics-port",
            metavar="[HOST:]PORT",
            help="Answer /metrics and /livez here, on loopback unless a host is named; each "
            "further worker on the next port.",
        ),
    ] = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    env_file: EnvFile = None,
    log_json: LogJson = False,
    supervisor: Annotated[int | None, typer.Option(hidden=True)] = None,
    shares_store: Annotated[bool, typer.Option("--shares-store", hidden=True)] = False,
) -> None:
    """Run jobs from Redis with a warm model, without ever forking it."""
    with open_terminal(verbose=True, log_json=log_json):
        from warmclip.work.metrics_address import parse_address, write_address
        from warmclip.work.run import run_worker
        from warmclip.work.supervisor import Supervisor

        names = _queue_names("--queues", queues)
        settings = read_settings(bundle, None, provider, exif_transpose, decode, env_file=env_file)
        reserved = [] if reserve is None else _queue_names("--reserve", reserve)
        count = workers + bool(reserved)
        metrics = None if metrics_port is None else parse_address(metrics_port, count)
        if count == 1:
            run_worker(
                settings,
                queues=names,
                burst=burst,
                max_jobs=max_jobs,
                supervisor=supervisor,
                shares_store=shares_store,
                metrics=metrics,
            )
            return
        if workers > 1 and settings.qdrant_url is None:
            raise SettingsError(
                f"--workers {workers}: the embedded store has one owner; several workers need a "
                "Qdrant server (`make db-up`) and QDRANT_URL"
            )
        # Each worker gets the options of this command.
        arguments = ["--burst"] if burst else []
        arguments += [f"--max-jobs={max_jobs}"] if max_jobs else []
        arguments += [f"--bundle={bundle}"] if bundle else []
        arguments += [f"--provider={provider}"] if provider else []
        arguments += ["--exif-transpose"] if exif_transpose else []
        arguments += [f"--decode={decode}"] if decode else []
        arguments += [f"--env-file={env_file}"] if env_file else []
        arguments += ["--log-json"] if log_json else []
        commands = [[f"--queues={','.join(names)}", *arguments] for _ in range(workers)]
        if reserved:
            commands.append([f"--queues={','.join(reserved)}", "--shares-store", *arguments])
        if metrics is not None:
            host, first = metrics
            for place, command in enumerate(commands):
                command.append(f"--metrics-port={write_address(host, first + place)}")
        raise typer.Exit(Supervisor(commands).run())


def _queue_names(option: str, names: str) -> list[str]:
    queues = [name.strip() for name in names.split(",") if name.strip()]
    if not queues:
        raise SettingsError(f"{option}={names!r}: name at least one queue")
    return queues
