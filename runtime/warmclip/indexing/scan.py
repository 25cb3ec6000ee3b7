"""Which files a collection does not have as they are now, and what those hold."""

import hashlib
import struct
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial

from warmclip.errors import ImageUnavailable, ImageUnreadable
from warmclip.indexing.files import Location, locate_file, read_picture
from warmclip.indexing.refusals import Refusals
from warmclip.indexing.roots import Roots, real_folder
from warmclip.inference.date_taken import read_date_taken
from warmclip.inference.prefetch import prefetch
from warmclip.inference.reading import FileReader
from warmclip.settings import Limits
from warmclip.store.protocol import Point, VectorStore

_READ_THREADS = 4  # they wait for disks, also where there is one core
_READ_AHEAD = 64  # files
_SOON_S = 1.0  # for a disk that works to tell of one file


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
    taken_at: str
    data: bytes


@dataclass(slots=True, kw_only=True)
class ScannedChunk:
    """Some files, compared with a collection."""

    changed: list[LocatedFile]  # that are not stored as they are now
    skipped: dict[str, str]  # path -> reason
    refused: dict[str, str]  # that were refused before, as they are
    unchanged: int
    repeated: int  # other paths to files that were seen before


class SeenFiles:
    """Locates files; each counts once, by whatever paths it is found.

    Of those that were seen, 16 bytes are held for each: their ids.

    Attributes:
        devices: of the files that were seen, with one real path on each.
    """

    def __init__(self, roots: Roots, reader: FileReader) -> None:
        """Nothing was seen yet.

        Args:
            roots: where files must lie.
            reader: waits for disks to answer.
        """
        # A folder's files come one after the other.
        self._locate = partial(locate_file, roots=roots, real_folder=lru_cache(real_folder))
        self._reader = reader
        self._seen: set[bytes] = set()
        self.devices: dict[int, str] = {}

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
        for path, location in zip(paths, self._locate_each(paths), strict=True):
            if isinstance(location, ImageUnreadable):
                unreadable[path] = str(location)
            elif location.id in self:
                repeated += 1
            else:
                self._seen.add(uuid.UUID(location.id).bytes)
                self.devices.setdefault(location.device, location.path)
                new[location.id] = LocatedFile(path=path, location=location)
        return new, unreadable, repeated

    def _locate_each(self, paths: Sequence[str]) -> list[Location | ImageUnreadable]:
        try:
            return self._reader.read(lambda: [self._locate_one(path) for path in paths])
        except ImageUnavailable:
            # One of them does not answer. The others do at once.
            return [self._locate_soon(path) for path in paths]

    def _locate_soon(self, path: str) -> Location | ImageUnreadable:
        try:
            return self._reader.read(partial(self._locate_one, path), seconds=_SOON_S)
        except ImageUnavailable as exc:
            return exc

    def _locate_one(self, path: str) -> Location | ImageUnreadable:
        try:
            return self._locate(path)
        except ImageUnreadable as exc:
            return exc


class FileScan:
    """Compares files with one collection, a chunk at a time; nothing is read or written."""

    def __init__(
        self,
        store: VectorStore,
        collection: str,
        *,
        fingerprint: str,
        roots: Roots,
        reader: FileReader,
        refusals: Refusals | None,
        retry_refused: bool,
    ) -> None:
        """Nothing was scanned yet.

        Args:
            store: where the collection is.
            collection: its name.
            fingerprint: of the vectors that may stay.
            roots: where files must lie.
            reader: waits for disks to answer.
            refusals: of former runs; None: none are remembered.
            retry_refused: whether to forget the refusals of these files.
        """
        self._store = store
        self._collection = collection
        self._fingerprint = fingerprint
        self._refusals = refusals
        self._retry_refused = retry_refused
        self._seen = SeenFiles(roots, reader)

    @property
    def devices(self) -> Mapping[int, str]:
        """The devices of the files so far, with one real path on each."""
        return self._seen.devices

    def is_usable(self, point: Point) -> bool:
        """Whether a stored vector may stay, and be reused.

        Under a name there may be vectors of another space, which are none of ours. A vector that
        still waits for a canary is unverified: its process may have died before it.
        """
        payload = point.payload
        return payload.fingerprint == self._fingerprint and not payload.canary

    def scan_chunk(self, paths: Sequence[str]) -> ScannedChunk:
        """Find out which of these files are stored as they are now."""
        new, skipped, repeated = self._seen.locate_new(paths)
        changed = dict(new)
        for point in self._store.scroll(self._collection, ids=new):
            # What was stored before dates were read is read once more, and its vector is reused.
            is_usable = self.is_usable(point) and point.payload.taken_at is not None
            if is_usable and is_as_stored(new[point.id].location, point):
                del changed[point.id]
        refused = self._find_refused([file.location for file in changed.values()])
        return ScannedChunk(
            changed=[file for file in changed.values() if file.location.path not in refused],
            skipped=skipped,
            refused={
                file.path: refused[file.location.path]
                for file in changed.values()
                if file.location.path in refused
            },
            unchanged=len(new) - len(changed),
            repeated=repeated,
        )

    def _find_refused(self, locations: Sequence[Location]) -> dict[str, str]:
        if self._refusals is None:
            return {}
        if self._retry_refused:
            self._refusals.forget(locations)
            return {}
        return self._refusals.find(locations)


def is_as_stored(location: Location, point: Point) -> bool:
    """Whether a file has the size and the time that are stored, so that it need not be read."""
    payload = point.payload
    return (location.size_bytes, location.mtime_ns) == (payload.size_bytes, payload.mtime_ns)


def read_files(
    files: Sequence[LocatedFile], roots: Roots, limits: Limits
) -> Generator[list[tuple[LocatedFile, FileContent | ImageUnreadable]], None, None]:
    """Read files on several threads, each once, and yield those that have become ready.

    What was read waits in memory only within the bounds of ``prefetch``. A file that does not
    arrive in time holds up none of the others.
    """
    reader = FileReader(limits)
    return prefetch(
        partial(_read_one, roots=roots, limits=limits, reader=reader),
        ((file, file) for file in files),
        threads=_READ_THREADS,
        ahead=_READ_AHEAD,
        size_of=lambda file: file.location.size_bytes,
        name="warmclip-read",
        on_close=reader.close,
        in_halves=True,  # whoever reads looks the contents up in a store
    )


def _read_one(
    file: LocatedFile, roots: Roots, limits: Limits, reader: FileReader
) -> FileContent | ImageUnreadable:
    try:
        location, data = reader.read(partial(read_picture, file.location, roots, limits))
    except ImageUnreadable as exc:
        return exc
    return FileContent(
        location=location,
        sha256=hashlib.sha256(data).hexdigest(),
        taken_at=_date_taken(data),
        data=data,
    )


def _date_taken(data: bytes) -> str:
    """A picture is read whatever its date is: on an error, which would end the run, it has none."""
    with suppress(LookupError, ValueError, ArithmeticError, struct.error):
        return read_date_taken(data, datetime.now(UTC))
    return ""
