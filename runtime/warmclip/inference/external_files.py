"""Which other files an ONNX graph reads its weights from.

onnxruntime opens them as it loads the graph: its releases up to 1.23 at any path that the graph
names, later ones below the graph's folder. So whoever did not make a graph reads the names first.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

# The fields of each message that lead to tensors, by their numbers in onnx.proto.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}
_KEY, _VALUE = 1, 2  # of an entry of external data
_VARINT, _SIZED = 0, 2  # how a field is written
_KINDS = {_VARINT: 0, 1: 8, _SIZED: 0, 5: 4}  # bytes of those with a fixed size
_MOST_TAG = 2**32  # protobuf's own parsers drop higher bits, and so would see another field


def external_files(graph: Path) -> set[str]:
    """The files that a graph names, as it names them; empty if all its weights are inside.

    None of them is looked for, and of the graph's own weights nothing is read.

    Raises:
        ValueError: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    names = set()
    with (
        graph.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        messages = [("model", 0, len(data))]
        while messages:
            kind, start, end = messages.pop()
            if kind == "external data":
                entry = {number: data[at:to] for number, at, to in _fields(data, start, end)}
                if entry.get(_KEY) == b"location":
                    names.add(os.fsdecode(entry.get(_VALUE, b"")))
                continue
            for number, at, to in _fields(data, start, end):
                if number in _INSIDE[kind]:
                    messages.append((_INSIDE[kind][number], at, to))
    return names


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that have a size: number, first byte, and the byte after the last."""
    while at < end:
        tag, at = _read_varint(data, at, end)
        kind, size = tag & 7, 0
        if tag >= _MOST_TAG or kind not in _KINDS:
            raise ValueError("it has a field that no graph has")
        if kind == _VARINT:
            _, at = _read_varint(data, at, end)
        elif kind == _SIZED:
            size, at = _read_varint(data, at, end)
            if size <= end - at:
                yield tag >> 3, at, at + size
        else:
            size = _KINDS[kind]
        at += size
    if at > end:
        raise ValueError("it ends within a field")


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number whose bytes have 7 bits each, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it ends within a number")
