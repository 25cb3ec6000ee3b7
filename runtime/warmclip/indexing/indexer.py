"""Pictures brought into a collection, and found in it."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from warmclip.indexing.exclusion import ExcludedPaths, Exclusion
from warmclip.indexing.migration import Migration
from warmclip.indexing.mounts import MountPoints
from warmclip.indexing.pruning import (
    check_folder,
    check_loss,
    check_mounted,
    delete_orphans,
    is_orphan,
)
from warmclip.indexing.report import IndexReport
from warmclip.indexing.roots import Roots, Scope
from warmclip.indexing.sync import ImageEncoder, Sync
from warmclip.indexing.walk import find_images
from warmclip.inference.arrays import Vector
from warmclip.progress import Progress
from warmclip.settings import Limits, Root, Settings
from warmclip.store.filter import EVERYTHING, Filter
from warmclip.store.protocol import Hit, Space, VectorStore, collection_of

if TYPE_CHECKING:  # keeps Pillow and tokenizers out of this import
    from warmclip.inference.decoding import ImageSource


class Indexer:
    """An encoder and a store.

    Every write is idempotent and every id comes from the file's place: a run that was killed is
    completed by running it again, and running it twice changes nothing.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        store: VectorStore,
        *,
        collection: str = "images",
        roots: Sequence[Root] = (),
        limits: Limits | None = None,
        home: Path | None = None,
    ) -> None:
        """Nothing is opened.

        Args:
            encoder: an ``Encoder``.
            store: where collections are.
            collection: the one to bring up to date and to search.
            roots: where files must lie, and what ids are made by; none: anywhere.
            limits: on what is read.
            home: where files that were refused, and disks that were mounted, are remembered from
                run to run; None: nowhere.
        """
        self.collection = collection
        self._encoder = encoder
        self._store = store
        self._space = Space(fingerprint=encoder.fingerprint, dim=encoder.dim)
        self._roots = Roots(roots)
        self._limits = limits or Limits()
        self._home = home
        self._mounts = None if home is None else MountPoints(home)

    @property
    def fingerprint(self) -> str:
        """Of the encoder's embedding space."""
        return self._space.fingerprint

    @classmethod
    def from_settings(
        cls,
        encoder: ImageEncoder,
        store: VectorStore,
        settings: Settings,
        collection: str | None = None,
    ) -> Self:
        """An Indexer of the settings' collection, or of another one."""
        return cls(
            encoder,
            store,
            collection=collection or settings.collection,
            roots=settings.roots,
            limits=settings.limits,
            home=settings.home,
        )

    def index(
        self,
        paths: Iterable[str | Path],
        *,
        prune: bool = False,
        yes: bool = False,
        retry_unreadable: bool = False,
        exclude: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> IndexReport:
        """Bring the collection up to date with files, folders and patterns.

        Args:
            paths: see ``find_images``.
            prune: also delete what the collection has below these folders and the disk has not,
                and what is excluded.
            yes: prune even more than a fifth of the collection, or of a disk that is not mounted.
            retry_unreadable: read again what was refused in an earlier run, though it has not
                changed since.
            exclude: see ``Exclusion``.
            progress: told how far it is, after every few pictures.

        Raises:
            SettingsError: a pattern to exclude is none.
            SpaceMismatch: the collection holds vectors of another model.
            PruneRefused: before anything was written.
            StoreError: the store failed; what was written stays.
        """
        started = time.monotonic()
        if progress is not None:
            progress(0, 0, "finding")
        named = [os.fspath(path) for path in paths]
        exclusion = Exclusion(exclude, self._roots)
        excluded = ExcludedPaths(exclusion, named)
        self._store.ensure_collection(self.collection, self._space)
        orphans = self._find_orphans(named, excluded, yes=yes) if prune else []
        found = find_images(named, exclusion)
        report = self._sync_files(
            self.collection, found.files, progress, retry_refused=retry_unreadable
        )
        if orphans:
            deleted = delete_orphans(
                self._store, self.collection, orphans, self._roots, excluded=excluded
            ).deleted
            report = replace(report, pruned=deleted)
        return replace(
            report,
            skipped=found.problems | report.skipped,
            unreadable=found.closed | report.unreadable,
            ignored=found.ignored,
            seconds=time.monotonic() - started,
        )

    def index_files(
        self,
        files: Sequence[str],
        *,
        retry_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> IndexReport:
        """Bring the collection up to date with these files; nothing is searched for.

        A folder or a pattern among them is reported as no picture: whoever names files for
        others, as a job does, learns nothing of what lies beside them.

        Raises:
            SpaceMismatch, StoreError: as ``index``.
        """
        self._store.ensure_collection(self.collection, self._space)
        return self._sync_files(self.collection, files, progress, retry_refused=retry_unreadable)

    def search(
        self,
        text: str | None = None,
        *,
        image: "ImageSource | None" = None,
        vector: Vector | None = None,
        limit: int = 10,
        only: Filter = EVERYTHING,
        min_score: float | None = None,
    ) -> list[Hit]:
        """The pictures nearest to a text, an image or a unit vector, best first.

        Args:
            text: in words.
            image: a picture.
            vector: of unit length; exactly one of the three is given.
            limit: hits at most.
            only: among which pictures; its folder is an absolute path, as somebody wrote it.
            min_score: the cosine similarity that a hit has at least.

        Raises:
            SpaceMismatch: the collection holds vectors of another model.
            ImagesUnreadable, TextRefused: the question cannot be embedded.
            JobRefused, FolderUnreadable: the folder is outside the roots, or no absolute path.
            StoreError: there is no such collection, or the store failed.
            TypeError: not exactly one of text, image and vector is given.
        """
        if only.folder is not None:
            only = replace(only, folder=self._roots.resolve(only.folder))
        if vector is None:
            vector = self.embed(text, image=image)
        elif text is not None or image is not None:
            raise TypeError("search for exactly one of text, image and vector")
        hits = self._store.search(self.collection, self._space, vector, limit, only)
        return [hit for hit in hits if min_score is None or hit.score >= min_score]

    def embed(self, text: str | None = None, *, image: "ImageSource | None" = None) -> Vector:
        """The unit vector of a text or a picture, shape (dim,), to search by or to combine.

        Raises:
            ImagesUnreadable, TextRefused: it cannot be embedded.
            TypeError: not exactly one of the two is given.
        """
        match text, image:
            case str(), None:
                vector: Vector = self._encoder.encode_texts([text])[0]
            case None, source if source is not None:
                vector = self._encoder.encode_images([source])[0]
            case _:
                raise TypeError("embed exactly one of text and image")
        return vector

    def migrate(
        self,
        *,
        yes: bool = False,
        drop: bool = False,
        switch: bool = True,
        on_switch: Callable[[str], object] = lambda _: None,
        progress: Progress | None = None,
    ) -> IndexReport:
        """Embed a collection's pictures with this encoder's model, then switch to them at once.

        Searches go on in the former vectors until the switch. A run that was killed is completed
        by running it again. Pictures whose files are gone are reported and left behind. What is
        indexed with the former model meanwhile is carried over as well.

        Args:
            yes: switch even if more than a fifth of the pictures cannot be carried over.
            drop: delete the former vectors; otherwise they are kept.
            switch: False only embeds: the former vectors go on answering searches.
            on_switch: called once the name was switched, with the fingerprint of the former
                space; what is written to the former vectors until it returns is carried over.
            progress: see ``index``.

        Raises:
            PruneRefused: too many pictures cannot be read; nothing was switched.
            SourceChanged: pictures were indexed with the former model all the time; nothing was
                switched.
            StoreError: there is no such collection, or the store failed.
        """
        started = time.monotonic()
        if progress is not None:
            progress(0, 0, "finding")
        migration = Migration(
            self._store,
            self.collection,
            self._space,
            lambda collection, files: self._sync_files(collection, files, progress),
        )
        if switch:
            report = migration.run(yes=yes, drop=drop, on_switch=on_switch)
        else:
            report = migration.fill()
        return replace(report, seconds=time.monotonic() - started)

    def _sync_files(
        self,
        collection: str,
        files: Sequence[str],
        progress: Progress | None,
        *,
        retry_refused: bool = False,
    ) -> IndexReport:
        """Bring a collection that is there, by its name or its own name, up to date with files."""
        started = time.monotonic()
        sync = Sync(
            self._encoder,
            self._store,
            # What is read is what is written to, wherever the name is led to meanwhile.
            collection_of(collection, self._space.fingerprint),
            roots=self._roots,
            limits=self._limits,
            home=self._home,
            retry_refused=retry_refused,
            progress=progress,
        )
        sync.sync_files(files)
        return IndexReport(
            collection=self.collection,
            indexed=sync.indexed,
            reused=sync.reused,
            unchanged=sync.unchanged,
            skipped=sync.skipped,
            unreadable=sync.refused,
            seconds=time.monotonic() - started,
        )

    def _find_orphans(
        self, paths: Sequence[str], excluded: ExcludedPaths, *, yes: bool
    ) -> list[str]:
        """The ids of the points below these folders that stand for no file any more."""
        for path in paths:
            check_folder(path, self.collection)
        scope = Scope(paths)
        total = 0
        orphans: dict[str, str] = {}  # id -> path
        for point in self._store.scroll(self.collection):
            total += 1
            if point.payload.path in scope and is_orphan(point, self._roots, excluded):
                orphans[point.id] = point.payload.path
        if not yes:
            check_mounted(self._mounts, self.collection, orphans.values())
            check_loss(self.collection, list(orphans.values()), total)
        return list(orphans)
