"""Walks all configurations of the installed open_clip. `make coverage` starts it.

Each is built with random weights, exported and compared in a process of its own, whose time and
memory are bounded. A row that is in the table is not measured again, so that it may run in pieces.
"""

import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Annotated

import open_clip
import typer

from bench.coverage import child
from bench.coverage.row import TABLE, Row, read_rows, write_rows


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Measure this one, also again; may be repeated.")
    ] = None,
    full_below: Annotated[
        float, typer.Option(help="Millions of parameters from which layers are left out.")
    ] = 300,
    timeout: Annotated[float, typer.Option(help="Seconds for one.")] = 900,
    memory: Annotated[float, typer.Option(help="Gigabytes for one.")] = 12,
    table: Annotated[Path, typer.Option(help="The table.")] = TABLE,
) -> None:
    """Measure every configuration that the table lacks."""
    rows = read_rows(table)
    wanted = model or [name for name in sorted(open_clip.list_models()) if name not in rows]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([child.__name__])  # torch is imported once
    for number, name in enumerate(wanted, 1):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child.run, args=(sender, name, full_below, memory))
        process.start()
        sender.close()
        row = Row(model=name, outcome="not measured", reason=f"over {timeout:.0f} s")
        try:
            if receiver.poll(timeout):
                row = receiver.recv()
        except EOFError:
            process.join()
            row = Row(model=name, outcome="not measured", reason=f"exit code {process.exitcode}")
        process.kill()
        process.join()
        rows[name] = row
        write_rows(table, rows.values())
        typer.echo(f"{number}/{len(wanted)} {row}")
    counts = Counter(row.outcome for row in rows.values())
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


if __name__ == "__main__":
    typer.run(main)
