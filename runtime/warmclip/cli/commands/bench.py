"""The command bench."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import (
    Bundle,
    EnvFile,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)


def bench(
    bundle: Bundle = None,
    provider: Provider = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of which the median counts.")] = 7,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine: images and texts a second, by batch size."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.inference.benchmark import measure

        settings = read_settings(bundle, None, provider, env_file=env_file)
        with terminal.progress("rounds") as progress:
            benchmark = measure(settings, rounds=rounds, progress=progress)
        show_benchmark(terminal, benchmark.to_dict())


def show_benchmark(terminal: Terminal, benchmark: Mapping[str, Any]) -> None:
    """Write the figures of one machine."""
    if terminal.as_json:
        terminal.json(benchmark)
        return
    terminal.print(
        "{model} on {provider}, {machine}, {cores} cores; loaded and warm in {load_s:.2f} s; "
        "medians of {rounds} interleaved rounds".format_map(benchmark)
    )
    rounded = [
        case | {"per_second": f"{case['per_second']:.1f}", "ms_each": f"{case['ms_each']:.1f}"}
        for case in benchmark["cases"]
    ]
    terminal.print_table(rounded, ("case", "name"), "batch", "per_second", "ms_each")
