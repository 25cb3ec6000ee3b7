"""Which files a collection does not have as they are now, and what those hold."""

import hashlib
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import Location, locate_file, read_picture
from warmclip.indexing.roots import Roots, real_folder
from warmclip.inference.machine import usable_cores
from warmclip.inference.prefetch import prefetch
from warmclip.settings import Limits
from warmclip.store.protocol import Point, VectorStore

_MOST_READ_THREADS = 4
_READ_AHEAD = 64  # files


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedFile:
    """A file by the path that it was found by, and where it really is."""

    path: str  # for the report
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """What a file holds, and its place and state as it was read."""

    location: Location
    sha256: str
    data: bytes


@dataclass(slots=True, kw_only=True)
class ScannedChunk:
    """Some files, compared with a collection."""

    changed: list[LocatedFile] = field(default_factory=list)  # that are not stored as they are now
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    unchanged: int = 0
    repeated: int = 0  # other paths to files that were seen before


class SeenFiles:
    """Locates files; each counts once, by whatever paths it is found.

    Of those that were seen, 16 bytes are held for each: their ids.
    """

    def __init__(self, roots: Roots) -> None:
        # A folder's files come one after the other.
        self._locate = partial(
            locate_file, roots=roots, real_folder=lru_cache(maxsize=16)(real_folder)
        )
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, id_: str) -> bool:
        return uuid.UUID(id_).bytes in self._seen

    def locate_new(
        self, paths: Sequence[str]
    ) -> tuple[dict[str, LocatedFile], dict[str, str], int]:
        """Locate some files.

        Returns:
            Point id -> file, for those not seen before; path -> reason, for those that are no
            file to be read; and how many had been seen before.
        """
        new: dict[str, LocatedFile] = {}
        unreadable = {}
        repeated = 0
        for path in paths:
            try:
                location = self._locate(path)
            except ImageUnreadable as exc:
                unreadable[path] = str(exc)
                continue
            if location.id in self:
                repeated += 1
            else:
                self._seen.add(uuid.UUID(location.id).bytes)
                new[location.id] = LocatedFile(path=path, location=location)
        return new, unreadable, repeated


class FileScan:
    """Compares files with one collection, a chunk at a time; nothing is read or written."""

    def __init__(
        self, store: VectorStore, collection: str, *, fingerprint: str, roots: Roots
    ) -> None:
        self._store = store
        self._collection = collection
        self._fingerprint = fingerprint
        self._seen = SeenFiles(roots)

    def is_usable(self, point: Point) -> bool:
        """Whether a stored vector may stay, and be reused.

        A name may be switched to another space while we work: its vectors are none of ours. A
        vector that still waits for a canary is unverified: its process may have died before it.
        """
        payload = point.payload
        return payload.fingerprint == self._fingerprint and not payload.canary

    def scan_chunk(self, paths: Sequence[str]) -> ScannedChunk:
        """Find out which of these files are stored as they are now."""
        new, skipped, repeated = self._seen.locate_new(paths)
        changed = dict(new)
        for point in self._store.scroll(self._collection, ids=new):
            if self.is_usable(point) and is_as_stored(new[point.id].location, point):
                del changed[point.id]
        return ScannedChunk(
            changed=list(changed.values()),
            skipped=skipped,
            unchanged=len(new) - len(changed),
            repeated=repeated,
        )


def is_as_stored(location: Location, point: Point) -> bool:
    """Whether a file has the size and the time that are stored, so that it need not be read."""
    payload = point.payload
    return (location.size_bytes, location.mtime_ns) == (payload.size_bytes, payload.mtime_ns)


def read_files(
    files: Sequence[LocatedFile], roots: Roots, limits: Limits
) -> Generator[list[tuple[LocatedFile, FileContent | ImageUnreadable]], None, None]:
    """Read files on several threads, each once, and yield those that have become ready.

    What was read waits in memory only within the bounds of ``prefetch``.
    """
    return prefetch(
        partial(_read_one, roots=roots, limits=limits),
        zip(files, files, strict=True),
        threads=min(_MOST_READ_THREADS, 2 * usable_cores()),
        ahead=_READ_AHEAD,
        size_of=lambda file: file.location.size_bytes,
        name="warmclip-read",
        in_halves=True,  # whoever reads looks the contents up in a store
    )


def _read_one(file: LocatedFile, roots: Roots, limits: Limits) -> FileContent | ImageUnreadable:
    try:
        location, data = read_picture(file.location, roots, limits)
    except ImageUnreadable as exc:
        return exc
    return FileContent(location=location, sha256=hashlib.sha256(data).hexdigest(), data=data)
