"""How the embedded store's files lie: which are torn, whether there is a graph, what they take."""

import json
import os
from pathlib import Path

import pytest
import qdrant_edge as edge

from warmclip.errors import StoreDamaged
from warmclip.store.embedded_layout import (
    find_torn,
    has_graph,
    is_cold,
    is_compacted,
    note_files,
    read_dim,
    size_bytes,
)

_VECTORS = "segments/a/vector_storage/matrix.dat"


def write(path: Path, files: dict[str, str]) -> Path:
    """A collection's folder with these files."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


@pytest.mark.parametrize(
    ("noted", "files", "torn"),
    [
        ({_VECTORS: 4}, {_VECTORS: "1234"}, []),
        ({_VECTORS: 4}, {_VECTORS: "12345"}, []),
        ({_VECTORS: 4}, {_VECTORS: "123"}, [_VECTORS]),
        ({_VECTORS: 4}, {"segments/a/segment.json": ""}, [_VECTORS]),
        ({_VECTORS: 0}, {"segments/a/segment.json": ""}, [_VECTORS]),  # an empty one is gone
        ({_VECTORS: 4}, {"segments/b/segment.json": ""}, []),  # another segment by now
        ({_VECTORS: 4, "segments/b/ids": 2}, {_VECTORS: "1", "segments/b/ids": "12"}, [_VECTORS]),
        ({_VECTORS: None}, {_VECTORS: ""}, []),
        ([_VECTORS], {_VECTORS: ""}, []),
    ],
)
def test_torn_files(tmp_path: Path, noted: object, files: dict[str, str], torn: list[str]) -> None:
    """A file that is shorter than it was noted to be, or gone while its segment is there."""
    write(tmp_path, {"files.json": json.dumps(noted), **files})
    assert find_torn(tmp_path) == torn


@pytest.mark.parametrize("notes", [None, "", "[" * 100_000])
def test_no_notes(tmp_path: Path, notes: str | None) -> None:
    """Nothing is known to be torn then."""
    write(tmp_path, {} if notes is None else {"files.json": notes})
    assert find_torn(tmp_path) == []


def test_what_is_noted(tmp_path: Path) -> None:
    """The files of compacted segments, in whichever folder of it: not those that are replaced."""
    write(
        tmp_path,
        {
            _VECTORS: "1234",
            "segments/a/ids": "12",
            "segments/a/ids.mappings": "1",
            "segments/a/payload_index/path/values.bin": "123",
            "segments/a/segment.json": "{}",
            "segments/b/vector_storage/chunk_0.mmap": "1234",
            "segments/b/ids": "12",
        },
    )
    assert not is_compacted(tmp_path)
    note_files(tmp_path)
    assert is_compacted(tmp_path)
    assert json.loads((tmp_path / "files.json").read_text()) == {
        _VECTORS: 4,
        "segments/a/ids": 2,
        "segments/a/ids.mappings": 1,
        "segments/a/payload_index/path/values.bin": 3,
    }


def segment(*graphs: object) -> str:
    """What the engine writes of a segment, by what it says of the graphs of its vectors."""
    vectors = {f"{number}": {"index": graph} for number, graph in enumerate(graphs)}
    return json.dumps({"config": {"vector_data": vectors}})


_PLAIN = {"type": "plain", "options": {}}
_NONE = {"type": "hnsw", "options": {"m": 0}}
_GRAPH = {"type": "hnsw", "options": {"m": 16}}


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], False),
        ([segment(_PLAIN)], False),
        ([segment({"type": "plain"})], False),
        ([segment(_NONE)], False),
        ([segment(_GRAPH)], True),
        ([segment(_PLAIN, _GRAPH)], True),
        ([segment(_PLAIN), segment(_GRAPH)], True),
        ([segment(_GRAPH), segment(_PLAIN)], True),
        ([segment(_GRAPH), "torn"], True),
        (["torn", "[]", '{"config": {"vector_data": {"": 1}}}', segment(_GRAPH)], True),
        (["torn"], False),
    ],
)
def test_graph(tmp_path: Path, segments: list[str], expected: bool) -> None:
    """One segment with a graph is enough, whatever is wrong with another."""
    write(tmp_path, {f"segments/{it}/segment.json": told for it, told in enumerate(segments)})
    assert has_graph(tmp_path) is expected


def test_length_of_vectors(tmp_path: Path) -> None:
    """It is read; a file that does not tell is damaged."""
    config = write(tmp_path, {"edge_config.json": '{"vectors": {"": {"size": 512}}}'})
    assert read_dim(config) == 512
    for torn in ("", "{}", '{"vectors": {"": {"size": null}}}'):
        write(tmp_path, {"edge_config.json": torn})
        with pytest.raises(StoreDamaged, match=str(tmp_path)) as raised:
            read_dim(tmp_path)
        assert raised.value.collection == tmp_path.name


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (edge.KeywordIndexParams(memory=edge.Memory.Cold), True),
        (edge.IntegerIndexParams(memory=edge.Memory.Cold), True),
        (edge.KeywordIndexParams(), False),
        (None, False),  # as the engine tells of one that was made by its kind alone
    ],
)
def test_mapped_index(params: "edge.PayloadSchemaParams | None", expected: bool) -> None:
    """One that a former version made is in memory."""
    assert is_cold(params) is expected


def test_size(tmp_path: Path) -> None:
    """What files take of the disk, not how long they are: the engine leaves holes in its own."""
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "a").write_bytes(os.urandom(1 << 20))
    os.truncate(write(tmp_path, {"hole": ""}) / "hole", 1 << 30)
    assert 1 << 20 <= size_bytes(tmp_path) < (1 << 20) + (1 << 16)
