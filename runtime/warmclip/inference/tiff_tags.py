"""Directories of a TIFF's structure, which EXIF data and most RAW files have, read in bounds."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MOST_ENTRIES = 512  # of one directory
_MOST_DIRECTORIES = 32  # of one file
_MOST_NUMBERS = 16  # of one tag
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I"}  # type -> as struct spells it
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 13: 4}  # type -> length of one
_SUB_DIRECTORIES = 330


@dataclass(frozen=True, slots=True)
class Entry:
    """A tag's value: of which type, how many of it, and where they begin."""

    kind: int
    count: int
    at: int


class Directory:
    """The tags of one directory; what cannot be read of it is not there."""

    def __init__(self, data: bytes, at: int, order: str, base: int = 0) -> None:
        """Read it.

        Args:
            data: the file, or a part of it that has the structure.
            at: where the directory begins.
            order: of bytes, as struct spells it.
            base: where offsets count from.
        """
        self._data, self._order, self._base = data, order, base
        self.entries: dict[int, Entry] = {}
        self.next_at = 0
        if not 0 < at <= len(data) - 2:
            return
        (count,) = struct.unpack_from(f"{order}H", data, at)
        end = at + 2 + 12 * count
        for place in range(at + 2, min(end, at + 2 + 12 * _MOST_ENTRIES, len(data) - 11), 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, place)
            length = _BYTES.get(kind, 0) * number
            start = place + 8
            if length > 4:
                start = base + struct.unpack_from(f"{order}I", data, start)[0]
            if length and start + length <= len(data):
                self.entries[tag] = Entry(kind, number, start)
        if end + 4 <= len(data):
            (self.next_at,) = struct.unpack_from(f"{order}I", data, end)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The first whole numbers of a tag; none if it is not there."""
        entry = self.entries.get(tag)
        letter = _NUMBERS.get(entry.kind) if entry else None
        if entry is None or letter is None:
            return ()
        form = f"{self._order}{min(entry.count, _MOST_NUMBERS)}{letter}"
        return struct.unpack_from(form, self._data, entry.at)

    def number(self, tag: int) -> int:
        """The only or first number of a tag; 0 if it is not there."""
        return next(iter(self.numbers(tag)), 0)

    def inside(self, tag: int) -> "Directory":
        """The directory that a tag leads to; an empty one if it leads to none."""
        return Directory(self._data, self._base + self.number(tag), self._order, self._base)

    def text(self, tag: int, most_bytes: int = 64) -> str:
        """The text of a tag, as far as it is ASCII; empty if it is not there."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in (2, 7):
            return ""
        raw = self._data[entry.at : entry.at + min(entry.count, most_bytes)]
        return raw.partition(b"\0")[0].decode("ascii", "ignore").strip()


def byte_order(data: bytes) -> str | None:
    """The order of bytes by the first two of them, as struct spells it; None: it is no TIFF."""
    return {b"II": "<", b"MM": ">"}.get(data[:2])


def iter_directories(data: bytes) -> Iterator[Directory]:
    """The directories of a file, one after the other, each followed by those inside it."""
    order = byte_order(data)
    if order is None or len(data) < 8:
        return
    waiting = [struct.unpack_from(f"{order}I", data, 4)[0]]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        directory = Directory(data, at, order)
        yield directory
        waiting.append(directory.next_at)
        waiting.extend(reversed(directory.numbers(_SUB_DIRECTORIES)))
