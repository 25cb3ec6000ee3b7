"""Files into one collection, chunk by chunk, so that it has them as they are now.

Three things go on at once: the next chunk's files are looked at, this chunk's pictures are
embedded, and the last batch of vectors is written.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import read_picture
from warmclip.indexing.scan import Content, FileScan, ScannedFile, sha256
from warmclip.inference.arrays import Vectors
from warmclip.inference.reading import LazyImage
from warmclip.inference.selection.canary import Canary
from warmclip.progress import Progress
from warmclip.settings import Limits, Root
from warmclip.store.protocol import Payload, Point, VectorStore

if TYPE_CHECKING:  # keeps Pillow and tokenizers out of this import
    from warmclip.inference.decoding import ImageSource
    from warmclip.inference.encoder import Embedded

K = TypeVar("K")

_CHUNK = 256  # pictures looked up together
_WRITE_BATCH = 64  # pictures embedded before they are written: a kill can cost two of these


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

    def is_proven(self, canary: Canary | None) -> bool:
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
        self._survey = FileScan(
            store, collection, fingerprint=encoder.fingerprint, roots=roots, limits=limits
        )
        self._unproven: list[Point] = []
        self._beside = ThreadPoolExecutor(2, thread_name_prefix="warmclip-sync")  # look and write
        self._writing: Future[None] | None = None
        self._unwritten = 0
        self._done = 0
        self._total = 0

    def run(self, files: Sequence[str]) -> None:
        """Bring these files in, by path; once in a Sync's life. Two paths to a file count once."""
        self._total = len(files)
        self._advance(0)
        chunks = (files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK))
        with self._beside:
            surveys = (self._beside.submit(self._survey.look, chunk) for chunk in chunks)
            following = next(surveys, None)
            while following is not None:
                chunk = following.result()
                following = next(surveys, None)
                self._bring_in(chunk)
                self._prove()

    def _bring_in(self, chunk: ScannedFile) -> None:
        self.unchanged += chunk.unchanged
        self._advance(chunk.unchanged + chunk.repeated)
        for path, reason in chunk.skipped.items():
            self._skip(path, reason)
        donors = self._donors({content.sha256 for content in chunk.contents})
        fresh: dict[str, Content] = {}
        copies = []
        for content in chunk.contents:
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

    def _donors(self, digests: set[str]) -> dict[str, Point]:
        """Digest -> a stored point with that content."""
        stored = self._store.scroll(self._collection, sha256=digests, with_vectors=True)
        return {point.payload.sha256: point for point in stored if self._survey.is_usable(point)}

    def _embed(self, fresh: dict[str, Content]) -> dict[str, Point]:
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
                self._begin_writing(unwritten)
                unwritten = []
        self._begin_writing(unwritten)
        self._end_writing()
        return points

    def _reread(self, content: Content) -> bytes:
        location, picture = read_picture(content.path, self._roots, self._limits)
        if location != content.location or sha256(picture) != content.sha256:
            raise ImageUnreadable("was changed while it was being indexed; run again")
        return picture

    def _begin_writing(self, points: list[Point]) -> None:
        """Write these while the next are embedded; of two batches, the first is waited for."""
        self._end_writing()
        self._writing = self._beside.submit(self._upsert, points)
        self._unwritten = len(points)

    def _end_writing(self) -> None:
        """Wait until all is written that has begun to be.

        Raises:
            StoreError: it failed.
        """
        if self._writing is not None:
            self._writing.result()
            self._writing = None
            self.indexed += self._unwritten
            self._advance(self._unwritten)

    def _upsert(self, points: list[Point]) -> None:
        """Write points, with their canaries only as long as they wait for them."""
        marked = [self._without_old_canary(point) for point in points]
        self._store.upsert(self._collection, marked)
        self._unproven += [point for point in marked if point.payload.canary]

    def _without_old_canary(self, point: Point) -> Point:
        if not point.payload.canary or not self._is_proven(point):
            return point
        return replace(point, payload=replace(point.payload, canary=""))

    def _prove(self) -> None:
        """Take the canary from what has been proven since it was written.

        What is left waits for a canary that failed: those points stay suspect.
        """
        proven = [point for point in self._unproven if self._is_proven(point)]
        self._store.mark_verified(self._collection, proven)
        self._unproven = []

    def _is_proven(self, point: Point) -> bool:
        return self._encoder.is_proven(Canary.parse(point.payload.canary))

    def _point(self, content: Content, embedded: "Embedded") -> Point:
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
                canary=str(embedded.canary or ""),
            ),
        )

    def _skip(self, path: str, reason: str) -> None:
        self.skipped[path] = reason
        self._advance(1)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total, "indexing")


def _copy(donor: Point, content: Content) -> Point:
    """A point for another place of the same content; what made the vector stays told."""
    payload = replace(
        donor.payload,
        path=content.location.path,
        size_bytes=content.location.size_bytes,
        mtime_ns=content.location.mtime_ns,
        indexed_at=_now(),
    )
    return Point(id=content.location.id, vector=donor.vector, payload=payload)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
