"""Files into one collection, chunk by chunk, so that it has them as they are now."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import Location, locate, read_picture
from warmclip.indexing.store import Payload, Point, VectorStore
from warmclip.inference.arrays import Vectors
from warmclip.inference.machine import usable_cores
from warmclip.inference.reading import LazyImage
from warmclip.progress import Progress
from warmclip.settings import Limits, Root

if TYPE_CHECKING:  # keeps Pillow and tokenizers out of this import
    from warmclip.inference.decoding import ImageSource
    from warmclip.inference.encoder import Embedded

K = TypeVar("K")

_CHUNK = 256  # pictures looked up together
_WRITE_BATCH = 64  # pictures embedded before they are written: the most that a kill can cost
_MOST_READ_THREADS = 4


class ImageEncoder(Protocol):
    """What indexing and searching need of an ``Encoder``."""

    @property
    def fingerprint(self) -> str:
        """The identity of its embedding space."""
        ...

    @property
    def dim(self) -> int:
        """The length of its vectors."""
        ...

    @property
    def provider(self) -> str:
        """What it computes on."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """What it computes with."""
        ...

    def is_proven(self, canary: str) -> bool:
        """See ``Encoder.is_proven``."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See ``Encoder.encode_texts``."""
        ...

    def encode_images(self, images: "Sequence[ImageSource]") -> Vectors:
        """See ``Encoder.encode_images``."""
        ...

    def encode_each(
        self, items: "Iterable[tuple[K, ImageSource]]"
    ) -> "Iterator[tuple[K, Embedded | ImageUnreadable]]":
        """See ``Encoder.encode_each``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    path: str  # as it was found, for the report
    location: Location
    sha256: str


class Sync:
    """Brings a collection up to date with some files; its counts say what became of each.

    Nothing is matched by position: vectors belong to a content's digest, points to a file's
    place. At most one batch of pictures is in memory, whatever the number of files.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        store: VectorStore,
        collection: str,
        *,
        roots: Sequence[Root],
        limits: Limits,
        progress: Progress | None,
    ) -> None:
        self.indexed = 0
        self.reused = 0
        self.unchanged = 0
        self.skipped: dict[str, str] = {}
        self._encoder = encoder
        self._store = store
        self._collection = collection
        self._roots = roots
        self._limits = limits
        self._progress = progress
        self._seen: set[str] = set()
        self._unproven: list[Point] = []
        self._done = 0
        self._total = 0

    def run(self, files: Sequence[str]) -> None:
        """Bring these files in, by path. Two paths to one file count once."""
        self._total += len(files)
        self._advance(0)
        rest = iter(files)
        while chunk := list(islice(rest, _CHUNK)):
            self._run_chunk(chunk)
            self._prove()

    def _run_chunk(self, files: list[str]) -> None:
        contents = self._digest(self._changed(self._locate(files)))
        donors = self._donors({content.sha256 for content in contents})
        fresh: dict[str, _Content] = {}
        copies = []
        for content in contents:
            if content.sha256 in donors or content.sha256 in fresh:
                copies.append(content)
            else:
                fresh[content.sha256] = content
        donors |= self._embed(fresh)
        points: list[Point] = []
        for content in copies:
            if content.sha256 in donors:
                points.append(_copy(donors[content.sha256], content))
            else:
                self._skip(content.path, self.skipped[fresh[content.sha256].path])
        self._upsert(points)
        self.reused += len(points)
        self._advance(len(points))

    def _locate(self, files: list[str]) -> dict[str, tuple[str, Location]]:
        """Point id -> (path, location), for files not seen before."""
        places = {}
        for path in files:
            try:
                location = locate(path, self._roots)
            except ImageUnreadable as exc:
                self._skip(path, str(exc))
                continue
            if location.id in self._seen:
                self._advance(1)
            else:
                self._seen.add(location.id)
                places[location.id] = path, location
        return places

    def _changed(self, places: dict[str, tuple[str, Location]]) -> list[str]:
        """The paths of files that the collection does not have as they are now."""
        changed = dict(places)
        for point in self._store.scroll(self._collection, ids=places):
            _, location = places[point.id]
            state = (point.payload.size_bytes, point.payload.mtime_ns)
            if self._is_usable(point) and state == (location.size_bytes, location.mtime_ns):
                del changed[point.id]
        self.unchanged += len(places) - len(changed)
        self._advance(len(places) - len(changed))
        return [path for path, _ in changed.values()]

    def _digest(self, paths: list[str]) -> list[_Content]:
        contents = []
        with ThreadPoolExecutor(
            min(_MOST_READ_THREADS, 2 * usable_cores()), thread_name_prefix="warmclip-digest"
        ) as pool:
            for path, result in zip(paths, pool.map(self._digest_one, paths), strict=True):
                if isinstance(result, _Content):
                    contents.append(result)
                else:
                    self._skip(path, str(result))
        return contents

    def _digest_one(self, path: str) -> _Content | ImageUnreadable:
        try:
            location, picture = read_picture(path, self._roots, self._limits)
        except ImageUnreadable as exc:
            return exc
        return _Content(path=path, location=location, sha256=_sha256(picture))

    def _donors(self, digests: set[str]) -> dict[str, Point]:
        """Digest -> a stored point with that content."""
        stored = self._store.scroll(self._collection, sha256=digests, with_vectors=True)
        return {point.payload.sha256: point for point in stored if self._is_usable(point)}

    def _embed(self, fresh: dict[str, _Content]) -> dict[str, Point]:
        """Embed and store contents, by digest; unreadable ones are skipped."""
        points: dict[str, Point] = {}
        unwritten: list[Point] = []
        # Read a second time, when it is its turn: a chunk's files may not fit in memory.
        items = (
            (digest, LazyImage(content.location.path, partial(self._reread, content)))
            for digest, content in fresh.items()
        )
        for digest, result in self._encoder.encode_each(items):
            if isinstance(result, ImageUnreadable):
                self._skip(fresh[digest].path, str(result))
                continue
            points[digest] = self._point(fresh[digest], result)
            unwritten.append(points[digest])
            if len(unwritten) == _WRITE_BATCH:
                self._write(unwritten)
                unwritten = []
        self._write(unwritten)
        return points

    def _reread(self, content: _Content) -> bytes:
        location, picture = read_picture(content.path, self._roots, self._limits)
        if location != content.location or _sha256(picture) != content.sha256:
            raise ImageUnreadable("was changed while it was being indexed; run again")
        return picture

    def _write(self, points: list[Point]) -> None:
        self._upsert(points)
        self.indexed += len(points)
        self._advance(len(points))

    def _upsert(self, points: list[Point]) -> None:
        """Write points, with their canaries only as long as they wait for them."""
        marked = [self._without_old_canary(point) for point in points]
        self._store.upsert(self._collection, marked)
        self._unproven += [point for point in marked if point.payload.canary]

    def _without_old_canary(self, point: Point) -> Point:
        if not point.payload.canary or not self._encoder.is_proven(point.payload.canary):
            return point
        return replace(point, payload=replace(point.payload, canary=""))

    def _prove(self) -> None:
        """Take the canary from what has been proven since it was written.

        What is left waits for a canary that failed: those points stay suspect.
        """
        proven = [it for it in self._unproven if self._encoder.is_proven(it.payload.canary)]
        self._store.prove(self._collection, proven)
        self._unproven = []

    def _point(self, content: _Content, embedded: "Embedded") -> Point:
        return Point(
            id=content.location.id,
            vector=embedded.vector,
            payload=Payload(
                path=content.location.path,
                sha256=content.sha256,
                size_bytes=content.location.size_bytes,
                mtime_ns=content.location.mtime_ns,
                width_px=embedded.width_px,
                height_px=embedded.height_px,
                fingerprint=self._encoder.fingerprint,
                provider=embedded.provider,
                versions=self._encoder.versions,
                indexed_at=_now(),
                canary=embedded.canary,
            ),
        )

    def _is_usable(self, point: Point) -> bool:
        """Whether a stored vector may stay, and be reused.

        A name may be switched to another space while we work: its vectors are none of ours. A
        vector that still waits for a canary is suspect: its process may have died before it.
        """
        payload = point.payload
        return payload.fingerprint == self._encoder.fingerprint and not payload.canary

    def _skip(self, path: str, reason: str) -> None:
        self.skipped[path] = reason
        self._advance(1)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total, "indexing")


def _copy(donor: Point, content: _Content) -> Point:
    """A point for another place of the same content; what made the vector stays told."""
    payload = replace(
        donor.payload,
        path=content.location.path,
        size_bytes=content.location.size_bytes,
        mtime_ns=content.location.mtime_ns,
        indexed_at=_now(),
    )
    return Point(id=content.location.id, vector=donor.vector, payload=payload)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
