"""warmclip and what a user would pick instead on the same work, interleaved in one run.

Figures of one run compare with each other; two runs on a shared machine may not. `make bench`
starts it.
"""

import logging
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from bench.embedding import cases as table_of_cases
from bench.embedding.contenders import CONTENDERS
from bench.embedding.fixtures import Fixtures
from bench.embedding.process import ContenderFailed
from bench.embedding.report import Report
from bench.embedding.results import Measured, Results
from bench.embedding.runner import Runner, open_fixtures
from bench.machine import Others, describe, load_average
from bench.table import open_console
from warmclip.cli.options import open_terminal
from warmclip.errors import BundleError, SettingsError
from warmclip.inference.bundle import MANIFEST
from warmclip.progress import Progress

log = logging.getLogger("bench")

_REPOSITORY = Path(__file__).parents[2]
_MODELS = _REPOSITORY / "models"
_DEMO = _MODELS / "demo" / "bundle"
_PACKAGES = (
    "warmclip",
    "onnxruntime",
    "torch",
    "open_clip_torch",
    "numpy",
    "pillow",
    "qdrant-client",
    "qdrant-edge-py",
)


def main(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of which the median counts.")] = 5,
    case: Annotated[
        list[str] | None, typer.Option(help="One of the cases, more by more; all without it.")
    ] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="One of them, more by more; all without it.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Little work: to try it.")] = False,
    provider: Annotated[str, typer.Option(help="Where warmclip computes.")] = "cpu",
    bundle: Annotated[Path, typer.Option(help="warmclip's model.")] = _MODELS / "ViT-B-32-random-0",
    checkpoint: Annotated[Path, typer.Option(help="The same weights, for open_clip.")] = _MODELS
    / "ViT-B-32-random-0.safetensors",
    tokenizer: Annotated[
        Path | None, typer.Option(help="The folder of its tokenizer, where Hugging Face has that.")
    ] = None,
    stock: Annotated[
        Path, typer.Option(help="The same towers, as torch.onnx.export writes them.")
    ] = _MODELS / "ViT-B-32-random-0-stock",
    fastembed: Annotated[Path, typer.Option(help="And as fastembed loads them.")] = _MODELS
    / "ViT-B-32-random-0-fastembed",
    peers_python: Annotated[
        Path, typer.Option(help="The Python that has transformers and fastembed.")
    ] = _REPOSITORY / ".venv-bench" / "bin" / "python",
    out: Annotated[
        Path, typer.Option(help="The folder for results.json, results.md and plot.svg.")
    ] = _REPOSITORY / "bench-output",
) -> None:
    """Compare warmclip with what a user would pick instead, interleaved in one run."""
    signal.signal(signal.SIGTERM, _leave)  # else the contenders would stay behind
    with open_terminal(verbose=True) as terminal:
        scale = table_of_cases.QUICK if quick else table_of_cases.FULL
        results = Results(_among(_choose(case, scale), contender))
        chosen = [CONTENDERS[name] for it in results.cases.values() for name in it.contenders]
        if not any(it.needs_bundle for it in chosen):
            bundle = _DEMO
        for needed, is_needed in (
            (bundle / MANIFEST, True),
            (checkpoint, any(it.needs_checkpoint for it in chosen)),
        ):
            if is_needed and not needed.exists():
                raise BundleError(f"{needed} is missing; `make bench` makes it")
        model = replace(
            Fixtures.of_model(
                Path(),
                bundle.resolve(),
                checkpoint.resolve(),
                str(tokenizer.resolve()) if tokenizer else "",
            ),
            stock=stock.resolve(),
            fastembed=fastembed.resolve(),
            provider=provider,
        )
        environment = describe(packages=_PACKAGES) | {"bundle": bundle.name, "provider": provider}
        report = Report(results, environment, out)
        others = Others()
        stopped: BaseException | None = None
        with (
            terminal.progress("steps") as progress,
            open_fixtures(model, scale, progress) as fixtures,
            closing(Runner(fixtures, results, peers_python)) as runner,
        ):
            try:
                _run(runner, results, report, rounds, progress)
            except (KeyboardInterrupt, SystemExit) as exc:
                stopped = exc
        if results.rounds:
            report.others = others.share()  # now that all of ours have ended
            report.write()
            report.print(open_console())
            terminal.note(f"results.json, results.md and plot.svg are in {out}")
        if stopped is not None:
            raise stopped


def _leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls with
    sys.exit(128 + signum)


def _choose(names: list[str] | None, scale: table_of_cases.Scale) -> list[table_of_cases.Case]:
    known = {case.name: case for case in table_of_cases.cases(scale)}
    for name in names or ():
        if name not in known:
            raise SettingsError(f"--case={name}: use one of {', '.join(known)}")
    return [case for name, case in known.items() if not names or name in names]


def _among(cases: list[table_of_cases.Case], names: list[str] | None) -> list[table_of_cases.Case]:
    """The cases with these contenders alone; without those that have none of them."""
    known = {name for case in cases for name in case.contenders}
    for name in names or ():
        if name not in known:
            raise SettingsError(f"--contender={name}: use one of {', '.join(sorted(known))}")
    if not names:
        return cases
    left = [
        replace(case, contenders=tuple(it for it in case.contenders if it in names))
        for case in cases
    ]
    return [case for case in left if case.contenders]


def _run(runner: Runner, results: Results, report: Report, rounds: int, progress: Progress) -> None:
    """Every contender once a round, so that a noisy moment hits them all; whole rounds count."""
    total = rounds * sum(len(case.contenders) for case in results.cases.values())
    done = 0
    for number in range(rounds):
        runner.begin_round()
        measured: list[Measured] = []
        for case in results.cases.values():
            first = number % len(case.contenders)  # nobody always comes after the same one
            for name in case.contenders[first:] + case.contenders[:first]:
                progress(done, total, f"round {number + 1}, {case.name}: {name}")
                done += 1
                if results.failure(case.name, name):
                    continue
                try:
                    measured.append((case, name, runner.figures(case, name)))
                except ContenderFailed as exc:
                    log.warning("%s, %s: %s", case.name, name, exc)
                    results.fail(case.name, name, str(exc))
                report.loads.append(load_average())
        results.add_round(measured)
        report.write()  # a run that is killed has told this much
        log.info("round %d of %d is over", number + 1, rounds)


if __name__ == "__main__":
    typer.run(main)
