"""The commands about this machine: bench."""

from typing import Annotated

import typer

from warmclip.cli.options import Bundle, Json, Provider, Verbose, open_terminal, read_settings


def bench(
    bundle: Bundle = None,
    provider: Provider = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of which the median counts.")] = 7,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine: images and texts a second, by batch size."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.inference.bench import measure

        settings = read_settings(bundle, None, provider)
        with terminal.progress("rounds") as progress:
            benchmark = measure(settings, rounds=rounds, progress=progress)
        terminal.benchmark(benchmark.to_dict())
