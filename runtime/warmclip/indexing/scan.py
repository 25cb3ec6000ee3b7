"""What files hold, and which of them a collection has as they are now."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import Location, locate, read_picture
from warmclip.inference.machine import usable_cores
from warmclip.settings import Limits, Root
from warmclip.store.protocol import Point, VectorStore

_MOST_READ_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One file's place, and what it holds."""

    path: str  # as it was found, for the report
    location: Location
    sha256: str


@dataclass(slots=True, kw_only=True)
class ScannedFile:
    """Some files, of which it is known now what they hold."""

    contents: list[Content] = field(default_factory=list)  # that are not stored as they are now
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    unchanged: int = 0
    repeated: int = 0  # other paths to files that were seen before


class SeenFiles:
    """Where files are; each counts once, by whatever paths it is found.

    Of those that were seen, 16 bytes are held for each: their ids.
    """

    def __init__(self, roots: Sequence[Root]) -> None:
        self._roots = roots
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, id_: str) -> bool:
        return uuid.UUID(id_).bytes in self._seen

    def find(
        self, files: Sequence[str]
    ) -> tuple[dict[str, tuple[str, Location]], dict[str, str], int]:
        """Locate some files.

        Returns:
            Point id -> (path, location), for files not seen before; path -> reason, for those
            that cannot be opened; and how many had been seen before.
        """
        places: dict[str, tuple[str, Location]] = {}
        unreadable = {}
        repeated = 0
        for path in files:
            try:
                location = locate(path, self._roots)
            except ImageUnreadable as exc:
                unreadable[path] = str(exc)
                continue
            if location.id in self:
                repeated += 1
            else:
                self._seen.add(uuid.UUID(location.id).bytes)
                places[location.id] = path, location
        return places, unreadable, repeated


class FileScan:
    """Looks at files, a chunk at a time; it writes nothing."""

    def __init__(
        self,
        store: VectorStore,
        collection: str,
        *,
        fingerprint: str,
        roots: Sequence[Root],
        limits: Limits,
    ) -> None:
        self._store = store
        self._collection = collection
        self._fingerprint = fingerprint
        self._roots = roots
        self._limits = limits
        self._places = SeenFiles(roots)

    def is_usable(self, point: Point) -> bool:
        """Whether a stored vector may stay, and be reused.

        A name may be switched to another space while we work: its vectors are none of ours. A
        vector that still waits for a canary is suspect: its process may have died before it.
        """
        payload = point.payload
        return payload.fingerprint == self._fingerprint and not payload.canary

    def look(self, files: Sequence[str]) -> ScannedFile:
        """Find out what these files hold, and which of them are stored as they are now."""
        chunk = ScannedFile()
        places, unreadable, repeated = self._places.find(files)
        chunk.skipped |= unreadable
        chunk.repeated = repeated
        changed = self._changed(places)
        chunk.unchanged = len(places) - len(changed)
        self._digest(changed, chunk)
        return chunk

    def _changed(self, places: dict[str, tuple[str, Location]]) -> list[str]:
        """The paths of files that the collection does not have as they are now."""
        changed = dict(places)
        for point in self._store.scroll(self._collection, ids=places):
            _, location = places[point.id]
            if self.is_usable(point) and is_as_stored(location, point):
                del changed[point.id]
        return [path for path, _ in changed.values()]

    def _digest(self, paths: list[str], chunk: ScannedFile) -> None:
        for path, result in digest_files(paths, self._roots, self._limits):
            if isinstance(result, Content):
                chunk.contents.append(result)
            else:
                chunk.skipped[path] = str(result)


def is_as_stored(location: Location, point: Point) -> bool:
    """Whether a file has the size and the time that are stored, so that it need not be read."""
    payload = point.payload
    return (location.size_bytes, location.mtime_ns) == (payload.size_bytes, payload.mtime_ns)


def digest_files(
    paths: Sequence[str], roots: Sequence[Root], limits: Limits
) -> Iterator[tuple[str, Content | ImageUnreadable]]:
    """What some files hold, in their order; read by several threads.

    Args:
        paths: one chunk of them.
        roots: from ``canonical_roots``.
        limits: see ``read_picture``.
    """
    threads = min(_MOST_READ_THREADS, 2 * usable_cores())
    with ThreadPoolExecutor(threads, thread_name_prefix="warmclip-digest") as pool:
        yield from zip(
            paths, pool.map(lambda path: _digest_one(path, roots, limits), paths), strict=True
        )


def _digest_one(path: str, roots: Sequence[Root], limits: Limits) -> Content | ImageUnreadable:
    try:
        location, picture = read_picture(path, roots, limits)
    except ImageUnreadable as exc:
        return exc
    return Content(path=path, location=location, sha256=sha256(picture))


def sha256(content: bytes) -> str:
    """The digest that stands for a content."""
    return hashlib.sha256(content).hexdigest()
