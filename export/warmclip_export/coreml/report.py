"""The lint as people and programs read it: a table, JSON, a part of the certificate."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from warmclip.inference.bundle import ModelBundle, Precision
from warmclip_export.coreml.lint import (
    BATCHES,
    LENGTH,
    MAX_INLINE_BYTES,
    LintFinding,
    Placement,
    lint_graph,
)
from warmclip_export.errors import ExportRefused

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")  # of the graphs that CoreML is given
_SHOWN_NODES = 3

Placements = Mapping[str, Sequence[Placement]]
"""What was found, by the graph's name."""


def find_graphs(path: Path) -> dict[str, Path]:
    """The graphs to look at, by name: one file, or those of a bundle that CoreML may be given.

    Raises:
        ExportRefused: there is neither.
        BundleError: the folder is no bundle, or a file in it was altered.
    """
    if path.is_file():
        return {path.name: path}
    if not path.exists():
        raise ExportRefused(f"{path} does not exist: name an ONNX file or a bundle")
    bundle = ModelBundle.open(path)
    return {
        of_precision[precision].file: bundle.graph(tower, precision)
        for tower, of_precision in bundle.manifest.graphs.items()
        for precision in PRECISIONS
        if precision in of_precision
    }


def text_length(path: Path) -> int:
    """How long CoreML's texts are: as the bundle says, or of a plain file, as in CLIP.

    Raises:
        BundleError: the folder is no bundle.
    """
    return ModelBundle.open(path).manifest.tokenizer.context_length if path.is_dir() else LENGTH


def lint_graphs(
    graphs: Mapping[str, Path], batches: Sequence[int] = BATCHES, length: int = LENGTH
) -> Placements:
    """Lint several graphs.

    Raises:
        ExportRefused: one cannot be read.
    """
    return {name: lint_graph(graph, batches, length) for name, graph in graphs.items()}


def placements_as_json(found: Placements) -> dict[str, Any]:
    """The findings as JSON."""
    return {
        "whole": are_whole(found),
        "notes": coreml_notes(found),
        "graphs": {name: [each.as_json() for each in of_graph] for name, of_graph in found.items()},
    }


def are_whole(found: Placements) -> bool:
    """Whether CoreML takes every graph whole at every batch size."""
    return all(placement.is_whole for of_graph in found.values() for placement in of_graph)


def coreml_notes(found: Placements) -> list[str]:
    """A sentence for each graph that CoreML would not take whole."""
    return [
        f"CoreML would not take {name} whole at batch {each.batch}: {each}; the CPU still runs it"
        for name, of_graph in found.items()
        for each in [placement for placement in of_graph if not placement.is_whole][:1]
    ]


def show_placements(found: Placements, console: Console) -> None:
    """Print a row for each graph and batch size, then each complaint once, with its remedy."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("graph")
    for column in ("batch", "nodes", "taken", "partitions", "inline MB", "weights MB"):
        table.add_column(column, justify="right")
    table.add_column("CoreML")
    for name, of_graph in found.items():
        for each in of_graph:
            table.add_row(
                name,
                *(str(n) for n in (each.batch, each.nodes, each.taken, each.partitions)),
                f"{each.inline_bytes / 1e6:.2f}",
                f"{each.weight_file_bytes / 1e6:.1f}",
                "whole" if each.is_whole else "in pieces" if each.partitions else "nothing",
            )
    console.print(table)
    for name, of_graph in found.items():
        _show_complaints(name, of_graph, console)


def _show_complaints(name: str, of_graph: Sequence[Placement], console: Console) -> None:
    worst = max(of_graph, key=lambda each: len(each.findings))
    if not worst.findings:
        if any(each.inline_bytes > MAX_INLINE_BYTES for each in of_graph):
            console.print(f"\n{name}: more than 1 MB of weights inline; export Gemm with transB=1")
        return
    console.print(f"\n{name}, batch {worst.batch}")
    for _, same in groupby(sorted(worst.findings, key=_reason), key=_reason):
        alike = list(same)
        why = alike[0].complaint
        nodes = ", ".join(finding.node for finding in alike[:_SHOWN_NODES])
        more = f" and {len(alike) - _SHOWN_NODES} more" if len(alike) > _SHOWN_NODES else ""
        console.print(f"  {why.kind}  {alike[0].operator}: {why.reason}")
        console.print(f"           {why.remedy}", style="green")
        console.print(f"           {nodes}{more}", style="dim")


def _reason(finding: LintFinding) -> tuple[str, str, str]:
    return finding.complaint.kind, finding.operator, finding.complaint.reason
