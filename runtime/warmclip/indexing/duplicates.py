"""Finds duplicates: pictures whose stored vectors are nearly the same.

A group is a picture and those near to it: each is as near to the first as the threshold says, so
there are no chains, in which the ends may have nothing in common. The first is the largest of
them, by pixels, then by bytes. A member that has the first's bytes is identical, which users and
JSON call exact. Vectors are compared in blocks; no list of pairs is made, however many there are.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warmclip.errors import SettingsError
from warmclip.indexing.roots import Scope
from warmclip.inference.arrays import Vectors
from warmclip.progress import Progress
from warmclip.store.protocol import Hit, Point, VectorStore

MOST_BYTES = 512 * 1024 * 1024  # of vectors in memory: 262,144 of 512 dimensions

_TOLD_EVERY = 1000  # vectors that were read
_BLOCK = 512  # vectors compared with the others at a time
_COLUMNS = 8192
_ROUNDING = 1e-6  # of a dot product: the same vector twice may be a little less than 1

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A picture, and those near to it, nearest first; scores are cosines with the first."""

    hits: tuple[Hit, ...]

    @property
    def identical(self) -> int:
        """How many besides the first have its bytes."""
        return sum(map(self.is_identical, self.hits[1:]))

    def is_identical(self, hit: Hit) -> bool:
        """Whether a picture has the first's bytes."""
        return hit.payload.sha256 == self.hits[0].payload.sha256

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON can carry it."""
        return {
            "pictures": [hit.to_dict() | {"exact": self.is_identical(hit)} for hit in self.hits]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatesReport:
    """The groups of one collection, the largest first; a picture near to none is in none."""

    collection: str
    threshold: float
    pictures: int  # that were compared
    groups: tuple[Group, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return {
            "collection": self.collection,
            "threshold": self.threshold,
            "pictures": self.pictures,
            "groups": [group.to_dict() for group in self.groups],
        }


def find_duplicates(
    store: VectorStore,
    collection: str,
    paths: Sequence[str | Path] = (),
    *,
    threshold: float,
    progress: Progress | None = None,
) -> DuplicatesReport:
    """Group the pictures of a collection that are near to each other. It only reads.

    Args:
        store: where the collection is.
        collection: its name.
        paths: only pictures at or below these.
        threshold: the least cosine with a group's first picture.
        progress: told how many vectors were read, then compared.

    Raises:
        SettingsError: the vectors need more memory than ``MOST_BYTES``.
        StoreError: there is no such collection, or the store failed.
    """
    table = _Table(store, collection, Scope(paths) if paths else None, progress)
    leaders, scores = _assign_leaders(table.vectors, table.ranks, threshold, progress)
    members: dict[int, list[tuple[int, float]]] = {}
    for row, content in enumerate(table.contents.tolist()):
        members.setdefault(int(leaders[content]), []).append((row, float(scores[content])))
    several = {leader: rows for leader, rows in members.items() if len(rows) > 1}
    wanted = (table.id(row) for rows in several.values() for row, _ in rows)
    points = {point.id: point for point in store.scroll(collection, ids=wanted)}
    groups = [
        _make_group(points, table.digests[leader], rows, table) for leader, rows in several.items()
    ]
    groups = [group for group in groups if len(group.hits) > 1]  # some may be gone meanwhile
    groups.sort(key=lambda it: (-len(it.hits), it.hits[0].payload.path))
    return DuplicatesReport(
        collection=collection,
        threshold=threshold,
        pictures=len(table.contents),
        groups=tuple(groups),
    )


class _Table:
    """The vectors of a collection's contents, and which points have them.

    Attributes:
        vectors: of each content, shape (contents, dim).
        ranks: the contents, largest picture first.
        contents: each point's content.
        digests: of the contents.
    """

    def __init__(
        self, store: VectorStore, collection: str, scope: Scope | None, progress: Progress | None
    ) -> None:
        total = store.list_generations(collection)[0].points
        known: dict[bytes, int] = {}
        ids = bytearray()
        contents: list[int] = []
        sizes: list[tuple[int, int]] = []
        vectors = np.empty((0, 0), np.float32)
        for count, point in enumerate(
            islice(store.scroll(collection, with_vectors=True), total), start=1
        ):
            if progress is not None and count % _TOLD_EVERY == 0:
                progress(count, total, "vectors")
            payload = point.payload
            if point.vector is None or not (scope is None or payload.path in scope):
                continue
            digest = bytes.fromhex(payload.sha256)
            if digest not in known:
                if len(known) == len(vectors):
                    vectors = _enlarge(vectors, point.vector.size, total)
                vectors[len(known)] = point.vector
                sizes.append((payload.width_px * payload.height_px, payload.size_bytes))
                known[digest] = len(known)
            contents.append(known[digest])
            ids += uuid.UUID(point.id).bytes
        self._ids = bytes(ids)
        self.vectors = vectors[: len(known)]
        self.contents = np.asarray(contents, np.intp)
        self.digests = [digest.hex() for digest in known]
        order = sorted(range(len(sizes)), key=lambda it: (sizes[it], -it), reverse=True)
        self.ranks = np.asarray(order, np.intp)

    def id(self, row: int) -> str:
        """The id of a point."""
        return str(uuid.UUID(bytes=self._ids[16 * row : 16 * row + 16]))


def _enlarge(vectors: Vectors, dim: int, total: int) -> Vectors:
    """Room for twice as many vectors, within the bound."""
    most = MOST_BYTES // (4 * dim)
    if len(vectors) >= most:
        raise SettingsError(
            f"more than {most} pictures of {dim} dimensions are to be compared, which takes more "
            f"than {MOST_BYTES >> 20} MB; name folders, to compare a part of them"
        )
    grown = np.empty((min(most, total, max(1024, 2 * len(vectors))), dim), np.float32)
    if len(vectors):
        grown[: len(vectors)] = vectors
    return grown


def _assign_leaders(
    vectors: Vectors, ranks: Indices, threshold: float, progress: Progress | None
) -> tuple[Indices, npt.NDArray[np.float32]]:
    """Assign each vector to the first in rank that it is near to and that is a leader itself.

    Returns:
        Each vector's leader, perhaps itself, and its cosine with it.
    """
    least = threshold - _ROUNDING
    count = len(vectors)
    leaders = np.full(count, -1, np.intp)
    scores = np.ones(count, np.float32)
    for start in range(0, count, _BLOCK):
        if progress is not None:
            progress(start, count, "comparing")
        block = ranks[start : start + _BLOCK]
        block = block[leaders[block] < 0]
        chosen = _assign_in_block(vectors, block, leaders, scores, least)
        rest = ranks[start + _BLOCK :]
        for column in range(0, len(rest), _COLUMNS):
            some = rest[column : column + _COLUMNS]
            some = some[leaders[some] < 0]
            if not len(some) or not len(chosen):
                continue
            cosines = vectors[chosen] @ vectors[some].T
            near = cosines >= least
            taken = near.any(axis=0)
            which = near.argmax(axis=0)[taken]  # the first in rank
            leaders[some[taken]] = chosen[which]
            scores[some[taken]] = cosines[which, np.flatnonzero(taken)]
    return leaders, np.minimum(scores, 1)


def _assign_in_block(
    vectors: Vectors,
    block: Indices,
    leaders: Indices,
    scores: npt.NDArray[np.float32],
    least: float,
) -> Indices:
    """Assign the vectors of a block among themselves; returns the block's leaders."""
    cosines = vectors[block] @ vectors[block].T
    chosen = []
    for row, index in enumerate(block):
        if leaders[index] >= 0:
            continue
        chosen.append(index)
        leaders[index] = index
        near = (cosines[row] >= least) & (leaders[block] < 0)
        leaders[block[near]] = index
        scores[block[near]] = cosines[row][near]
    return np.asarray(chosen, np.intp)


def _make_group(
    points: Mapping[str, Point], first: str, rows: Sequence[tuple[int, float]], table: _Table
) -> Group:
    hits = [
        Hit(score=score, id=id_, payload=points[id_].payload)
        for id_, score in ((table.id(row), score) for row, score in rows)
        if id_ in points
    ]
    return Group(
        hits=tuple(
            sorted(hits, key=lambda it: (it.payload.sha256 != first, -it.score, it.payload.path))
        )
    )
