"""Measures one configuration, in a process of its own."""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.factory import get_model_config
from torch import nn

from bench.coverage.row import Row
from bench.coverage.shallow import LAYERS, VOCABULARY, make_shallow, timm_told
from bench.coverage.text_models import write_text_model
from warmclip.errors import WarmclipError
from warmclip.inference.arrays import unit_rows
from warmclip.inference.bundle import Precision, Tower
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip_export import graph
from warmclip_export.catalog import Activation, ModelRecipe, unsupported_reason
from warmclip_export.coreml.lint import LENGTH, Placement, lint_graph
from warmclip_export.exporter import PRECISIONS, build_wrappers
from warmclip_export.onnx_file import MAX_BYTES, write_tower
from warmclip_export.parity.bounds import cpu_bounds
from warmclip_export.reference import Reference
from warmclip_export.registry import tower_bytes
from warmclip_export.weights import WeightsSource

_SEED = 3
_ROWS = 3  # pictures and texts; a graph is exported with two
_LINTED = (8,)
_SHOWN_OPERATORS = 4


def run(answers: Connection, model: str, full_below: float, memory_gb: float) -> None:
    """Measure a configuration within bounds of memory, and send its row."""
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    started = time.monotonic()
    try:
        found = _measure(model, full_below)
    except (WarmclipError, RuntimeError, MemoryError, ValueError, TypeError) as exc:
        why = " ".join(str(exc).split())[:300] or type(exc).__name__
        kind = "refused" if isinstance(exc, WarmclipError) else "not measured"
        found = {"outcome": kind, "reason": why}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_gb = peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
    seconds = f"{time.monotonic() - started:.0f}"
    answers.send(Row(model=model, **found, seconds=seconds, peak_gb=f"{peak_gb:.1f}"))


def _measure(model: str, full_below: float) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(json.dumps(get_model_config(model)))
    reason = unsupported_reason(config)
    if reason:
        return {"outcome": "refused", "reason": reason}
    with tempfile.TemporaryDirectory(prefix="warmclip-coverage-") as folder:
        return _measure_taken(model, config, full_below, Path(folder))


def _measure_taken(
    model: str, config: dict[str, Any], full_below: float, folder: Path
) -> dict[str, Any]:
    named = config["text_cfg"].get("hf_model_name") or ""
    text_model = write_text_model(named, folder / "whole") if named else ""
    sizes = tower_bytes(config, text_model)
    millions = sum(sizes.values()) / 4e6
    told: dict[str, Any] = {"outcome": "taken", "parameters": f"{millions:.0f}"}
    options: dict[str, Any] = {}
    told["measured"] = "as it is"
    if millions >= full_below:
        config, options, told["measured"] = make_shallow(config)
        if named:
            text_model = write_text_model(
                named, folder / "small", layers=LAYERS, vocabulary=VOCABULARY
            )
    with timm_told(options):
        reference = _draw(model, config, text_model)
    # As at full size: weights in a second file where one cannot hold them.
    apart = {tower for tower, size in sizes.items() if size > MAX_BYTES}
    told |= _compare(reference, folder, apart)
    bound = cpu_bounds("fp32").difference
    if max(float(told["image"]), float(told["text"])) > bound:
        told |= {"outcome": "refused", "reason": f"it differs from open_clip by over {bound:g}"}
    return told


def _draw(model: str, config: dict[str, Any], text_model: str) -> Reference:
    """A model none of whose parameters has a value that hides an error, such as 0 or 1."""
    quick_gelu = bool(config.pop("quick_gelu", False))
    recipe = ModelRecipe(
        name=model,
        model=model,
        architecture=config,
        activation=Activation(quick_gelu=quick_gelu),
        preprocess={},
        weights=WeightsSource(kind="random", name=str(_SEED)),
        name_says_quick_gelu=quick_gelu,
        text_model=text_model,
    )
    reference = Reference.build(recipe, None)
    generator = torch.Generator().manual_seed(_SEED)
    for tensor in reference.model.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator).abs() * 0.2)
    return reference


def _compare(reference: Reference, folder: Path, apart: set[Tower]) -> dict[str, str]:
    towers = build_wrappers(reference)
    feeds = {"image": _pictures(reference), "text": _texts(reference)}
    expected = {
        "image": reference.image_features(feeds["image"]["pixel_values"]),
        "text": reference.text_features(feeds["text"]["input_ids"]),
    }
    opset = graph.required_opset(*towers.values())
    found: dict[str, str] = {}
    pieces: list[Placement] = []
    for tower, wrapper in towers.items():
        path = folder / f"{tower}.onnx"
        for precision in PRECISIONS:
            _write(wrapper, feeds[tower], path, opset, precision, apart=tower in apart)
            if precision == "fp32":
                found[tower] = f"{_difference(path, feeds[tower], expected[tower]):.1e}"
            (placement,) = lint_graph(path, _LINTED, _length(feeds[tower]))
            pieces.append(placement)
            path.unlink()
    found["pieces"] = " ".join(str(placement.partitions) for placement in pieces)
    refused = {f"{it.operator} ({it.complaint.reason})" for each in pieces for it in each.findings}
    found["cut"] = "; ".join(sorted(refused)[:_SHOWN_OPERATORS])
    return found


def _write(
    wrapper: nn.Module,
    feeds: Mapping[str, Any],
    path: Path,
    opset: int,
    precision: Precision,
    *,
    apart: bool,
) -> None:
    if precision == "fp16":
        graph.to_fp16(wrapper)
    inputs = {name: torch.from_numpy(array[:2]) for name, array in feeds.items()}
    write_tower(wrapper, inputs, path, opset, apart=apart)


def _difference(path: Path, feeds: Mapping[str, Any], expected: Any) -> float:
    dim = expected.shape[1]
    vectors = unit_rows(expected, dim)
    session = OnnxSession(path, find_provider("cpu"))
    worst = 0.0
    for batch in (1, _ROWS):
        computed = session.run({name: array[:batch] for name, array in feeds.items()})
        worst = max(worst, float(np.abs(unit_rows(computed, dim) - vectors[:batch]).max()))
    return worst


def _length(feeds: Mapping[str, Any]) -> int:
    return int(feeds["input_ids"].shape[1]) if "input_ids" in feeds else LENGTH


def _pictures(reference: Reference) -> dict[str, Any]:
    size = reference.preprocess.size
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(_SEED)
    return {"pixel_values": rng.standard_normal((_ROWS, 3, height, width), dtype=np.float32)}


def _texts(reference: Reference) -> dict[str, Any]:
    """Token ids without a tokenizer: drawn ones, an end, and then padding."""
    parts = reference.text_parts
    vocabulary, context = parts.vocabulary, parts.context_length
    rng = np.random.default_rng(_SEED)
    ids = rng.integers(1, vocabulary - 1, (_ROWS, context))
    for row, end in enumerate((context // 3, context // 2, context - 1)):
        ids[row, end] = vocabulary - 1 if parts.end_id is None else parts.end_id
        ids[row, end + 1 :] = parts.padding_id
    return {"input_ids": ids, "eot_onehot": reference.eot_onehot(ids)}
