"""Compares files with a collection, and writes nothing.

Points are streamed, files are looked up by the chunk. In memory are the files' paths, 48 bytes for
each file besides, and what is found.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from warmclip.errors import ImageUnreadable
from warmclip.indexing.audit_report import (
    AuditReport,
    ForeignPoint,
    IdenticalFiles,
    Missing,
    Moved,
    Orphan,
    Stale,
    Unverified,
    describe_unverified,
)
from warmclip.indexing.exclusion import ExcludedPaths, Exclusion
from warmclip.indexing.files import is_file_gone
from warmclip.indexing.pruning import is_orphan
from warmclip.indexing.refusals import Refusals
from warmclip.indexing.roots import Roots, Scope
from warmclip.indexing.scan import FileContent, LocatedFile, SeenFiles, is_as_stored, read_files
from warmclip.indexing.walk import find_images
from warmclip.inference.reading import FileReader
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
    home: Path | None = None,
    model: str = "",
    exclude: Sequence[str] = (),
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
        home: where refused files are remembered; None: nowhere.
        model: the fingerprint of the model here, for the report.
        exclude: see ``Exclusion``; a stored picture that is excluded is an orphan.
        progress: told how far it is, for points, then for files.

    Raises:
        SettingsError: a pattern to exclude is none.
        StoreError: there is no such collection, or the store failed.
    """
    audit = _Audit(
        store, collection, paths, Roots(roots), limits or Limits(), home, model, exclude, progress
    )
    return audit.make_report()


class _Audit:
    def __init__(
        self,
        store: VectorStore,
        collection: str,
        paths: Sequence[str | Path],
        roots: Roots,
        limits: Limits,
        home: Path | None,
        model: str,
        exclude: Sequence[str],
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._collection = collection
        self._paths = tuple(os.fspath(path) for path in paths)
        self._roots = roots
        self._limits = limits
        self._home = home
        self._model = model
        self._progress = progress
        self._scope = Scope(self._paths)
        self._exclusion = Exclusion(exclude, roots)
        self._excluded = ExcludedPaths(self._exclusion, self._paths)
        self._points = 0
        self._orphans: dict[str, Orphan] = {}  # by id
        self._seen = SeenFiles(roots, FileReader(limits))
        self._stored: Counter[bytes] = Counter()  # digests of files that are stored as they are
        self._missing: dict[str, Missing] = {}  # by path
        self._missing_with: defaultdict[str, list[str]] = defaultdict(list)  # digest -> paths
        self._stale: dict[str, Stale] = {}  # by id
        self._unverified: list[Unverified] = []
        self._foreign: list[ForeignPoint] = []
        self._touched: list[str] = []
        self._unreadable: dict[str, str] = {}

    def make_report(self) -> AuditReport:
        generations = self._store.list_generations(self._collection)
        self._find_orphans(generations[0].points)
        found = find_images(self._paths, self._exclusion)
        self._unreadable |= found.closed
        self._compare_files(found.files, generations[0].fingerprint)
        moved = self._pair_moved()
        return AuditReport(
            collection=self._collection,
            paths=self._paths,
            exclude=self._exclusion.patterns,
            files=len(self._seen),
            points=self._points,
            missing=tuple(self._missing.values()),
            stale=tuple(self._stale.values()),
            orphans=self._describe_orphans(),
            moved=moved,
            unverified=tuple(self._unverified),
            foreign=tuple(self._foreign),
            problems=found.problems,
            ignored=found.ignored,
            unreadable=self._unreadable,
            touched=tuple(self._touched),
            identical=tuple(self._find_identical()),
            generations=generations,
            model=self._model,
        )

    def _find_orphans(self, total: int) -> None:
        for point in self._store.scroll(self._collection):
            self._points += 1
            if self._points % _TOLD_EVERY == 0:
                self._tell(self._points, max(total, self._points), "points")
            path = point.payload.path
            if path in self._scope and is_orphan(point, self._roots, self._excluded):
                is_excluded = not is_file_gone(path) and path in self._excluded
                self._orphans[point.id] = _describe_orphan(point, is_excluded=is_excluded)

    def _compare_files(self, files: Sequence[str], fingerprint: str) -> None:
        orphan_sizes = {orphan.size_bytes for orphan in self._orphans.values()}
        refusals = None
        if self._home is not None:
            refusals = Refusals(self._home, fingerprint=fingerprint, limits=self._limits)
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            self._tell(start, len(files), "files")
            new, unreadable, _ = self._seen.locate_new(chunk)
            self._unreadable |= unreadable
            stored = {it.id: it for it in self._store.scroll(self._collection, ids=new)}
            differing = {
                id_: file
                for id_, file in new.items()
                if id_ not in stored or not is_as_stored(file.location, stored[id_])
            }
            locations = [file.location for file in differing.values()]
            refused = {} if refusals is None else refusals.find(locations)
            to_read = []  # to know what became of them
            for id_, file in new.items():
                point = stored.get(id_)
                if file.location.path in refused:
                    self._unreadable[file.path] = refused[file.location.path]
                elif point is None:
                    size_bytes = file.location.size_bytes
                    self._missing[file.path] = Missing(path=file.path, size_bytes=size_bytes)
                    if size_bytes in orphan_sizes:  # it may have been moved
                        to_read.append(file)
                elif point.payload.fingerprint != fingerprint:
                    theirs = point.payload.fingerprint
                    self._foreign.append(ForeignPoint(path=file.path, id=id_, fingerprint=theirs))
                elif id_ in differing:
                    to_read.append(file)
                else:
                    self._note_stored(point)
            for ready in read_files(to_read, self._roots, self._limits):
                for file, content in ready:
                    self._compare_content(file, content, stored)

    def _compare_content(
        self, file: LocatedFile, content: FileContent | ImageUnreadable, stored: dict[str, Point]
    ) -> None:
        if isinstance(content, ImageUnreadable):
            self._missing.pop(file.path, None)
            self._unreadable[file.path] = str(content)
            return
        point = stored.get(content.location.id)
        if point is None:
            self._missing_with[content.sha256].append(file.path)
        elif point.payload.sha256 != content.sha256:
            self._stale[point.id] = Stale(
                path=file.path,
                id=point.id,
                size_bytes=content.location.size_bytes,
                stored_bytes=point.payload.size_bytes,
                indexed_at=point.payload.indexed_at,
            )
        else:
            if not point.payload.canary:
                self._touched.append(file.path)
            self._note_stored(point)

    def _note_stored(self, point: Point) -> None:
        """Note a point whose file has the content that it was made of."""
        self._stored[bytes.fromhex(point.payload.sha256)] += 1
        if point.payload.canary:
            self._unverified.append(describe_unverified(point))

    def _pair_moved(self) -> tuple[Moved, ...]:
        """Pair orphans and missing files of the same content, one to one."""
        moved = []
        for orphan in list(self._orphans.values()):
            if paths := self._missing_with.get(orphan.sha256):
                path = paths.pop(0)
                del self._missing[path]
                del self._orphans[orphan.id]
                moved.append(Moved(before=orphan, path=path))
        return tuple(moved)

    def _describe_orphans(self) -> tuple[Orphan, ...]:
        """The orphans that are left, each with another place where its content is stored."""
        elsewhere = {}
        digests = {orphan.sha256 for orphan in self._orphans.values()}
        for point in self._store.scroll(self._collection, sha256=digests):
            is_taken = point.id in self._orphans or point.id in self._stale
            path = point.payload.path
            if not is_taken and not is_file_gone(path) and path not in self._excluded:
                elsewhere[point.payload.sha256] = path
        return tuple(
            replace(it, elsewhere=elsewhere.get(it.sha256, ""))
            for it in sorted(self._orphans.values(), key=lambda it: it.path)
        )

    def _find_identical(self) -> Iterator[IdenticalFiles]:
        repeated = [digest.hex() for digest, count in self._stored.items() if count > 1]
        paths = defaultdict(list)
        for point in self._store.scroll(self._collection, sha256=repeated):
            if point.id in self._seen and point.id not in self._stale:
                paths[point.payload.sha256].append(point.payload.path)
        for digest, some in sorted(paths.items(), key=lambda it: min(it[1])):
            yield IdenticalFiles(sha256=digest, paths=tuple(sorted(some)))

    def _tell(self, done: int, total: int, stage: str) -> None:
        if self._progress is not None:
            self._progress(done, total, stage)


def _describe_orphan(point: Point, *, is_excluded: bool) -> Orphan:
    return Orphan(
        path=point.payload.path,
        id=point.id,
        size_bytes=point.payload.size_bytes,
        indexed_at=point.payload.indexed_at,
        sha256=point.payload.sha256,
        excluded=is_excluded,
    )
