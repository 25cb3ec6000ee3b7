"""Writes points in batches, each while the next is embedded."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace

from warmclip.inference.selection.canary import Canary
from warmclip.store.protocol import Point, VectorStore

_BATCH = 64  # points: a kill can cost two of these


class PointWriter:
    """Writes into one collection, and lets points wait for their canaries no longer than needed.

    It is used from one thread.
    """

    def __init__(
        self,
        store: VectorStore,
        collection: str,
        *,
        is_proven: Callable[[Canary | None], bool],
        executor: Executor,
        on_written: Callable[[int], None],
    ) -> None:
        """Nothing is written yet.

        Args:
            store: where the collection is.
            collection: its name, or its own name.
            is_proven: see ``Encoder.is_proven``.
            executor: runs one write at a time.
            on_written: told how many points were written, by the thread that uses this.
        """
        self._store = store
        self._collection = collection
        self._is_proven = is_proven
        self._executor = executor
        self._on_written = on_written
        self._batch: list[Point] = []  # the next to be written
        self._writing: Future[int] | None = None
        self._unverified: list[Point] = []  # that were written waiting for a canary

    def write(self, point: Point) -> None:
        """Write a point soon.

        Raises:
            StoreError: an earlier write failed.
        """
        self._batch.append(point)
        if len(self._batch) == _BATCH:
            self._begin()

    def flush(self) -> None:
        """Write what is left, and mark as verified what has been proven since it was written.

        What is left waits for a canary that failed: those points stay unverified.

        Raises:
            StoreError: a write failed.
        """
        self._begin()
        self._wait()
        proven = [it for it in self._unverified if self._is_proven(Canary.parse(it.payload.canary))]
        self._store.mark_verified(self._collection, proven)
        self._unverified = []

    def _begin(self) -> None:
        """Begin to write a batch; of two, the first is waited for."""
        self._wait()
        if self._batch:
            self._writing = self._executor.submit(self._upsert, self._batch)
            self._batch = []

    def _wait(self) -> None:
        if self._writing is not None:
            self._on_written(self._writing.result())
            self._writing = None

    def _upsert(self, points: list[Point]) -> int:
        marked = [self._without_old_canary(point) for point in points]
        self._store.upsert(self._collection, marked)
        self._unverified += [point for point in marked if point.payload.canary]
        return len(marked)

    def _without_old_canary(self, point: Point) -> Point:
        canary = Canary.parse(point.payload.canary)
        if canary is None or not self._is_proven(canary):
            return point
        return replace(point, payload=replace(point.payload, canary=""))
