"""onnxruntime as the doctor's subject: ``python -m warmclip.doctor.onnx_subject``, in a child.

It is used as any program uses it, telemetry included, because that is what a launching program
has done; only the horse runs warmclip's own session.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmclip.doctor import processes
from warmclip.doctor.processes import Subject
from warmclip.inference.ort.loading import load_onnxruntime
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import PROVIDERS, Provider

_RUNS = 3  # of which the fastest is reported


def main() -> None:
    """Run one cell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--process", choices=processes.KINDS, required=True)
    parser.add_argument("--slack", type=float, default=processes.DEFAULT_SLACK_S)
    parser.add_argument("--no-telemetry", action="store_true")
    parser.add_argument("--parallel", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--side", type=int, default=0)
    parser.add_argument("--provider", choices=sorted(PROVIDERS), default="cpu")
    options = parser.parse_args()
    if options.no_telemetry:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.exit(processes.run(_subject(options), options.process))


def _subject(options: argparse.Namespace) -> Subject:
    # The launching program's own arguments, but for --process, which comes last.
    command = [sys.executable, "-P", "-m", "warmclip.doctor.onnx_subject"]
    for name in ("slack", "graph", "side", "provider", "threads"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name}", str(value)]
    for name in ("no_telemetry", "parallel"):
        if getattr(options, name):
            command += [f"--{name.replace('_', '-')}"]
    if options.graph is None:
        make = load_onnxruntime if options.process == "serve" else _import
        return Subject(make=make, use=_providers, command=command, slack_s=options.slack)
    provider = PROVIDERS[options.provider]
    if options.process == "serve":
        return Subject(
            make=lambda: OnnxSession(options.graph, provider),
            use=lambda session: _compute(session, options.side),
            command=command,
        )
    batch = provider.buckets[0] if provider.buckets else 1
    return Subject(
        make=lambda: _plain_session(provider, options),
        use=lambda session: _timed(session, _pixels(batch, options.side)),
        command=command,
        slack_s=options.slack,
    )


def _import() -> Any:
    import onnxruntime

    return onnxruntime


def _providers(onnxruntime: Any) -> Mapping[str, Any]:
    return {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }


def _plain_session(provider: Provider, asked: argparse.Namespace) -> Any:
    """A session as one writes it with onnxruntime's manual open, and our provider's options."""
    onnxruntime = _import()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = asked.threads
    if asked.parallel:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = 2
    if provider.buckets:
        options.add_free_dimension_override_by_name("batch", provider.buckets[0])
    return onnxruntime.InferenceSession(
        asked.graph,
        options,
        providers=[(provider.execution_provider, provider.options)],
        disabled_optimizers=list(provider.disabled_optimizers),
    )


def _timed(session: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - started)
    return {"best_s": min(seconds)}


def _compute(session: OnnxSession, side: int) -> None:
    session.run(_pixels(1, side))


def _pixels(batch: int, side: int) -> Mapping[str, Any]:
    import numpy as np

    return {"pixel_values": np.zeros((batch, 3, side, side), np.float32)}


if __name__ == "__main__":
    main()
