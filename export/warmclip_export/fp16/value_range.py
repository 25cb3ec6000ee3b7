"""How far the values inside a tower go, and which parts of it float16 cannot hold."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from warmclip.inference.bundle import Tower
from warmclip_export.element_types import value_types
from warmclip_export.fp16.emulation import EXACT, MOVES, SQUARES, Feeds, add_observers, run_rows

MAX = float(np.finfo(np.float16).max)
# Half of it: the samples are few, and other pictures reach further.
LIMIT = MAX / 2
EVERYTHING = ""  # as a part: the whole tower


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueRange:
    """How far one result of one node went.

    Attributes:
        node: its name; of a layer norm's squares, followed by that word.
        kind: the operator.
        part: the smallest part of the tower that makes and uses the value; "" is the tower.
        largest: the largest absolute value on the samples.
    """

    node: str
    kind: str
    part: str
    largest: float

    @property
    def headroom(self) -> float:
        """How many times larger float16 could hold."""
        return MAX / self.largest if self.largest else float("inf")


def measure_ranges(graph: Path, feeds: Feeds, parts: Iterable[str]) -> tuple[ValueRange, ...]:
    """How far every result of a float32 file goes on the samples.

    Args:
        graph: the file.
        feeds: its inputs by name.
        parts: the names of the tower's modules, after which nodes are called.
    """
    model = onnx.load(graph, load_external_data=False)
    parts = tuple(parts)
    part_of = {node.name: _part(node.name, parts) for node in model.graph.node}
    makers = {name: (node.name, node.op_type) for node in model.graph.node for name in node.output}
    users = _users(model.graph)
    values = {name for name, dtype in value_types(model).items() if dtype == TensorProto.FLOAT}
    outputs = add_observers(model, values - _masked(model.graph, users), EXACT)
    largest = np.max(list(run_rows(model, list(outputs), feeds, graph.parent)), axis=0)
    found = []
    for (value, suffix), value_range in zip(outputs.values(), largest, strict=True):
        name, kind = makers[value]
        others = () if suffix else (part_of.get(user, "") for user in users[value])
        found.append(
            ValueRange(
                node=name + suffix,
                kind=kind + suffix,
                part=_common([part_of[name], *others]),
                largest=float(value_range),
            )
        )
    return tuple(found)


def overflowing_parts(value_ranges: Iterable[ValueRange]) -> tuple[str, ...]:
    """The parts that must go on computing in float32, outermost only; maybe `EVERYTHING`."""
    parts = sorted(
        {value_range.part for value_range in value_ranges if not value_range.largest <= LIMIT}
    )
    return tuple(
        part for n, part in enumerate(parts) if not any(_holds(other, part) for other in parts[:n])
    )


def has_room(value_ranges: Iterable[ValueRange], factor: float) -> bool:
    """Whether all values may be larger by a factor, and squares by the factor's square."""
    return all(
        value.largest * (factor**2 if value.kind.endswith(SQUARES) else factor) <= LIMIT
        for value in value_ranges
    )


def ranges_as_json(value_ranges: Sequence[ValueRange]) -> dict[str, Any]:
    """The reaches as the certificate has them, largest values rounded to four digits."""
    tightest = max(value_ranges, key=lambda value_range: value_range.largest)
    kinds: dict[str, float] = defaultdict(float)
    blocks: dict[str, float] = defaultdict(float)
    for value_range in value_ranges:
        kinds[value_range.kind] = max(kinds[value_range.kind], _rounded(value_range.largest))
        block = ".".join(value_range.part.split(".")[:2]) or "between parts"
        blocks[block] = max(blocks[block], _rounded(value_range.largest))
    return {
        "tightest": tightest.node,
        "largest": _rounded(tightest.largest),
        "headroom": _rounded(tightest.headroom),
        "kinds": dict(sorted(kinds.items())),
        "blocks": dict(blocks),
        "kept_in_float32": [part or "everything" for part in overflowing_parts(value_ranges)],
    }


def fp16_notes(value_ranges: Mapping[Tower, Sequence[ValueRange]]) -> list[str]:
    """A sentence for each tower that does not compute in float16 alone."""
    told = []
    for tower, of_tower in value_ranges.items():
        kept = overflowing_parts(of_tower)
        if EVERYTHING in kept:
            told.append(f"the {tower} tower has no float16 file: {_largest_of(of_tower)}")
        elif kept:
            told.append(
                f"in the {tower} tower's float16 file {', '.join(kept)} stay float32: "
                f"{_largest_of(of_tower)}"
            )
    return told


def _largest_of(value_ranges: Sequence[ValueRange]) -> str:
    tightest = max(value_ranges, key=lambda value_range: value_range.largest)
    return f"{tightest.node} reaches {tightest.largest:.4g}, and float16 ends at {MAX:.0f}"


def _rounded(figure: float) -> float:
    return float(f"{figure:.4g}")


def _holds(whole: str, part: str) -> bool:
    return not whole or part.startswith(f"{whole}.")


def _part(node: str, parts: Iterable[str]) -> str:
    """The innermost part that a node is called after."""
    fitting = (part for part in parts if node.startswith(f"{part.replace('.', '_')}_"))
    return max(fitting, key=len, default="")


def _common(parts: Iterable[str]) -> str:
    """The innermost part that holds all of these."""
    steps = zip(*(part.split(".") for part in parts), strict=False)
    return ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))


def _users(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """The nodes that see each value, also as a part of another one; "" stands for the host."""
    users: dict[str, list[str]] = defaultdict(list)
    for output in graph.output:
        users[output.name].append("")
    for node in reversed(graph.node):
        seeing = [node.name]
        if node.op_type in MOVES:
            seeing += [user for output in node.output for user in users[output]]
        for name in node.input:
            users[name] += seeing
    return users


def _masked(graph: onnx.GraphProto, users: dict[str, list[str]]) -> set[str]:
    """Scores with the mask added, whose -1e4 is ours; the scores before it are measured."""
    softmax = {node.name for node in graph.node if node.op_type == "Softmax"}
    sums = (node.output[0] for node in graph.node if node.op_type == "Add")
    return {value for value in sums if users[value] and softmax.issuperset(users[value])}
