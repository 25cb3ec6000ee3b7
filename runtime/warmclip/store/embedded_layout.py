"""How the engine keeps a collection: where its parts lie, and whether it has a graph.

New points come into a segment that can be appended to. The engine makes its payload indexes in
memory whenever it is opened, 0.3 s for 100,000 points. A compacted segment is mapped as it is.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import qdrant_edge as edge

from warmclip.errors import StoreDamaged
from warmclip.fsutil import replace_file

_FILES = "files.json"
_COLD = edge.Memory.Cold  # mapped, and read when it is needed
_KINDS: Mapping[str, edge.KeywordIndexParams | edge.IntegerIndexParams] = {
    "keyword": edge.KeywordIndexParams(memory=_COLD),
    # Dates are looked for by ranges; a map of each number would be read whenever it is opened.
    "integer": edge.IntegerIndexParams(lookup=False, range=True, memory=_COLD),
}

_WHOLE_SCAN_KB = 2**40  # no collection is as large: without a graph all vectors are looked at
_EXACT = edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=_WHOLE_SCAN_KB)
_GRAPH = edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000)  # Qdrant's own


def make_index(field: str, kind: str) -> edge.UpdateOperation:
    """The operation that makes the payload index of a field; a kind is one of ``INDEXED``."""
    return edge.UpdateOperation.create_field_index(field, _KINDS[kind])


def is_cold(params: "edge.PayloadSchemaParams | None") -> bool:
    """Whether a payload index is mapped where its segment is compacted; else it is in memory."""
    return getattr(params, "memory", None) == _COLD


def make_config(dim: int, *, with_graph: bool = False) -> edge.EdgeConfig:
    """How a collection of unit vectors is to be kept.

    Args:
        dim: of its vectors.
        with_graph: whether compacted segments get one, by which searches are approximate.
    """
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine),
        hnsw_config=_GRAPH if with_graph else _EXACT,
        id_tracker_memory=_COLD,
        # Whatever can be appended to is compacted, and small segments become one.
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
    )


def read_dim(path: Path) -> int:
    """The length of the vectors of a collection's files.

    Raises:
        StoreDamaged: it cannot be read.
    """
    try:
        told = json.loads((path / "edge_config.json").read_text("utf-8"))
        return int(told["vectors"][""]["size"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreDamaged(f"{path} cannot be read: {exc!r}", collection=path.name) from exc


def note_files(path: Path) -> None:
    """Keep how long the files of compacted segments are.

    The engine opens those that lost their end without a word, and passes by what was in it.
    """
    sizes = {
        os.fspath(file.relative_to(path)): file.stat().st_size
        for vectors in path.glob("segments/*/vector_storage/matrix.dat")
        for file in vectors.parents[1].rglob("*")
        if file.is_file() and file.suffix != ".json"  # which are replaced, and read whole
    }
    replace_file(path / _FILES, json.dumps(sizes))


def find_torn(path: Path) -> list[str]:
    """Those of the noted files that are shorter now, or gone while their segment is there.

    A segment that is gone as a whole became another one, by a version that notes nothing; or the
    points in it are missed where they are counted.
    """
    try:
        noted = json.loads((path / _FILES).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(noted, dict):
        return []
    return [
        name
        for name, size in noted.items()
        if isinstance(size, int) and _segment(path, name).is_dir() and _size(path / name) < size
    ]


def size_bytes(path: Path) -> int:
    """The room that a collection's files take on the disk."""
    return sum(it.stat().st_blocks * 512 for it in path.rglob("*") if it.is_file())


def is_compacted(path: Path) -> bool:
    """Whether a collection's files were compacted once."""
    return (path / _FILES).is_file()


def count_deleted(path: Path) -> int:
    """How many points of compacted segments were deleted, or written again, before the last flush.

    The engine does not tell: it keeps a bit for each point.
    """
    return sum(
        int.from_bytes(bits.read_bytes(), "little").bit_count()
        for bits in path.glob("segments/*/id_tracker.deleted")
    )


def _segment(path: Path, name: str) -> Path:
    return path.joinpath(*Path(name).parts[:2])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def has_graph(path: Path) -> bool:
    """Whether a collection's files have a graph: the engine does not tell."""
    for file in path.glob("segments/*/segment.json"):
        try:
            vectors = json.loads(file.read_text("utf-8"))["config"]["vector_data"]
            if any(it["index"].get("options", {}).get("m", 0) for it in vectors.values()):
                return True
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the engine says what is wrong with it
    return False
