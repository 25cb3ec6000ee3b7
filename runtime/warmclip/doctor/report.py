"""The doctor's report: machine, dependencies, matrix, trials of providers, conclusion."""

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from warmclip.doctor.conclusion import Conclusion, draw_conclusion
from warmclip.doctor.dependencies import Dependency, read_dependencies
from warmclip.doctor.machine import Machine, read_machine
from warmclip.doctor.matrix import Graph, Row, run_matrix
from warmclip.doctor.probe import ProbeResult, absent, run_probe
from warmclip.doctor.processes import LONGEST_DEADLINE_S
from warmclip.doctor.tiny_graph import SIDE_PX, TINY_GRAPH
from warmclip.errors import BundleError
from warmclip.inference.bundle import ModelBundle
from warmclip.progress import Progress
from warmclip.settings import Settings

_DEMO = Path("models/demo/bundle")  # in a checkout
_MORE_THAN_A_TRIAL_S = 60.0  # that the child of the trials may be silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``warmclip doctor`` found."""

    machine: Machine
    dependencies: tuple[Dependency, ...]
    graph: str  # of which the sessions were made
    rows: tuple[Row, ...]
    trials: ProbeResult  # of the providers: its facts have the ``verdict``, if there is one
    conclusion: Conclusion
    seconds: float

    @property
    def selection(self) -> Mapping[str, Any] | None:
        """Which provider is used and why, as ``inference.selection`` found it."""
        found: Mapping[str, Any] | None = self.trials.facts.get("verdict")
        return found

    @property
    def exit_code(self) -> int:
        """0 all is well, 1 nothing can be embedded here, 2 bad configuration, 3 no answer."""
        if not self.conclusion.own_way_works or self.trials.status not in ("ok", "absent"):
            return 1
        states = {each.name: each.state for each in self.dependencies}
        if "unreachable" in states.values():
            return 3
        if "wrong" in states.values():
            return 2
        return 1 if states.get("model") == "absent" else 0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return {
            "machine": self.machine.to_dict(),
            "services": [each.to_dict() for each in self.dependencies],
            "graph": self.graph,
            "matrix": [row.to_dict() for row in self.rows],
            "providers": self.trials.to_dict() | {"verdict": self.selection},
            "verdict": self.conclusion.to_dict(),
            "seconds": self.seconds,
            "exit_code": self.exit_code,
        }


def examine(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    deadline_s: float,
    quick: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Read the machine, check its dependencies, fill the matrix, and conclude.

    Args:
        settings: where Redis, Qdrant and the model are.
        environ: the environment that they came from.
        deadline_s: that one step of a cell may take; with a provider that compiles it is the time
            of a trial, if that is longer.
        quick: onnxruntime only.
        progress: told how many cells are done.
    """
    started = time.monotonic()
    machine = read_machine(environ)
    dependencies = read_dependencies(settings)
    graph = _graph(settings)
    rows = run_matrix(
        graph,
        deadline_s=deadline_s,
        compiling_s=settings.trial_s,
        quick=quick,
        progress=progress,
    )
    trials = try_providers(settings, dependencies, only_look=quick, progress=progress)
    return Report(
        machine=machine,
        dependencies=dependencies,
        graph=graph.name,
        rows=rows,
        trials=trials,
        conclusion=_conclude(rows, dependencies, settings),
        seconds=time.monotonic() - started,
    )


def _conclude(
    rows: Sequence[Row], dependencies: Sequence[Dependency], settings: Settings
) -> Conclusion:
    conclusion = draw_conclusion(rows, settings.provider)
    if any(each.name == "model" and each.state == "absent" for each in dependencies):
        needed = (
            f" There is no model yet at {settings.bundle}: `warmclip-export model` makes one, or "
            "WARMCLIP_BUNDLE names the folder of one; `warmclip models` lists what is here."
        )
        return replace(conclusion, sentence=conclusion.sentence + needed)
    return conclusion


def try_providers(
    settings: Settings,
    dependencies: Sequence[Dependency],
    *,
    only_look: bool = False,
    progress: Progress | None = None,
) -> ProbeResult:
    """Try the providers in a child, each on each tower within the settings' seconds of a trial.

    Args:
        settings: the model, the choice and the home.
        dependencies: nothing is tried where the model is not there.
        only_look: read what earlier trials found.
        progress: told that it begins.
    """
    if any(each.name == "model" and each.state != "ok" for each in dependencies):
        return absent("there is no model to try providers on")
    if progress is not None:
        progress(0, 0, "trying the providers")
    command = [sys.executable, "-P", "-m", "warmclip.doctor.provider_trials"]
    command += ["--bundle", os.fspath(settings.bundle), "--choice", settings.provider]
    command += ["--home", os.fspath(settings.home), "--threads", str(settings.threads)]
    command += ["--deadline", str(settings.trial_s)] + ["--only-look"] * only_look
    deadline_s = max(LONGEST_DEADLINE_S, settings.trial_s + _MORE_THAN_A_TRIAL_S)
    return run_probe(command, deadline_s=deadline_s, stop=threading.Event())


def _graph(settings: Settings) -> Graph:
    """The image tower of the settings' bundle, else the demo's, else a built-in graph."""
    for folder in (settings.bundle, _DEMO):
        try:
            bundle = ModelBundle.open(folder)
            bundle.graph("image", "fp32")
        except BundleError:
            continue
        return Graph(
            name=f"the image tower of {folder}",
            side_px=bundle.manifest.image.size_px,
            file_of=partial(bundle.graph, "image"),
        )
    return Graph(
        name="a tiny built-in graph", side_px=SIDE_PX, file_of=lambda _precision: TINY_GRAPH
    )
