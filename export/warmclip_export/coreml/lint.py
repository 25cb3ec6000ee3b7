"""What onnxruntime's CoreML provider would make of a graph, found without a Mac.

``basic_passes`` prepares the graph, ``rules`` judges each node, and here the nodes are
grouped into partitions as onnxruntime groups them. A tower is whole if CoreML gets all of it, in
one partition, with its weights in a file of their own.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from warmclip_export.coreml.basic_passes import (
    COREML,
    Float32Graph,
    list_operations,
    pin_length,
    read_graph,
    to_float32_graph,
)
from warmclip_export.coreml.node import Complaint, Operation, Value
from warmclip_export.coreml.rules import check_operation

BATCHES = COREML.buckets
LENGTH = 77
"""Of a text, in the tokens that CLIP was trained with."""
MAX_INLINE_BYTES = 1_000_000

# Partitions of nothing else are left to the CPU.
TRIVIAL = frozenset(
    ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Identity", "Ceil", "Tile", "Flatten")
)

# Element types whose constants go to weight.bin, from ten elements on; the rest is inline.
_FILED_TYPES: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.INT8: 1}
_MIN_FILED = 10
_INLINE_BYTES = 4  # of any other element: CoreML's integers have 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """One node that CoreML does not take, or not exactly."""

    node: str
    operator: str
    complaint: Complaint

    def as_json(self) -> dict[str, str]:
        """As it stands in a report."""
        why = self.complaint
        return {
            "node": self.node,
            "operator": self.operator,
            "kind": why.kind,
            "reason": why.reason,
            "remedy": why.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What becomes of one graph at one batch size.

    Attributes:
        nodes: after the basic passes.
        taken: of them, by CoreML.
        partitions: how many pieces CoreML gets; between two the CPU works.
        findings: the nodes that are refused, or computed inexactly.
        inline_bytes: of weights that would lie in model.mlmodel, which Apple's compiler parses.
        filed_bytes: of weights that would lie in weight.bin.
    """

    batch: int
    nodes: int
    taken: int
    partitions: int
    findings: tuple[LintFinding, ...]
    inline_bytes: int
    weight_file_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether CoreML takes everything, as one, and computes it as ONNX says."""
        few = self.inline_bytes <= MAX_INLINE_BYTES
        return self.partitions == 1 and self.taken == self.nodes and not self.findings and few

    def as_json(self) -> dict[str, Any]:
        """As it stands in a report."""
        return {
            "batch": self.batch,
            "nodes": self.nodes,
            "taken": self.taken,
            "partitions": self.partitions,
            "inline_bytes": self.inline_bytes,
            "weight_bytes": self.weight_file_bytes,
            "whole": self.is_whole,
            "findings": [finding.as_json() for finding in self.findings],
        }

    def __str__(self) -> str:
        if self.is_whole:
            return f"all {self.nodes} nodes in one partition"
        refused = Counter(f.operator for f in self.findings if f.complaint.kind == "refused")
        inexact = Counter(f.operator for f in self.findings if f.complaint.kind == "inexact")
        told = [f"{self.taken} of {self.nodes} nodes in {self.partitions} partitions"]
        told += [f"refused: {_counted(refused)}"] if refused else []
        told += [f"inexact: {_counted(inexact)}"] if inexact else []
        if self.inline_bytes > MAX_INLINE_BYTES:
            told.append(f"{self.inline_bytes / 1e6:.1f} MB of weights inline")
        return "; ".join(told)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" if n > 1 else name for name, n in sorted(counts.items()))


def lint_graph(
    graph: Path, batches: Sequence[int] = BATCHES, length: int = LENGTH
) -> tuple[Placement, ...]:
    """Where the nodes of a graph file would run, for each batch size, all texts of one length.

    A file whose batch is fixed is looked at once, at that size.

    Raises:
        ExportRefused: the file cannot be read, or onnxruntime cannot load it.
    """
    shown = to_float32_graph(pin_length(read_graph(graph), length))
    fixed = [shown.fixed_batch] if shown.fixed_batch else None
    return tuple(place_nodes(shown, batch) for batch in fixed or batches)


def place_nodes(shown: Float32Graph, batch: int) -> Placement:
    """Where the nodes of a graph would run at one batch size.

    Raises:
        ExportRefused: onnxruntime cannot load it.
    """
    nodes = list_operations(shown, batch)
    complaints = [check_operation(node) for node in nodes]
    refused = {number for number, why in enumerate(complaints) if why and why.kind == "refused"}
    groups = partitions(nodes, refused)
    taken = [nodes[number] for group in groups for number in group]
    inline, filed = _weights(taken)
    return Placement(
        batch=batch,
        nodes=len(nodes),
        taken=len(taken),
        partitions=len(groups),
        findings=tuple(
            LintFinding(node=node.name, operator=node.kind, complaint=why)
            for node, why in zip(nodes, complaints, strict=True)
            if why
        ),
        inline_bytes=inline,
        weight_file_bytes=filed,
    )


def partitions(nodes: Sequence[Operation], refused: set[int]) -> list[list[int]]:
    """Group the nodes that are taken as onnxruntime groups them; returns their numbers.

    onnxruntime/core/providers/partitioning_utils.cc: a greedy variant of Kahn's topological sort.
    A group grows until only refused nodes that need one of its results are left; those begin the
    next wave. Groups of nothing but trivial operations are dropped.
    """
    producers = {value.name: n for n, node in enumerate(nodes) for value in node.outputs}
    consumers: dict[int, list[int]] = defaultdict(list)
    awaited = [0] * len(nodes)
    for number, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value.name in producers:
                consumers[producers[value.name]].append(number)
                awaited[number] += 1
    ready = deque(number for number, count in enumerate(awaited) if count == 0)
    groups: list[list[int]] = []
    while ready:
        group: list[int] = []
        border: set[int] = set()
        next_wave: deque[int] = deque()
        while ready:
            number = ready.popleft()
            if number in refused and number in border:
                next_wave.append(number)
                continue
            if number not in refused:
                group.append(number)
                border.update(consumers[number])
            for consumer in consumers[number]:
                awaited[consumer] -= 1
                if awaited[consumer] == 0:
                    ready.append(consumer)
        if any(nodes[number].kind not in TRIVIAL for number in group):
            groups.append(group)
        ready = next_wave
    return groups


def _weights(taken: Sequence[Operation]) -> tuple[int, int]:
    """Bytes of constants that CoreML would store inline, and in weight.bin."""
    inline: dict[str, int] = {}
    filed: dict[str, int] = {}
    copies = 0
    for node in taken:
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_constant:
                continue
            width = _FILED_TYPES.get(value.dtype, 0)
            size = value.size * (width or _INLINE_BYTES)
            if _is_copied(node, index, value):
                copies += size
            elif width and value.size >= _MIN_FILED:
                filed[value.name] = size
            else:
                inline[value.name] = size
    return sum(inline.values()) + copies, sum(filed.values())


# The inputs whose constants a builder writes again, inline, for each node that uses them.
_COPIED = {
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
}


def _is_copied(node: Operation, index: int, value: Value) -> bool:
    """Whether a node gets a copy of its own: also a Gemm's transposed weight or stretched bias."""
    if node.kind == "Gemm" and index == 1:
        return not node.attributes.get("transB", 0)
    if node.kind == "Gemm" and index == 2:
        return len(value.shape or ()) != 1
    return index in _COPIED.get(node.kind, ())
