"""The matrix: operations by row, kinds of process by column, and what each came to.

Two children run at a time, and nothing that they load is loaded here.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from warmclip.doctor.probe import ProbeResult, absent, run_probe
from warmclip.doctor.processes import DEFAULT_SLACK_S, LONGEST_DEADLINE_S, Kind
from warmclip.errors import BundleError
from warmclip.inference.bundle import Precision
from warmclip.inference.providers import PROVIDERS
from warmclip.progress import Progress

COLUMNS: Mapping[Kind, str] = {
    "main": "main process",
    "fork": "fork",
    "exec": "exec",
    "horse": "warm horse",
}

_AT_A_TIME = 2
_QUICK_SLACK_S = 3.0
_PYTHON = (sys.executable, "-P", "-m")
_ONNX = (*_PYTHON, "warmclip.doctor.onnx_subject")
_PROBE = (*_PYTHON, "warmclip_export", "probe")

# What goes wrong on Linux depends on what the launching program did with onnxruntime.
PLAIN = "as a plain program"
_NO_TELEMETRY = "without telemetry"
_VARIANTS: Mapping[str, tuple[str, ...]] = {
    _NO_TELEMETRY: ("--no-telemetry",),
    "without telemetry, parallel execution": ("--no-telemetry", "--parallel"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The graph of which sessions are made."""

    name: str  # as the report shows it
    side_px: int
    file_of: Callable[[Precision], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One of several ways to run the fork column."""

    name: str
    cell: ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation in every kind of process."""

    name: str
    provider: str | None  # of an onnxruntime session
    cells: Mapping[Kind, ProbeResult]  # the fork cell is the worst of its variants
    forked: tuple[Variant, ...]

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON can carry it."""
        return {
            "name": self.name,
            "provider": self.provider,
            "cells": {kind: cell.to_dict() for kind, cell in self.cells.items()},
            "fork_variants": [asdict(variant) for variant in self.forked],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """A child that is still to be run."""

    row: str
    kind: Kind
    variant: str
    command: tuple[str, ...]
    compiles: bool = False  # what makes its session compiles the graph


def run_matrix(
    graph: Graph,
    *,
    deadline_s: float,
    compiling_s: float,
    quick: bool,
    progress: Progress | None = None,
) -> tuple[Row, ...]:
    """Fill every cell.

    Args:
        graph: for the sessions.
        deadline_s: that one step of a cell may take.
        compiling_s: that it may take with a provider that compiles, if that is longer.
        quick: onnxruntime only, each fork in one way, and less patience with a hang.
        progress: told how many cells are done.
    """
    slack_s = min(_QUICK_SLACK_S if quick else DEFAULT_SLACK_S, deadline_s)
    run = _Run(
        deadline_s=deadline_s,
        compiling_s=compiling_s,
        slack_s=slack_s,
        quick=quick,
        progress=progress,
    )
    # These two decide the other rows: which device torch has, which providers onnxruntime has.
    first = [] if quick else [run.torch_probe("import torch", "import", "cpu", "main")]
    first.append(run.onnx_probe(_IMPORT_ONNX, "main", ()))
    known = run.run_all(first)
    rows: list[tuple[str, str | None]] = []
    probes: list[_Probe] = []
    if not quick:
        device = _reference_device(known[_key(first[0])])
        for name, stage in _torch_rows(device).items():
            rows.append((name, None))
            probes += [run.torch_probe(name, stage, device, kind) for kind in COLUMNS]
    rows.append((_IMPORT_ONNX, None))
    probes += run.onnx_row(_IMPORT_ONNX, (), variants=1)
    for provider in _providers(known[_key(first[-1])]):
        name = f"onnxruntime session, {provider}"
        try:
            file = graph.file_of(PROVIDERS[provider].precision)
        except BundleError:  # no such precision: the trial of the providers says so
            continue
        rows.append((name, provider))
        options = (
            *("--graph", os.fspath(file)),
            *("--side", str(graph.side_px)),
        )
        is_reference = PROVIDERS[provider].is_reference
        variants = len(_VARIANTS) if is_reference else 0
        probes += run.onnx_row(name, options, variants=variants, provider=provider)
    done = known | run.run_all([probe for probe in probes if _key(probe) not in known], len(known))
    return tuple(_row(name, provider, probes, done) for name, provider in rows)


_IMPORT_ONNX = "import onnxruntime"


def _torch_rows(device: str) -> Mapping[str, str]:
    return {
        "import torch": "import",
        f"torch tensor on {device}": "tensor",
        f"open_clip ViT-B-32 on {device}": "open_clip",
    }


def _reference_device(imported: ProbeResult) -> str:
    return "mps" if imported.facts.get("mps_available") else "cpu"


def _providers(imported: ProbeResult) -> list[str]:
    """Those of warmclip's providers that this onnxruntime has."""
    has = imported.facts.get("providers", [])
    return [name for name, provider in PROVIDERS.items() if provider.execution_provider in has]


def _key(probe: _Probe) -> tuple[str, Kind, str]:
    return probe.row, probe.kind, probe.variant


def _row(
    name: str,
    provider: str | None,
    probes: Sequence[_Probe],
    done: Mapping[tuple[str, Kind, str], ProbeResult],
) -> Row:
    own = [probe for probe in probes if probe.row == name]
    forked = tuple(
        Variant(name=probe.variant, cell=done[_key(probe)]) for probe in own if probe.kind == "fork"
    )
    bad = (variant.cell for variant in forked if not variant.cell.is_ok)
    cells: dict[Kind, ProbeResult] = {probe.kind: done[_key(probe)] for probe in own}
    cells["fork"] = next(bad, forked[0].cell)
    return Row(
        name=name,
        provider=provider,
        cells={kind: cells[kind] for kind in COLUMNS},
        forked=forked,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Runs children, with the options of this matrix."""

    deadline_s: float
    compiling_s: float
    slack_s: float
    quick: bool
    progress: Progress | None

    def torch_probe(self, row: str, stage: str, device: str, kind: Kind) -> _Probe:
        options = ("--stage", stage, "--device", device, "--slack", str(self.slack_s))
        command = (*_PROBE, *options, "--process", kind)
        return _Probe(row=row, kind=kind, variant=PLAIN, command=command)

    def onnx_probe(
        self,
        row: str,
        kind: Kind,
        options: tuple[str, ...],
        *,
        variant: str = PLAIN,
        provider: str | None = None,
    ) -> _Probe:
        compiles = False
        if provider is not None:
            options = (*options, "--provider", provider)
            compiles = PROVIDERS[provider].cache_option is not None
        command = (*_ONNX, *options, "--slack", str(self.slack_s), "--process", kind)
        return _Probe(row=row, kind=kind, variant=variant, command=command, compiles=compiles)

    def onnx_row(
        self, row: str, options: tuple[str, ...], *, variants: int, provider: str | None = None
    ) -> list[_Probe]:
        probes = [self.onnx_probe(row, kind, options, provider=provider) for kind in COLUMNS]
        for name, more in list(_VARIANTS.items())[: 0 if self.quick else variants]:
            probe = self.onnx_probe(row, "fork", (*options, *more), variant=name, provider=provider)
            probes.append(probe)
        return probes

    def run_all(
        self, probes: Sequence[_Probe], before: int = 0
    ) -> dict[tuple[str, Kind, str], ProbeResult]:
        """Run them, two at a time, those with the longest deadlines first."""
        cells: dict[tuple[str, Kind, str], ProbeResult] = {}
        total = before + len(probes)
        ordered = sorted(probes, key=lambda probe: probe.kind != "fork")
        stop = threading.Event()
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            try:  # a Ctrl+C may come as soon as the first of them runs
                running = {pool.submit(self._cell, probe, stop): probe for probe in ordered}
                for future in as_completed(running):
                    probe = running[future]
                    cells[_key(probe)] = future.result()
                    if self.progress is not None:
                        self.progress(before + len(cells), total, f"{probe.row}, {probe.kind}")
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        return cells

    def _cell(self, probe: _Probe, stop: threading.Event) -> ProbeResult:
        missing = _missing_package(probe.command)
        if missing:
            return absent(f"{missing} is not installed")
        return run_probe(probe.command, deadline_s=self.deadline_of(probe), stop=stop)

    def deadline_of(self, probe: _Probe) -> float:
        if not probe.compiles:
            return self.deadline_s
        # The child's own alarm ends it soon after LONGEST_DEADLINE_S.
        return max(self.deadline_s, min(self.compiling_s, LONGEST_DEADLINE_S))


def _missing_package(command: Sequence[str]) -> str | None:
    """The package that a torch probe needs and that is not installed."""
    if "--stage" not in command:
        return None
    needed = ["torch", "open_clip"] if "open_clip" in command else ["torch"]
    return next((name for name in needed if find_spec(name) is None), None)
