"""Files on a disk that takes its time, as on a network or in a cloud: their names say how.

``arrives-late``   each read takes FAULTY_READ_SECONDS, 8 unless told
``arrives-never``  a read does not end

It is put where files are read, in ``os.read``: a file system of that kind needs a kernel module.
"""

import os
import time
from typing import Any

_NEVER_S = 10**6


def enter() -> None:
    """Let files with such names do as they say."""
    real_open, real_read = os.open, os.read
    late_s = float(os.environ.get("FAULTY_READ_SECONDS", "8"))
    delays: dict[int, float] = {}

    def slow_open(path: Any, *more: Any, **options: Any) -> int:
        descriptor = real_open(path, *more, **options)
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        delays[descriptor] = (
            late_s if "arrives-late" in name else _NEVER_S if "arrives-never" in name else 0
        )
        return descriptor

    def slow_read(descriptor: int, size: int) -> bytes:
        time.sleep(delays.get(descriptor, 0))
        return real_read(descriptor, size)

    os.open, os.read = slow_open, slow_read  # that is the fault
