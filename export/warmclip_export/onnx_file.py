"""One tower as one ONNX file: plain names, weights inside, no trace of the exporting machine.

The weights of a tower that one file cannot hold lie in a second one, ``image.fp32.onnx.weights``.
"""

import ast
import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

from warmclip.inference.bundle import FileRecord, GraphRecord
from warmclip_export.element_types import LARGE_BYTES
from warmclip_export.errors import ExportRefused
from warmclip_export.graph import max_text_length
from warmclip_export.traced import DECOMPOSITIONS, TracedTower
from warmclip_export.writer import record_file, write_file

# A protobuf message, and so a file with its weights inside, ends at 2 GiB.
MAX_BYTES = 2**31 - 2**20
_SCOPES = "pkg.torch.onnx.name_scopes"
# All that tracing a tower which cannot be traced is known to raise.
_EXPORTING = (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError, AssertionError)


def write_tower(
    tower: nn.Module,
    inputs: dict[str, Tensor],
    path: Path,
    opset: int,
    *,
    apart: bool = False,
) -> GraphRecord:
    """Export a tower with a symbolic first axis ``batch`` and one output ``features``.

    The last axis of a causal text tower's inputs is symbolic as well, and called ``length``.

    Args:
        tower: a wrapper of `graph`, in evaluation mode.
        inputs: an example of each input by name, in the order of the wrapper's arguments.
        path: the file to write.
        opset: of the standard ONNX operators.
        apart: whether its weights lie in a second file, though one could hold them.

    Raises:
        ExportRefused: torch cannot export the tower, or the disk is full.
    """
    size = sum(p.numel() * p.element_size() for p in tower.parameters())
    # torch reasons about 2 and more; the graph takes 1 as well, and the gate sees to it.
    axes = {0: torch.export.Dim("batch", min=2)}
    if tokens := max_text_length(tower):
        axes[-1] = torch.export.Dim("length", min=2, max=tokens)
    try:
        program = _export(tower, inputs, opset, axes)
    except _EXPORTING as exc:
        why = " ".join(str(exc).split())[:300]
        raise ExportRefused(
            f"torch {torch.__version__} cannot export {path.name}: {why}; try the tested versions "
            "in constraints.txt"
        ) from exc
    if program is None:
        raise ExportRefused(f"torch exported nothing for {path.name}")
    weights = _write_weights(program.model, path) if apart or size > MAX_BYTES else None
    model: onnx.ModelProto = program.model_proto if weights is None else _read_light(path)
    _make_plain(model, {axis: symbol.__name__ for axis, symbol in axes.items()})
    record = write_file(path, model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)
    return GraphRecord(**record.model_dump(), weights=weights)


def _write_weights(model: onnx_ir.Model, path: Path) -> FileRecord:
    """Write a graph to ``path`` with its large constants in a file beside it: the record of that.

    Raises:
        ExportRefused: the disk is full, or the folder cannot be written to.
    """
    weights = path.with_name(f"{path.name}.weights")
    try:
        onnx_ir.save(model, path, external_data=weights.name, size_threshold_bytes=LARGE_BYTES)
        return record_file(weights)
    except OSError as exc:
        raise ExportRefused(
            f"cannot write {weights.name} under {path.parent.parent}: {exc.strerror}; nothing of "
            "the new bundle was kept"
        ) from exc


def _read_light(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


def _export(tower: nn.Module, inputs: dict[str, Tensor], opset: int, axes: dict[int, Any]) -> Any:
    examples = tuple(inputs.values())
    shapes: tuple[dict[int, Any], ...] | None = tuple(
        {axis % tensor.ndim: symbol for axis, symbol in axes.items()} for tensor in examples
    )
    with _quiet():
        exported: nn.Module | torch.export.ExportedProgram = tower
        if isinstance(tower, TracedTower):
            exported = torch.export.export(tower, examples, dynamic_shapes=shapes)
            exported, shapes = exported.run_decompositions(DECOMPOSITIONS), None
        return torch.onnx.export(
            exported,
            examples,
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=["features"],
            dynamic_shapes=shapes,
            verbose=False,
        )


def count_operators(path: Path) -> dict[str, int]:
    """How often each operator stands in a graph file."""
    model = _read_light(path)
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def _make_plain(model: onnx.ModelProto, axes: dict[int, str]) -> None:
    """Rename everything to letters and digits, and strip what describes the exporter.

    A node is called after the part of the tower that it belongs to, so that a report can name it.
    """
    graph = model.graph
    names = _Names({value.name for value in (*graph.input, *graph.output)})
    for initializer in graph.initializer:
        initializer.name = names.plain(initializer.name)
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    for number, node in enumerate(graph.node):
        node.input[:] = [names.plain(name) for name in node.input]
        node.output[:] = [names.plain(name) for name in node.output]
        node.name = f"{_part(node)}{node.op_type}_{number}"
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for value in graph.input:
        for axis, name in axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = axes[0]
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    graph.name, graph.doc_string = "tower", ""
    model.producer_name, model.producer_version, model.doc_string = "warmclip", "", ""


def _part(node: onnx.NodeProto) -> str:
    """The part of the tower that a node belongs to, such as ``blocks_3_mlp_``; may be empty."""
    told = {entry.key: entry.value for entry in node.metadata_props}
    modules = ast.literal_eval(told.get(_SCOPES, "[]"))[:-1]  # outermost first; then the node
    part = str(modules[-1]) if modules else ""
    return f"{part.replace('.', '_')}_" if re.fullmatch(r"[a-z]\w*(\.\w+)*", part) else ""


class _Names:
    """Old names to plain ones, no two alike; inputs and outputs keep theirs."""

    def __init__(self, kept: set[str]) -> None:
        self._plain = {"": "", **{name: name for name in kept}}
        self._taken = set(kept)

    def plain(self, name: str) -> str:
        if name not in self._plain:
            stem = re.sub(r"[^A-Za-z0-9_]", "_", name)
            stem = stem if re.match(r"[A-Za-z_]", stem) else f"v_{stem}"
            chosen, number = stem, 1
            while chosen in self._taken:
                number += 1
                chosen = f"{stem}_{number}"
            self._taken.add(chosen)
            self._plain[name] = chosen
        return self._plain[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from talking: what matters of its work, the gate checks."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
