"""Boxes of ISO base media files, which HEIC, AVIF and CR3 consist of."""

import struct
from collections.abc import Iterator

MOST_BOXES = 4096  # in one box; a phone's HEIC has some tens
_MOST_BRANDS = 64


def iter_boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Each box between two places: its kind, and where its content begins and ends.

    What is no box ends it, as it ends the work of any reader.
    """
    at = start
    for _ in range(MOST_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= end:
            size, head = int.from_bytes(data[at + 8 : at + 16]), 16
        elif size == 0:
            size = end - at
        if size < head or at + size > end:
            return
        yield kind, at + head, at + size
        at += size


def find_box(data: bytes, kind: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Where the content of the first box of a kind begins and ends."""
    return next(
        ((begin, stop) for it, begin, stop in iter_boxes(data, start, end) if it == kind), None
    )


def read_brands(data: bytes) -> tuple[bytes, ...]:
    """What a file says that it is, the major brand first; empty if it is no such file."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4]), len(data), 16 + 4 * _MOST_BRANDS)
    return (data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4)))
