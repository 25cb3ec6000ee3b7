"""The memory that an export takes, and how much of it there is."""

import re
from collections.abc import Mapping
from pathlib import Path

from warmclip.inference.bundle import Tower
from warmclip.inference.machine import memory_bytes

# Of the whole models in docs/reference/coverage.md none took more, and it is at most a third above.
_FIXED_BYTES = 3.3e9  # torch, open_clip and onnxruntime, and pictures as they become vectors
_TIMES = 5.0  # open_clip's model, and a tower as it is traced, written, loaded and emulated


def estimate_memory(weights: Mapping[Tower, int]) -> int:
    """About how much memory the export of such a model takes at its peak; 0 if not known.

    Args:
        weights: bytes of each tower's weights in float32; empty if not known.
    """
    return int(_FIXED_BYTES + _TIMES * sum(weights.values())) if weights else 0


def find_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """The bytes that a process can have here; None where the system does not say.

    On Linux those that are free or hold what can be read again; elsewhere all that there are, of
    which others have some. What a container may have is not read.
    """
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else memory_bytes()


def memory_warning(needed: int, there: int | None) -> str:
    """What to say before an export that may not fit; empty if nothing speaks against it."""
    if there is None or needed <= there:
        return ""
    return (
        f"WARNING: the export takes about {needed / 1e9:.1f} GB of memory, and at most "
        f"{there / 1e9:.1f} GB are to be had here: the system may end it"
    )
