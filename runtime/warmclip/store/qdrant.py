"""The store's verbs over Qdrant's own, whether a server or the embedded engine carries them out."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from warmclip.errors import SourceChanged, StoreError
from warmclip.fsutil import prefix_below
from warmclip.inference.arrays import Vector
from warmclip.progress import Progress
from warmclip.settings import without_password
from warmclip.store.aliases import Aliases
from warmclip.store.batches import Batches
from warmclip.store.engine import Engine, Record
from warmclip.store.filter import EVERYTHING, Filter
from warmclip.store.filters import (
    FOREIGN,
    UNVERIFIED,
    WITHOUT_FOLDERS,
    Condition,
    passing,
    passing_without_folders,
    unchanged,
    waiting_for,
    with_sha256,
    without_foreign,
)
from warmclip.store.payload import from_json, is_ours, path_of, to_json
from warmclip.store.protocol import (
    Generation,
    Hit,
    Optimized,
    Point,
    Salvage,
    Space,
    collection_of,
)

WRITE_BATCH = 64
"""Points in one request that writes: what Qdrant's documentation advises as the least."""

READ_BATCH = 256
"""Points in one request that reads."""

COMPACTED_FROM = 20_000
"""Points that came since: each 10,000 make opening the store 30 ms longer."""

_PART_ADDED = 0.1  # of all points: compacting copies what is compacted already

log = logging.getLogger(__name__)

T = TypeVar("T")


class QdrantStore:
    """A ``VectorStore`` in Qdrant. Make one with ``embedded``, ``server`` or ``open_store``.

    It may be used from several threads: the embedded store serves them one at a time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._aliases = Aliases(engine)
        self._batches = Batches()
        self._told: set[str] = set()  # what was warned of

    @classmethod
    def embedded(
        cls, folder: Path, lock: int | None = None, *, progress: Progress | None = None
    ) -> Self:
        """Open or make a store in a folder, which this process then owns until ``close``.

        Args:
            folder: of mode 0700.
            lock: its lock, from ``lock_store``, if it is taken already.
            progress: told how far it is, while a store of the former format is converted.

        Raises:
            StoreHeld: another process owns it.
            StoreError: the folder is not ours alone, or cannot be used.
        """
        from warmclip.store.embedded import EmbeddedEngine

        return cls(EmbeddedEngine(folder, lock, progress))

    @classmethod
    def remote(cls, folder: Path, *, take_over: bool = False, patience_s: float = 30.0) -> Self:
        """Use the store in a folder through the process that owns it. Nobody is asked yet.

        Args:
            folder: as of ``embedded``.
            take_over: become the owner when there is none; else the next one is waited for.
            patience_s: how long an answer is waited for before StoreUnreachable is raised.

        Raises:
            SettingsError: the folder is not ours alone.
        """
        from warmclip.store.embedded_remote import RemoteEngine

        return cls(RemoteEngine(folder, take_over=take_over, patience_s=patience_s))

    @classmethod
    def server(
        cls,
        url: str,
        api_key: str | None = None,
        *,
        options: str = "",
        timeout_s: int = 30,
        patience_s: float = 60.0,
        first_patience_s: float = 5.0,
        on_retry: Callable[[], object] = lambda: None,
    ) -> Self:
        """Use a Qdrant server. Nothing is sent yet.

        Args:
            url: its address; user and password in it are sent as basic authentication.
            api_key: Qdrant's own key.
            options: how collections are made, see ``CollectionOptions``.
            timeout_s: for one answer.
            patience_s: how long a call is repeated while the server is away, overloaded or slow.
            first_patience_s: the same until it has answered once: a server that is not there at
                all should be said soon.
            on_retry: called before a request is repeated.

        Raises:
            SettingsError: the options are none of Qdrant's.
        """
        from warmclip.store.calls import ServerCalls
        from warmclip.store.collection_options import CollectionOptions
        from warmclip.store.server import ServerEngine

        calls = ServerCalls(
            without_password(url),
            patience_s=patience_s,
            first_patience_s=first_patience_s,
            on_retry=on_retry,
        )
        made = CollectionOptions.parse(options)
        return cls(ServerEngine(url, api_key, calls, timeout_s=timeout_s, options=made))

    def list_names(self) -> tuple[str, ...]:
        """See ``VectorStore.list_names``."""
        return self._aliases.names()

    def list_generations(self, name: str) -> tuple[Generation, ...]:
        """See ``VectorStore.list_generations``."""
        in_use = self._aliases.require(name)
        return tuple(
            Generation(
                collection=collection,
                fingerprint=collection.removeprefix(f"{name}__"),
                points=self._engine.count(collection),
                foreign=self._engine.count(collection, FOREIGN),
                in_use=collection == in_use,
            )
            for collection in (in_use, *self._aliases.others(name))
        )

    def count_points(self, name: str) -> int:
        """See ``VectorStore.count_points``."""
        return self._engine.count(self._aliases.require(name))

    def fingerprint_of(self, name: str) -> str:
        """See ``VectorStore.fingerprint_of``."""
        return self._aliases.fingerprint(name)

    def ensure_collection(self, name: str, space: Space) -> None:
        """See ``VectorStore.ensure_collection``."""
        self._aliases.ensure(name, space)

    def create_collection(self, name: str, space: Space) -> str:
        """See ``VectorStore.create_collection``."""
        return self._aliases.create(name, space)

    def clear_collection(self, collection: str) -> None:
        """See ``VectorStore.clear_collection``."""
        self._aliases.check_unused(collection)
        self.delete_points(collection, (record.id for record in self._engine.scroll(collection)))

    def delete_collection(self, collection: str) -> None:
        """See ``VectorStore.delete_collection``."""
        self._aliases.check_unused(collection)
        self._engine.delete_collection(collection)

    def delete_name(self, name: str, *, dry_run: bool = False) -> tuple[str, ...]:
        """See ``VectorStore.delete_name``."""
        return self._aliases.delete(name, dry_run=dry_run)

    def rebuild_collection(self, name: str, space: Space) -> Salvage:
        """See ``VectorStore.rebuild_collection``."""
        collection = self._aliases.require_space(name, space)
        return self._engine.rebuild_collection(collection, space.dim)

    def optimize_collection(
        self, name: str, *, with_graph: bool = False, progress: Progress | None = None
    ) -> Optimized | None:
        """See ``VectorStore.optimize_collection``."""
        collection = self._aliases.require(name)
        return self._engine.optimize(collection, with_graph=with_graph, progress=progress)

    def wants_compaction(self, name: str) -> bool:
        """See ``VectorStore.wants_compaction``."""
        collection = self._aliases.require(name)
        added = self._engine.count_uncompacted(collection)
        is_worthwhile = compaction_pays(added, self._engine.count(collection))
        return is_worthwhile and not self._engine.describe(collection)["graph"]

    def revision(self, name: str) -> str:
        """See ``VectorStore.revision``."""
        collection = self._aliases.require(name)
        total = 0
        for record in self._engine.scroll(collection):
            total ^= int.from_bytes(_digest_of(record), "big")
        return f"{collection}:{total:x}"

    def switch_alias(
        self, name: str, fingerprint: str, *, if_revision: str | None = None
    ) -> str | None:
        """See ``VectorStore.switch_alias``."""
        if if_revision is not None and self.revision(name) != if_revision:
            raise SourceChanged(
                f"collection {name!r} was written to meanwhile, so it does not lead to the new "
                "vectors yet; run the same command again to carry over what has changed"
            )
        return self._aliases.switch(name, fingerprint)

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.upsert``."""
        for fingerprint, group in itertools.groupby(points, lambda it: it.payload.fingerprint):
            collection = collection_of(name, fingerprint)
            records = [_record(point) for point in group]
            self._send("write", records, WRITE_BATCH, partial(self._engine.upsert, collection))

    def delete_unchanged(self, name: str, points: Sequence[Point]) -> frozenset[str]:
        """See ``VectorStore.delete_unchanged``."""
        left: set[str] = set()
        for fingerprint, group in itertools.groupby(points, lambda it: it.payload.fingerprint):
            collection = collection_of(name, fingerprint)
            looked_at = list(group)
            self._send("delete", looked_at, WRITE_BATCH, partial(self._delete, collection))
            found = self._read(collection, (point.id for point in looked_at), None, None, False)
            left |= {record.id for record in found}
        return frozenset(left)

    def delete_points(self, collection: str, ids: Iterable[str]) -> None:
        """See ``VectorStore.delete_points``."""
        target = self._aliases.require(collection)
        self._send(
            "ids",
            ids,
            READ_BATCH,
            lambda batch: self._engine.delete(target, {"must": [{"has_id": batch}]}),
        )

    def mark_verified(self, name: str, points: Sequence[Point]) -> None:
        """See ``VectorStore.mark_verified``."""
        by_canary = sorted(points, key=_fingerprint_and_canary)
        for (fingerprint, canary), group in itertools.groupby(by_canary, _fingerprint_and_canary):
            forget = partial(self._forget_canary, collection_of(name, fingerprint), canary)
            self._send("ids", [point.id for point in group], READ_BATCH, forget)

    def search(
        self, name: str, space: Space, vector: Vector, limit: int, only: Filter = EVERYTHING
    ) -> list[Hit]:
        """See ``VectorStore.search``."""
        collection = self._aliases.require_space(name, space)
        if only.folder is not None:
            self._warn_of_missing_folders(collection)
        found = self._engine.query(collection, vector, limit, passing(only))
        if not all(is_ours(it.payload) for it in found):
            self._warn_of_foreign(collection)
            found = self._engine.query(collection, vector, limit, without_foreign(passing(only)))
        return [
            Hit(score=it.score, id=it.id, payload=from_json(it.payload))
            for it in found
            if is_ours(it.payload)
        ]

    def scroll(
        self,
        name: str,
        *,
        ids: Iterable[str] | None = None,
        sha256: Iterable[str] | None = None,
        unverified: bool = False,
        only: Filter = EVERYTHING,
        with_vectors: bool = False,
    ) -> Iterator[Point]:
        """See ``VectorStore.scroll``."""
        collection = self._aliases.require(name)
        chosen = UNVERIFIED if unverified else passing(only)
        for record in self._read(collection, ids, sha256, chosen, with_vectors):
            if not is_ours(record.payload):
                self._warn_of_foreign(collection)
            else:
                yield _point(record)
        if only.folder is not None:
            below = prefix_below(only.folder)
            chosen = passing_without_folders(only)
            for record in self._engine.scroll(collection, chosen, with_vectors=with_vectors):
                if is_ours(record.payload) and path_of(record.payload).startswith(below):
                    yield _point(record)

    def describe(self, collection: str) -> dict[str, Any]:
        """See ``VectorStore.describe``."""
        return self._engine.describe(self._aliases.require(collection))

    def close(self, *, at_exit: bool = False) -> None:
        """See ``VectorStore.close``.

        Args:
            at_exit: as in ``Engine.close``.
        """
        self._engine.close(at_exit=at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(
        self,
        collection: str,
        ids: Iterable[str] | None,
        sha256: Iterable[str] | None,
        chosen: Condition | None,
        with_vectors: bool,
    ) -> Iterator[Record]:
        def retrieve(batch: list[str]) -> list[Record]:
            return self._engine.retrieve(collection, batch, with_vectors=with_vectors)

        def with_digests(batch: list[str]) -> list[Record]:
            only = with_sha256(batch)
            return list(self._engine.scroll(collection, only, with_vectors=with_vectors))

        if ids is not None:
            pages = self._batches.send("retrieve", ids, READ_BATCH, retrieve)
        elif sha256 is not None:
            pages = self._batches.send("digests", sha256, READ_BATCH, with_digests)
        else:
            yield from self._engine.scroll(collection, chosen, with_vectors=with_vectors)
            return
        yield from itertools.chain.from_iterable(pages)

    def _send(
        self, kind: str, items: Iterable[T], size: int, request: Callable[[list[T]], None]
    ) -> None:
        for _ in self._batches.send(kind, items, size, request):
            pass

    def _delete(self, collection: str, points: Sequence[Point]) -> None:
        self._engine.delete(collection, unchanged(points))

    def _forget_canary(self, collection: str, canary: str, ids: Sequence[str]) -> None:
        self._engine.delete_payload(collection, "canary", waiting_for(canary, ids))

    def _warn_of_missing_folders(self, collection: str) -> None:
        """Reading completes nothing: say once what a search by folder passes by."""
        if self._is_news(f"folders of {collection}"):
            count = self._engine.count(collection, WITHOUT_FOLDERS)
            if count:
                log.warning(
                    "%d pictures of %s are not found by folder, as they were stored without their "
                    "folders: `warmclip index` completes them",
                    count,
                    collection,
                )

    def _warn_of_foreign(self, collection: str) -> None:
        if self._is_news(f"foreign points of {collection}"):
            log.warning(
                "%d points of %s were not written by warmclip, and are passed by",
                max(self._engine.count(collection, FOREIGN), 1),
                collection,
            )

    def _is_news(self, what: str) -> bool:
        if what in self._told:
            return False
        self._told.add(what)
        return True


def compaction_pays(added: int, points: int) -> bool:
    """Whether so many points have come since the last compaction that another is worth its copy.

    Args:
        added: those that came since.
        points: all of them.
    """
    return added >= COMPACTED_FROM and added >= _PART_ADDED * points


def _record(point: Point) -> Record:
    if point.vector is None:
        raise StoreError(f"the point of {point.payload.path!r} has no vector to be stored")
    return Record(id=point.id, payload=to_json(point.payload), vector=point.vector)


def _point(record: Record) -> Point:
    return Point(id=record.id, vector=record.vector, payload=from_json(record.payload))


def _fingerprint_and_canary(point: Point) -> tuple[str, str]:
    return point.payload.fingerprint, point.payload.canary


def _digest_of(record: Record) -> bytes:
    """For what a picture is: not whether its vector is proven."""
    told: Mapping[str, Any] = record.payload
    fields = (told.get("path"), told.get("sha256"), told.get("mtime_ns"), told.get("indexed_at"))
    return hashlib.sha256(repr((record.id, *fields)).encode()).digest()
