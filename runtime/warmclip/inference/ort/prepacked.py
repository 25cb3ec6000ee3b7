"""A graph as one kind of processor wants it, in a folder: optimised, its weights packed and mapped.

Loading a plain graph, onnxruntime reads all weights into memory of its own and packs most of them
once more. Packed ahead and in a file beside the graph, they are mapped instead: processes on one
machine share them, and nothing is read or packed at a start.

What is packed fits one build of onnxruntime on one kind of processor, and onnxruntime checks
neither: with another's it would compute nonsense. So both are in the key, and whoever loads a
prepared graph should see it reproduce something known.
"""

import errno
import shutil
from pathlib import Path
from typing import Any

from warmclip.inference.machine import chip, processor_features
from warmclip.inference.providers import Provider, major_minor

EXECUTION_PROVIDER = "CPUExecutionProvider"  # the only one whose weights onnxruntime packs ahead

_GRAPH = "graph.onnx"
_WEIGHTS = "weights.bin"  # named in the graph without a folder, so it is looked for beside it
_INLINE_BYTES = 1024  # what is smaller stays in the graph
_FORM = 1  # of what this module writes
# Older ones, as OpenVINO's builds are, die by SIGSEGV when they run packed weights of a graph
# whose texts may have any length (seen with 1.23.2, 1.24.1 and 1.31.0): theirs are only mapped.
_PACKS_SINCE = (1, 32)


def identity_of(
    digest: str, provider: Provider, onnxruntime_build: str, batch: int
) -> dict[str, Any]:
    """All that decides what is prepared, as JSON can carry it."""
    return {
        "prepared": _FORM,
        "graph": digest,
        "onnxruntime": onnxruntime_build,
        "chip": chip(),
        "processor": processor_features(),
        "batch": batch,
        "provider": provider.identity(),
    }


def graph_in(folder: Path) -> Path:
    """The graph of a prepared folder, whether it is there already or not."""
    return folder / _GRAPH


def require_space(folder: Path, size_bytes: int) -> None:
    """Check that the disk has room for what is prepared of a graph of this size.

    Raises:
        OSError: the disk is nearly full.
    """
    needed = 3 * size_bytes  # two of them are written
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e6:.0f} MB of free space are needed for a prepared graph, "
            f"there are {free / 1e6:.0f}",
            str(folder),
        )


def ask_to_write(options: Any, folder: Path, onnxruntime_version: str) -> None:
    """Have the session that gets these options leave a prepared graph in a folder."""
    packs = major_minor(onnxruntime_version) >= _PACKS_SINCE
    options.optimized_model_filepath = str(graph_in(folder))
    for name, value in {
        "optimized_model_external_initializers_file_name": _WEIGHTS,
        "optimized_model_external_initializers_min_size_in_bytes": str(_INLINE_BYTES),
        "save_external_prepacked_constant_initializers": str(int(packs)),
    }.items():
        options.add_session_config_entry(f"session.{name}", value)


def ask_to_read(options: Any, onnxruntime: Any) -> None:
    """Have the session that gets these options take a prepared graph as it is.

    It takes what memory it needs from the arena of all such sessions. One that writes must not:
    it needs the plain weights, and what an arena once had, it keeps.
    """
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
