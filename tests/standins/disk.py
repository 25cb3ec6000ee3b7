"""What the system says of a disk, without one that is full."""

import os
from collections.abc import Callable
from pathlib import Path

_TOO_MUCH = 10**9


def free_blocks(count: int, block_bytes: int = 4096) -> Callable[[Path], os.statvfs_result]:
    """An ``os.statvfs`` for a disk on which this user may fill so many blocks.

    Root might fill far more of it, and the block size that reads are best made in is far larger.
    """
    said = (_TOO_MUCH, block_bytes, _TOO_MUCH, _TOO_MUCH, count, 0, 0, 0, 0, 255)
    return lambda _path: os.statvfs_result(said)
