"""The matrix: what is done, by row, and in what kind of process, by column.

Two children are at work at a time, and nothing of theirs is loaded here.
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
from warmclip.doctor.processes import DEFAULT_SLACK_S, Kind
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
    """What a session is made of."""

    name: str  # as the picture shows it
    side_px: int
    file_of: Callable[[Precision], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One thing tried in the fork column."""

    name: str
    cell: ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing, in every kind of process."""

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
class _Trial:
    """A cell that is still to be run."""

    row: str
    kind: Kind
    variant: str
    command: tuple[str, ...]


def run_matrix(
    graph: Graph, *, deadline_s: float, quick: bool, progress: Progress | None = None
) -> tuple[Row, ...]:
    """Fill every cell.

    Args:
        graph: for the sessions.
        deadline_s: that one step of a cell may take.
        quick: onnxruntime only, each fork in one way, and less patience with a hang.
        progress: told how many cells are done.
    """
    slack_s = min(_QUICK_SLACK_S if quick else DEFAULT_SLACK_S, deadline_s)
    run = _Run(deadline_s=deadline_s, slack_s=slack_s, quick=quick, progress=progress)
    # These two say what the other rows are: which device torch has, which providers onnxruntime.
    first = [] if quick else [run.torch_trial("import torch", "import", "cpu", "main")]
    first.append(run.onnx_trial(_IMPORT_ONNX, "main", ()))
    known = run.all(first)
    rows: list[tuple[str, str | None]] = []
    trials: list[_Trial] = []
    if not quick:
        device = _reference_device(known[_key(first[0])])
        for name, stage in _torch_rows(device).items():
            rows.append((name, None))
            trials += [run.torch_trial(name, stage, device, kind) for kind in COLUMNS]
    rows.append((_IMPORT_ONNX, None))
    trials += run.onnx_row(_IMPORT_ONNX, (), variants=1)
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
            *("--provider", provider),
        )
        is_reference = PROVIDERS[provider].is_reference
        trials += run.onnx_row(name, options, variants=len(_VARIANTS) if is_reference else 0)
    done = known | run.all([trial for trial in trials if _key(trial) not in known], len(known))
    return tuple(_row(name, provider, trials, done) for name, provider in rows)


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


def _key(trial: _Trial) -> tuple[str, Kind, str]:
    return trial.row, trial.kind, trial.variant


def _row(
    name: str,
    provider: str | None,
    trials: Sequence[_Trial],
    done: Mapping[tuple[str, Kind, str], ProbeResult],
) -> Row:
    own = [trial for trial in trials if trial.row == name]
    forked = tuple(
        Variant(name=trial.variant, cell=done[_key(trial)]) for trial in own if trial.kind == "fork"
    )
    bad = (variant.cell for variant in forked if not variant.cell.is_ok)
    cells: dict[Kind, ProbeResult] = {trial.kind: done[_key(trial)] for trial in own}
    cells["fork"] = next(bad, forked[0].cell)
    return Row(
        name=name,
        provider=provider,
        cells={kind: cells[kind] for kind in COLUMNS},
        forked=forked,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """How cells are run this time."""

    deadline_s: float
    slack_s: float
    quick: bool
    progress: Progress | None

    def torch_trial(self, row: str, stage: str, device: str, kind: Kind) -> _Trial:
        options = ("--stage", stage, "--device", device, "--slack", str(self.slack_s))
        command = (*_PROBE, *options, "--process", kind)
        return _Trial(row=row, kind=kind, variant=PLAIN, command=command)

    def onnx_trial(
        self, row: str, kind: Kind, options: tuple[str, ...], variant: str = PLAIN
    ) -> _Trial:
        command = (*_ONNX, *options, "--slack", str(self.slack_s), "--process", kind)
        return _Trial(row=row, kind=kind, variant=variant, command=command)

    def onnx_row(self, row: str, options: tuple[str, ...], *, variants: int) -> list[_Trial]:
        trials = [self.onnx_trial(row, kind, options) for kind in COLUMNS]
        for name, more in list(_VARIANTS.items())[: 0 if self.quick else variants]:
            trials.append(self.onnx_trial(row, "fork", (*options, *more), name))
        return trials

    def all(
        self, trials: Sequence[_Trial], before: int = 0
    ) -> dict[tuple[str, Kind, str], ProbeResult]:
        """Run them, two at a time, the patient ones first."""
        cells: dict[tuple[str, Kind, str], ProbeResult] = {}
        total = before + len(trials)
        ordered = sorted(trials, key=lambda trial: trial.kind != "fork")
        stop = threading.Event()
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            running = {pool.submit(self._cell, trial, stop): trial for trial in ordered}
            try:
                for future in as_completed(running):
                    trial = running[future]
                    cells[_key(trial)] = future.result()
                    if self.progress is not None:
                        self.progress(before + len(cells), total, f"{trial.row}, {trial.kind}")
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        return cells

    def _cell(self, trial: _Trial, stop: threading.Event) -> ProbeResult:
        missing = _missing(trial.command)
        if missing:
            return absent(f"{missing} is not installed")
        return run_probe(trial.command, deadline_s=self.deadline_s, stop=stop)


def _missing(command: Sequence[str]) -> str | None:
    """What a torch cell lacks."""
    if "--stage" not in command:
        return None
    needed = ["torch", "open_clip"] if "open_clip" in command else ["torch"]
    return next((name for name in needed if find_spec(name) is None), None)
