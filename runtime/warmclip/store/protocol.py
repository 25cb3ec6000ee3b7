"""What the indexer needs of a vector store: a few verbs and five records."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

from warmclip.inference.arrays import Vector
from warmclip.store.filter import EVERYTHING, Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """An embedding space: vectors are comparable only inside one."""

    fingerprint: str
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What is stored beside a vector: where it came from, and what made it."""

    path: str  # as the file system spells it; names that are not UTF-8 are kept by surrogateescape
    sha256: str  # of the file's bytes
    size_bytes: int
    mtime_ns: int
    width_px: int
    height_px: int
    fingerprint: str
    provider: str
    versions: dict[str, str]
    indexed_at: str  # ISO 8601, UTC
    canary: str = ""  # the check that the vector still waits for; empty: it is proven


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One picture in a collection. ``vector`` is None where a scroll left it out."""

    id: str  # a UUID
    vector: Vector | None
    payload: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The vectors of one space that are kept under a name."""

    collection: str
    fingerprint: str
    points: int
    in_use: bool  # the name leads to it; else ``migrate`` left it, or has not ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer to a search; ``score`` is the cosine similarity."""

    score: float
    id: str
    payload: Payload

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON can carry it: score, id, and the payload's fields."""
        return {"score": self.score, "id": self.id, **asdict(self.payload)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        payload = Payload(
            **{field.name: raw[field.name] for field in fields(Payload) if field.name in raw}
        )
        return cls(score=raw["score"], id=raw["id"], payload=payload)


class VectorStore(Protocol):
    """Where vectors live. Implementations translate their client's errors into StoreError.

    ``name`` is the collection as users say it; the store keeps the vectors of one space in
    ``<name>__<fingerprint>`` behind the alias ``name``, so that two spaces never mix.
    """

    def ensure(self, name: str, space: Space) -> None:
        """Make the collection, unless it is there.

        Raises:
            SpaceMismatch: ``name`` leads to vectors of another space.
        """
        ...

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Write points and wait until they are stored; the same id overwrites.

        Each goes to the collection of its own fingerprint, whatever ``name`` leads to just then.
        """
        ...

    def search(
        self, name: str, space: Space, vector: Vector, limit: int, only: Filter = EVERYTHING
    ) -> list[Hit]:
        """The nearest points by cosine, best first, among those that pass the filter.

        The filter's folder is a real path.

        Raises:
            SpaceMismatch: ``name`` leads to vectors of another space.
            StoreError: there is no such collection.
        """
        ...

    def scroll(
        self,
        name: str,
        *,
        ids: Iterable[str] | None = None,
        sha256: Iterable[str] | None = None,
        unverified: bool = False,
        with_vectors: bool = False,
    ) -> Iterator[Point]:
        """All points, or those with one of the ids, or digests, or that wait for a canary.

        Raises:
            StoreError: there is no such collection.
        """
        ...

    def mark_verified(self, name: str, points: Sequence[Point]) -> None:
        """Let these points wait for their canary no more.

        One that was written again since, and waits for another canary, is left as it is.
        """
        ...

    def delete(self, name: str, ids: Sequence[str]) -> None:
        """Delete points and wait until they are gone; an id that is not there is no error."""
        ...

    def stage(self, name: str, space: Space) -> str:
        """Make the collection of another space beside the one in use, unless it is there.

        Returns its own name, which every verb takes in place of ``name``.
        """
        ...

    def switch(self, name: str, space: Space) -> str | None:
        """Let ``name`` lead to the staged collection of this space, in one step.

        Returns the former collection, which is kept; None if there was none, or no change.
        """
        ...

    def generations(self, name: str) -> tuple[Generation, ...]:
        """All that is kept under a name, the collection in use first.

        Raises:
            StoreError: there is no such collection.
        """
        ...

    def drop(self, collection: str) -> None:
        """Delete a former collection.

        Raises:
            StoreError: a name leads to it.
        """
        ...

    def close(self) -> None:
        """Let go of the store, so that another process may own it."""
        ...
