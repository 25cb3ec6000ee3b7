"""RQ's own workers and warmclip's on the same jobs, interleaved in one run.

Figures of one run compare with each other; two runs on a shared machine may not. `make
bench-worker` starts it.
"""

import json
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from bench.machine import describe, load_average, stamp, warning_of_others
from bench.table import open_console
from bench.workers import contenders
from bench.workers.results import Results
from bench.workers.runner import ContenderFailed, Runner, open_runner
from warmclip.cli.options import open_terminal
from warmclip.errors import BundleError, SettingsError
from warmclip.inference.providers import AUTO, check_choice
from warmclip.progress import Progress

log = logging.getLogger("bench")

_MODELS = Path(__file__).parents[2] / "models"


def main(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of which the median counts.")] = 5,
    case: Annotated[
        list[str] | None, typer.Option(help="no-op, one-image, 64-images or fleet; more by more.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="No-op jobs in a round.")] = 300,
    bundle: Annotated[Path, typer.Option(help="The model.")] = _MODELS / "ViT-B-32-random-0",
    checkpoint: Annotated[Path, typer.Option(help="The same weights, for open_clip.")] = _MODELS
    / "ViT-B-32-random-0.safetensors",
    provider: Annotated[
        str, typer.Option(help="What warmclip's Encoder computes on, such as cpu-int8.")
    ] = AUTO,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure into this file.")
    ] = None,
) -> None:
    """Time RQ's own workers and warmclip's on the same jobs, interleaved in one run."""
    signal.signal(signal.SIGTERM, _leave)  # else a worker and its Redis would stay behind
    with open_terminal(verbose=True) as terminal:
        chosen = _choose(case, jobs)
        check_choice(provider)
        pictures = max(it.images for it in chosen)
        for needed in (bundle, checkpoint) if pictures else (bundle,):
            if not needed.exists():
                raise BundleError(f"{needed} is missing; `make bench-worker` makes it")
        results = Results(chosen)
        stopped: BaseException | None = None
        stores = any(it.is_fleet for it in chosen)
        with open_runner(bundle, checkpoint, provider, pictures, stores=stores) as runner:
            environment = describe(runner.connection)
            loads = [load_average()]
            with terminal.progress("runs") as progress:
                try:
                    _run(runner, chosen, rounds, results, loads, progress)
                except (KeyboardInterrupt, SystemExit) as exc:
                    stopped = exc
        if results.rounds:
            _report(
                results, environment | {"bundle": f"{bundle.name} on {provider}"}, loads, json_file
            )
        if stopped is not None:
            raise stopped


def _leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls with
    sys.exit(128 + signum)


def _choose(names: list[str] | None, jobs: int) -> list[contenders.Case]:
    known = {case.name: case for case in contenders.cases(jobs)}
    for name in names or ():
        if name not in known:
            raise SettingsError(f"--case={name}: use one of {', '.join(known)}")
    return [case for name, case in known.items() if not names or name in names]


def _run(
    runner: Runner,
    chosen: list[contenders.Case],
    rounds: int,
    results: Results,
    loads: list[float],
    progress: Progress,
) -> None:
    """Every contender once a round, so that a noisy moment hits them all; whole rounds count."""
    total = rounds * sum(len(case.contenders) for case in chosen)
    done = 0
    for number in range(1, rounds + 1):
        measured = []
        for case in chosen:
            first = number % len(case.contenders)  # nobody always comes after the same one
            for contender in case.contenders[first:] + case.contenders[:first]:
                progress(done, total, f"round {number}, {case.name}: {contender.name}")
                done += 1
                if results.has_failed(case, contender.name):
                    continue
                try:
                    seconds = runner.seconds_per_job(case, contender)
                except ContenderFailed as exc:
                    log.warning("%s, %s: %s", case.name, contender.name, exc)
                    results.fail(case, contender.name, str(exc))
                    continue
                measured.append((case, contender.name, seconds))
                loads.append(load_average())
        results.add_round(measured)
        log.info("round %d of %d is over", number, rounds)


def _report(
    results: Results, environment: dict[str, Any], loads: list[float], json_file: Path | None
) -> None:
    load = {"before": loads[0], "highest": max(loads)}
    warning = warning_of_others(load, environment["cores"])
    console = open_console()
    results.print(console)
    console.print(stamp(environment, load, results.rounds))
    if warning:
        console.print(f"\n{warning}")
    if json_file is not None:
        answer: dict[str, Any] = {
            "environment": environment,
            "rounds": results.rounds,
            "load_average": load,
            "warning": warning,
            **results.to_dict(),
        }
        json_file.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
