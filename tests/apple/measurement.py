"""What this tier measures itself: rates, memory, and whether a compiled model was kept."""

import ctypes
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from warmclip.inference.ort.model_cache import COMPLETE

_WITNESS = "witness"


def per_second(run: Callable[[], object], rows: int, runs: int = 5) -> float:
    """Rows a second: the median of a few runs, after one that warms."""
    run()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return rows / statistics.median(times)


class _Usage(ctypes.Structure):
    """What macOS tells of a process: ``rusage_info_v0``."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint64) for name in ("user_time", "system_time", "wakeups")),
        *((name, ctypes.c_uint64) for name in ("interrupts", "page_ins", "wired", "resident")),
        *((name, ctypes.c_uint64) for name in ("phys_footprint", "started", "exited")),
    )


def footprint_mb(pid: int) -> float:
    """A process's memory in MiB: its footprint on macOS, elsewhere what is resident.

    The footprint, which Activity Monitor shows, has what macOS has compressed and what the process
    shares with the GPU; pages of a mapped file, which the resident memory has, are not in it.
    """
    ask = getattr(ctypes.CDLL(None), "proc_pid_rusage", None)  # macOS alone has it
    usage = _Usage()
    if ask is not None and ask(pid, 0, ctypes.byref(usage)) == 0:
        return int(usage.phys_footprint) / 1024**2
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.sub(r"\D", "", told.stdout)) / 1024


def growth(samples: Sequence[float]) -> float:
    """How far the highest sample is above the first, as a share of the first."""
    return max(samples) / samples[0] - 1


def finished(compiled: Path) -> list[Path]:
    """The compiled models in a cache's folder that are whole, by their markers."""
    return sorted(marker.parent for marker in compiled.glob(f"*/{COMPLETE}"))


def leave_witnesses(compiled: Path) -> list[Path]:
    """Put a file beside each marker: building a model again starts by emptying its folder."""
    witnesses = [folder / _WITNESS for folder in finished(compiled)]
    for witness in witnesses:
        witness.touch()
    return witnesses
