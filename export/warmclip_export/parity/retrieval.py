"""Whether searches find the same: a collection of ours and theirs mixed, against one of theirs.

Both collections lie in a real Qdrant, embedded, behind the runtime's own store. The first holds
what open_clip computed; in the second every other vector is ours, as in a service that went over
to warmclip half-way, and the queries are ours too. That is what sharing a collection means.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt

from warmclip.inference.arrays import Vectors
from warmclip.store.protocol import Payload, Point, Space
from warmclip.store.qdrant import QdrantStore

_TEN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far the answers of two collections agree, over all queries.

    Attributes:
        queries: how many there were.
        top1: the share whose first answer is right.
        top10: the share of first ten answers that are right, averaged.
        rank_correlation: Pearson's, of the places of all points in both orders, averaged.
    """

    queries: int
    top1: float
    top10: float
    rank_correlation: float


class Searches:
    """A store that lasts as long as the suite, and what open_clip's own collection answers."""

    def __init__(self, store: QdrantStore, stored: Vectors, queries: Vectors) -> None:
        self._store = store
        self._space = Space(fingerprint="0" * 64, dim=stored.shape[1])
        self._stored = stored
        self._queries = queries
        # In float64, so that the judge is finer than the judged.
        self._scores = queries.astype(np.float64) @ stored.astype(np.float64).T
        self._expected = self._places("theirs", stored, queries)

    def compare(self, stored: Vectors, queries: Vectors, tie: float) -> Agreement:
        """Search a collection that is half ours with our queries.

        An answer at place k is right if open_clip's own score of it is not more than ``tie``
        below the score of open_clip's answer number k: which of two equals comes first means
        nothing, and a corpus has many.

        Args:
            stored: our vectors of the pictures, in the order of theirs.
            queries: our vectors of the queries, in the order of theirs.
            tie: how far apart two scores may be and still be the same.
        """
        mixed = self._stored.copy()
        mixed[::2] = stored[::2]
        places = self._places("mixed", mixed, queries)
        orders = places.argsort(axis=1)
        ten = min(_TEN, orders.shape[1])
        theirs = np.sort(self._scores, axis=1)[:, ::-1]
        ours = np.take_along_axis(self._scores, orders, axis=1)
        right = ours[:, :ten] >= theirs[:, ten - 1 : ten] - tie
        first = ours[:, 0] >= theirs[:, 0] - tie
        return Agreement(
            queries=len(queries),
            top1=float(first.mean()),
            top10=float(right.mean()),
            rank_correlation=_mean_correlation(places, self._expected),
        )

    def _places(self, name: str, stored: Vectors, queries: Vectors) -> npt.NDArray[np.int64]:
        """The place of each point in the answer to each query, (queries, points)."""
        collection = self._store.create_collection(name, self._space)
        try:
            points = [_point(number, vector) for number, vector in enumerate(stored)]
            self._store.upsert(collection, points)
            places = np.empty((len(queries), len(stored)), np.int64)
            for row, query in zip(places, queries, strict=True):
                hits = self._store.search(collection, self._space, query, len(stored))
                row[[UUID(hit.id).int for hit in hits]] = np.arange(len(hits))
            return places
        finally:
            self._store.delete_collection(collection)


@contextmanager
def searches(stored: Vectors, queries: Vectors) -> Iterator[Searches]:
    """Open an embedded Qdrant in a temporary folder and search open_clip's own vectors in it."""
    with (
        tempfile.TemporaryDirectory(prefix="warmclip-parity-") as folder,
        QdrantStore.embedded(Path(folder) / "qdrant") as store,
    ):
        yield Searches(store, stored, queries)


def _point(number: int, vector: npt.NDArray[np.float32]) -> Point:
    payload = Payload(
        path="",
        sha256="",
        size_bytes=0,
        mtime_ns=0,
        width_px=0,
        height_px=0,
        fingerprint="0" * 64,
        provider="",
        versions={},
        indexed_at="",
    )
    return Point(id=str(UUID(int=number)), vector=vector, payload=payload)


def _mean_correlation(ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> float:
    """Spearman's correlation, row by row: Pearson's of places, which are ranks without ties."""
    centre = (ours.shape[1] - 1) / 2
    a, b = ours - centre, theirs - centre
    spread = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return float(((a * b).sum(axis=1) / np.maximum(spread, 1e-30)).mean())
