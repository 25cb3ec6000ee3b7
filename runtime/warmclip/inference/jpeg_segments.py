"""The segments that a JPEG consists of."""

import re
from collections.abc import Iterator

SCAN, APP1 = 0xDA, 0xE1

# Neither a stuffed byte nor a restart. Of bytes that fill, the last is the marker's: with "\xff+"
# each of a run without a marker would be looked at as often as it is long.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_SOI, _EOI, _TEM = 0xD8, 0xD9, 0x01


def jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment and where its content lies, up to the end of the picture."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            return
        if marker in (_SOI, _TEM):  # which have no content
            continue
        start, at = at + 2, at + int.from_bytes(data[at : at + 2])
        if at < start:  # no length: the decoder stops here
            return
        yield marker, start, at
