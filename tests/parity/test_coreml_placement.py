"""What is said of a graph's pieces, and which constants lie where: without a graph file."""

from typing import Literal

import pytest
from onnx import TensorProto

from warmclip_export.coreml.lint import LintFinding, Placement, _weights
from warmclip_export.coreml.node import Complaint, Operation, Value

MOST_INLINE = 1_000_000


def placement(
    taken: int = 3,
    pieces: int = 1,
    inline_bytes: int = 0,
    *found: tuple[str, Literal["refused", "inexact"]],
) -> Placement:
    """Of a graph of three nodes."""
    findings = tuple(
        LintFinding(
            node="n", operator=name, complaint=Complaint(kind=kind, reason="why", remedy="how")
        )
        for name, kind in found
    )
    return Placement(
        batch=2,
        nodes=3,
        taken=taken,
        partitions=pieces,
        findings=findings,
        inline_bytes=inline_bytes,
        weight_file_bytes=5,
    )


@pytest.mark.parametrize(
    ("found", "is_whole", "told"),
    [
        (placement(), True, "all 3 nodes in one partition"),
        (placement(3, 1, MOST_INLINE), True, "all 3 nodes in one partition"),
        (placement(3, 0), False, "3 of 3 nodes in 0 partitions"),
        (placement(3, 2), False, "3 of 3 nodes in 2 partitions"),
        (placement(2), False, "2 of 3 nodes in 1 partitions"),
        (
            placement(3, 1, 2 * MOST_INLINE),
            False,
            "3 of 3 nodes in 1 partitions; 2.0 MB of weights inline",
        ),
        (
            placement(3, 1, MOST_INLINE + 1),
            False,
            "3 of 3 nodes in 1 partitions; 1.0 MB of weights inline",
        ),
        (
            placement(1, 1, 0, ("Neg", "refused"), ("Erf", "refused"), ("Neg", "refused")),
            False,
            "1 of 3 nodes in 1 partitions; refused: Erf, 2 Neg",
        ),
        (
            placement(3, 1, 0, ("Pow", "inexact")),
            False,
            "3 of 3 nodes in 1 partitions; inexact: Pow",
        ),
    ],
)
def test_pieces_of_a_graph(found: Placement, is_whole: bool, told: str) -> None:
    """It is whole if CoreML gets all of it at once, exactly, with its weights in their file."""
    assert found.is_whole is is_whole
    assert str(found) == told
    raw = found.as_json()
    assert (raw["whole"], raw["inline_bytes"], raw["weight_bytes"]) == (
        is_whole,
        found.inline_bytes,
        5,
    )
    assert [it["operator"] for it in raw["findings"]] == [it.operator for it in found.findings]


def constant(name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> Value:
    """An array that the file holds."""
    return Value(name=name, dtype=dtype, shape=shape, is_constant=True)


def node(kind: str, *inputs: Value | None) -> Operation:
    """An operation on these."""
    return Operation(
        name="n", kind=kind, domain="", since=14, attributes={}, inputs=inputs, outputs=()
    )


X = Value(name="x", dtype=TensorProto.FLOAT, shape=(9,))


@pytest.mark.parametrize(
    ("nodes", "inline_bytes", "filed_bytes"),
    [
        ([node("Add", X, None)], 0, 0),
        ([node("Add", X, constant("a", 10))], 0, 40),
        ([node("Add", X, constant("a", 9))], 36, 0),
        ([node("Add", X, constant("a", 10, dtype=TensorProto.FLOAT16))], 0, 20),
        ([node("Add", X, constant("a", 10, dtype=TensorProto.INT8))], 0, 10),
        ([node("Add", X, constant("a", 10, dtype=TensorProto.INT64))], 40, 0),
        ([node("Add", X, constant("a", 10)), node("Mul", X, constant("a", 10))], 0, 40),
        ([node("PRelu", X, constant("a", 10)), node("PRelu", X, constant("a", 10))], 80, 0),
        ([node("PRelu", constant("a", 10), X)], 0, 40),
        ([node("Gemm", X, constant("a", 10))], 40, 0),
        ([node("Gemm", X, X, constant("a", 10))], 0, 40),
        ([node("Gemm", X, X, constant("a", 2, 10))], 80, 0),
        ([node("Gemm", X, X, constant("a"))], 4, 0),
        ([node("BatchNormalization", X, *(constant(it, 10) for it in "abcd"))], 160, 0),
        ([node("InstanceNormalization", X, *(constant(it, 10) for it in "ab"))], 80, 0),
        ([node("LayerNormalization", X, *(constant(it, 10) for it in "ab"))], 80, 0),
    ],
)
def test_where_constants_lie(nodes: list[Operation], inline_bytes: int, filed_bytes: int) -> None:
    """Numbers from ten on in the file, once each, unless a builder copies them for each node."""
    assert _weights(nodes) == (inline_bytes, filed_bytes)
