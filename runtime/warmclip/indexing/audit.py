"""Files compared with a collection, which is only read.

Points are streamed, files looked up by the chunk. Held are the files' paths, as for indexing, 48
bytes for each file, and what is found.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from warmclip.errors import ImageUnreadable
from warmclip.indexing.audit_report import (
    AuditReport,
    Duplicate,
    ForeignPoint,
    Missing,
    Moved,
    Orphan,
    Stale,
    Unverified,
    unverified,
)
from warmclip.indexing.files import (
    Scope,
    canonical_roots,
    find_images,
    is_gone,
)
from warmclip.indexing.pruning import is_orphan
from warmclip.indexing.scan import Content, SeenFiles, digest_files, is_as_stored
from warmclip.progress import Progress
from warmclip.settings import Limits, Root
from warmclip.store.protocol import Point, VectorStore

_CHUNK = 256  # files looked up together
_TOLD_EVERY = 256  # points


def audit_folders(
    store: VectorStore,
    collection: str,
    paths: Sequence[str | Path],
    *,
    roots: Sequence[Root] = (),
    limits: Limits | None = None,
    model: str = "",
    progress: Progress | None = None,
) -> AuditReport:
    """Find out where files, folders and patterns differ from a collection.

    A file is read only if its size or time is not the stored one, or to tell whether it was moved.

    Args:
        store: where the collection is.
        collection: its name.
        paths: see ``find_images``; points below other paths are not looked at.
        roots: as for indexing, or every id is another one.
        limits: see ``read_picture``.
        model: the fingerprint of the model here, for the report.
        progress: told how far it is, for points, then for files.

    Raises:
        StoreError: there is no such collection, or the store failed.
    """
    comparison = _Audit(
        store, collection, paths, canonical_roots(roots), limits or Limits(), model, progress
    )
    return comparison.run()


class _Audit:
    def __init__(
        self,
        store: VectorStore,
        collection: str,
        paths: Sequence[str | Path],
        roots: Sequence[Root],
        limits: Limits,
        model: str,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._collection = collection
        self._paths = tuple(os.fspath(path) for path in paths)
        self._roots = roots
        self._limits = limits
        self._model = model
        self._progress = progress
        self._scope = Scope(self._paths)
        self._points = 0
        self._orphans: dict[str, Orphan] = {}  # by id
        self._places = SeenFiles(roots)
        self._digests: Counter[bytes] = Counter()  # of files that are stored as they are
        self._missing: dict[str, Missing] = {}
        self._homeless: defaultdict[str, list[str]] = defaultdict(list)  # digest -> missing files
        self._stale: dict[str, Stale] = {}  # by id
        self._suspects: list[Unverified] = []
        self._strangers: list[ForeignPoint] = []
        self._touched: list[str] = []
        self._unreadable: dict[str, str] = {}

    def run(self) -> AuditReport:
        generations = self._store.list_generations(self._collection)
        self._look_at_points(generations[0].points)
        found = find_images(self._paths)
        self._unreadable |= found.problems
        self._look_at_files(found.files, generations[0].fingerprint)
        moved = self._pair()
        return AuditReport(
            collection=self._collection,
            paths=self._paths,
            files=len(self._places),
            points=self._points,
            missing=tuple(self._missing.values()),
            stale=tuple(self._stale.values()),
            orphans=self._described_orphans(),
            moved=moved,
            suspects=tuple(self._suspects),
            strangers=tuple(self._strangers),
            unreadable=self._unreadable,
            touched=tuple(self._touched),
            duplicates=tuple(self._duplicates()),
            generations=generations,
            model=self._model,
        )

    def _look_at_points(self, total: int) -> None:
        for point in self._store.scroll(self._collection):
            self._points += 1
            if self._points % _TOLD_EVERY == 0:
                self._tell(self._points, max(total, self._points), "points")
            if point.payload.path in self._scope and is_orphan(point, self._roots):
                self._orphans[point.id] = _orphan(point)

    def _look_at_files(self, files: Sequence[str], fingerprint: str) -> None:
        sizes = {orphan.size_bytes for orphan in self._orphans.values()}
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            self._tell(start, len(files), "files")
            places, unreadable, _ = self._places.find(chunk)
            self._unreadable |= unreadable
            stored = {it.id: it for it in self._store.scroll(self._collection, ids=places)}
            unsure = []
            for id_, (path, location) in places.items():
                point = stored.get(id_)
                if point is None:
                    self._missing[path] = Missing(path=path, size_bytes=location.size_bytes)
                    if location.size_bytes in sizes:
                        unsure.append(path)
                elif point.payload.fingerprint != fingerprint:
                    theirs = point.payload.fingerprint
                    self._strangers.append(ForeignPoint(path=path, id=id_, fingerprint=theirs))
                elif is_as_stored(location, point):
                    self._keep(point)
                else:
                    unsure.append(path)
            for path, content in digest_files(unsure, self._roots, self._limits):
                self._judge(path, content, stored)

    def _judge(
        self, path: str, content: Content | ImageUnreadable, stored: dict[str, Point]
    ) -> None:
        """What became of a file that had to be read."""
        if isinstance(content, ImageUnreadable):
            self._missing.pop(path, None)
            self._unreadable[path] = str(content)
            return
        point = stored.get(content.location.id)
        if point is None:
            self._homeless[content.sha256].append(path)
        elif point.payload.sha256 != content.sha256:
            self._stale[point.id] = Stale(
                path=path,
                id=point.id,
                size_bytes=content.location.size_bytes,
                stored_bytes=point.payload.size_bytes,
                indexed_at=point.payload.indexed_at,
            )
        else:
            if not point.payload.canary:
                self._touched.append(path)
            self._keep(point)

    def _keep(self, point: Point) -> None:
        """A point that its file agrees with."""
        self._digests[bytes.fromhex(point.payload.sha256)] += 1
        if point.payload.canary:
            self._suspects.append(unverified(point))

    def _pair(self) -> tuple[Moved, ...]:
        """Orphans and missing files of one content, one to one."""
        moved = []
        for orphan in list(self._orphans.values()):
            if paths := self._homeless.get(orphan.sha256):
                path = paths.pop(0)
                del self._missing[path]
                del self._orphans[orphan.id]
                moved.append(Moved(before=orphan, path=path))
        return tuple(moved)

    def _described_orphans(self) -> tuple[Orphan, ...]:
        """The orphans that are left, with the place where their content is stored besides."""
        elsewhere = {}
        digests = {orphan.sha256 for orphan in self._orphans.values()}
        for point in self._store.scroll(self._collection, sha256=digests):
            taken = point.id in self._orphans or point.id in self._stale
            if not taken and not is_gone(point.payload.path):
                elsewhere[point.payload.sha256] = point.payload.path
        return tuple(
            replace(it, elsewhere=elsewhere.get(it.sha256, ""))
            for it in sorted(self._orphans.values(), key=lambda it: it.path)
        )

    def _duplicates(self) -> Iterator[Duplicate]:
        repeated = [digest.hex() for digest, count in self._digests.items() if count > 1]
        paths = defaultdict(list)
        for point in self._store.scroll(self._collection, sha256=repeated):
            if point.id in self._places and point.id not in self._stale:
                paths[point.payload.sha256].append(point.payload.path)
        for digest, some in sorted(paths.items(), key=lambda it: min(it[1])):
            yield Duplicate(sha256=digest, paths=tuple(sorted(some)))

    def _tell(self, done: int, total: int, stage: str) -> None:
        if self._progress is not None:
            self._progress(done, total, stage)


def _orphan(point: Point) -> Orphan:
    return Orphan(
        path=point.payload.path,
        id=point.id,
        size_bytes=point.payload.size_bytes,
        indexed_at=point.payload.indexed_at,
        sha256=point.payload.sha256,
    )
