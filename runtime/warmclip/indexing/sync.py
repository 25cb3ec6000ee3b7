"""Files into one collection, chunk by chunk, so that it has them as they are now.

Several things go on at once: the next chunk's files are compared with the collection, this chunk's
are read, decoded and embedded, and the last batch of points is written.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import Location
from warmclip.indexing.mounts import MountPoints
from warmclip.indexing.point_writer import PointWriter
from warmclip.indexing.refusals import Refusals
from warmclip.indexing.roots import Roots
from warmclip.indexing.scan import FileContent, FileScan, LocatedFile, ScannedChunk, read_files
from warmclip.inference.arrays import Vectors
from warmclip.inference.reading import FileReader, NamedImage
from warmclip.inference.selection.canary import Canary
from warmclip.progress import Progress
from warmclip.settings import Limits
from warmclip.store.protocol import Payload, Point, VectorStore

if TYPE_CHECKING:  # keeps Pillow and tokenizers out of this import
    from warmclip.inference.decoding import ImageSource
    from warmclip.inference.encoder import Embedded

K = TypeVar("K")

_CHUNK = 256  # files looked up together


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


@dataclass(slots=True, kw_only=True)
class _Content:
    """What is known of one content, in the course of a chunk."""

    waiting: list[LocatedFile] = field(default_factory=list)  # files that hold it, until it is
    point: Point | None = None  # embedded
    refusal: ImageUnreadable | None = None  # or refused
    taken_at: str = ""  # as its bytes tell


class Sync:
    """Brings a collection up to date with some files; its counts say what became of each.

    Nothing is matched by position: vectors belong to a content's digest, points to a file's
    place. A file is read once: the bytes whose digest is stored are those that are decoded. They
    wait in memory within the bounds of ``prefetch``, whatever the number of files.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        store: VectorStore,
        collection: str,
        *,
        roots: Roots,
        limits: Limits,
        home: Path | None,
        retry_refused: bool,
        progress: Progress | None,
    ) -> None:
        """Nothing is done yet.

        Args:
            encoder: makes vectors.
            store: where the collection is.
            collection: its own name.
            roots: where files must lie.
            limits: on what is read.
            home: where refused files and mounted disks are remembered; None: nowhere.
            retry_refused: whether to read again what was refused in an earlier run.
            progress: told how far it is.
        """
        self.indexed = 0
        self.reused = 0
        self.unchanged = 0
        self.skipped: dict[str, str] = {}
        self.refused: dict[str, str] = {}  # in an earlier run
        self._encoder = encoder
        self._store = store
        self._collection = collection
        self._roots = roots
        self._limits = limits
        self._progress = progress
        self._reader = FileReader(limits)
        self._mounts = None if home is None else MountPoints(home)
        self._refusals = None
        if home is not None:
            self._refusals = Refusals(home, fingerprint=encoder.fingerprint, limits=limits)
        self._scan = FileScan(
            store,
            collection,
            fingerprint=encoder.fingerprint,
            roots=roots,
            reader=self._reader,
            refusals=self._refusals,
            retry_refused=retry_refused,
        )
        self._beside = ThreadPoolExecutor(2, thread_name_prefix="warmclip-sync")  # scan and write
        self._writer = PointWriter(
            store,
            collection,
            is_proven=encoder.is_proven,
            executor=self._beside,
            on_written=self._advance,
        )
        self._newly_refused: dict[Location, str] = {}
        self._done = 0
        self._total = 0

    def sync_files(self, paths: Sequence[str]) -> None:
        """Bring these files in; once in a Sync's life. Two paths to a file count once."""
        self._total = len(paths)
        self._advance(0)
        chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        with self._beside, self._reader:
            scans = (self._beside.submit(self._scan.scan_chunk, chunk) for chunk in chunks)
            following = next(scans, None)
            while following is not None:
                chunk = following.result()
                following = next(scans, None)
                self._sync_chunk(chunk)
                self._writer.flush()
                self._remember()
        if self._mounts is not None:
            self._mounts.add(self._scan.devices.values())

    def _sync_chunk(self, chunk: ScannedChunk) -> None:
        self.unchanged += chunk.unchanged
        self.refused |= chunk.refused
        self._advance(chunk.unchanged + chunk.repeated + len(chunk.refused))
        for path, reason in chunk.skipped.items():
            self._skip(path, reason)
        contents: dict[str, _Content] = {}  # by digest
        for digest, result in self._encoder.encode_each(self._read_new(chunk.changed, contents)):
            content = contents[digest]
            first, *copies = content.waiting
            content.waiting = []
            if isinstance(result, ImageUnreadable):
                content.refusal = result
                self._refuse(first, result)
            else:
                content.point = self._make_point(digest, first, result, content.taken_at)
                self.indexed += 1
                self._writer.write(content.point)
            for file in copies:
                self._settle(file, content)

    def _read_new(
        self, files: Sequence[LocatedFile], contents: dict[str, _Content]
    ) -> Iterator[tuple[str, NamedImage]]:
        """Read files, settle those whose content is known, and yield each new content once."""
        with closing(read_files(files, self._roots, self._limits)) as reading:
            for ready in reading:
                digests = {read.sha256 for _, read in ready if isinstance(read, FileContent)}
                self._find_stored(digests - contents.keys(), contents)
                for file, read in ready:
                    if isinstance(read, ImageUnreadable):
                        self._refuse(file, read)
                        continue
                    file = replace(file, location=read.location)  # noqa: PLW2901 - as it was read
                    content = contents.get(read.sha256)
                    if content is None:
                        contents[read.sha256] = _Content(waiting=[file], taken_at=read.taken_at)
                        yield read.sha256, NamedImage(file.location.path, read.data)
                    elif content.waiting:
                        content.waiting.append(file)
                    else:
                        content.taken_at = read.taken_at
                        self._settle(file, content)

    def _find_stored(self, digests: set[str], contents: dict[str, _Content]) -> None:
        """Note those of the contents whose vector the collection has."""
        if not digests:
            return
        for point in self._store.scroll(self._collection, sha256=digests, with_vectors=True):
            if self._scan.is_usable(point):
                contents[point.payload.sha256] = _Content(point=point)

    def _settle(self, file: LocatedFile, content: _Content) -> None:
        """Store or skip a file as one that has the same content was."""
        if content.refusal is not None:
            self._refuse(file, content.refusal)
        elif content.point is not None:
            self.reused += 1
            self._writer.write(_copy(content.point, file.location, content.taken_at))

    def _make_point(
        self, digest: str, file: LocatedFile, embedded: "Embedded", taken_at: str
    ) -> Point:
        return Point(
            id=file.location.id,
            vector=embedded.vector,
            payload=Payload(
                path=file.location.path,
                sha256=digest,
                size_bytes=file.location.size_bytes,
                mtime_ns=file.location.mtime_ns,
                width_px=embedded.width_px,
                height_px=embedded.height_px,
                fingerprint=self._encoder.fingerprint,
                provider=embedded.provider,
                versions=self._encoder.versions,
                indexed_at=_now(),
                taken_at=taken_at,
                canary=str(embedded.canary or ""),
            ),
        )

    def _refuse(self, file: LocatedFile, refusal: ImageUnreadable) -> None:
        self._skip(file.path, str(refusal))
        if not refusal.may_pass:
            self._newly_refused[file.location] = str(refusal)

    def _remember(self) -> None:
        """Have the next run pass by what was refused for its content."""
        if self._refusals is not None:
            self._refusals.add(self._newly_refused)
        self._newly_refused = {}

    def _skip(self, path: str, reason: str) -> None:
        self.skipped[path] = reason
        self._advance(1)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total, "indexing")


def _copy(point: Point, location: Location, taken_at: str) -> Point:
    """A point for another place of the same content; what made the vector stays told."""
    payload = replace(
        point.payload,
        path=location.path,
        size_bytes=location.size_bytes,
        mtime_ns=location.mtime_ns,
        taken_at=taken_at,
        indexed_at=_now(),
    )
    return Point(id=location.id, vector=point.vector, payload=payload)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
