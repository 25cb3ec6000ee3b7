"""Qdrant's own verbs, as a server and the embedded store offer both of them.

The store's rules stand above it, in ``qdrant`` and ``aliases``; an engine knows none of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from warmclip.inference.arrays import Vector
from warmclip.progress import Progress
from warmclip.store.filters import Condition
from warmclip.store.protocol import Optimized, Salvage


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A point as Qdrant keeps it: its payload is JSON."""

    id: str
    payload: Mapping[str, Any]
    vector: Vector | None = None  # shape (dim,), unit length; None where it was not asked for
    score: float = 0.0  # of a query


class Engine(Protocol):
    """Collections by their own names, and aliases. It is called from several threads.

    Every verb may be repeated, and translates what its library raises into StoreError.
    """

    @property
    def when_missing(self) -> str:
        """What to add to a message about a name that leads to no collection; may be empty."""
        ...

    def list_collections(self) -> list[str]:
        """The own names of all collections."""
        ...

    def read_aliases(self) -> dict[str, str]:
        """Each alias, and the collection that it leads to."""
        ...

    def set_alias(self, name: str, collection: str, *, former: str | None) -> None:
        """Let an alias lead to a collection instead of the former one, if any, in one step."""
        ...

    def delete_alias(self, name: str) -> None:
        """Take an alias away; one that is not there is no error."""
        ...

    def create_collection(self, collection: str, dim: int) -> None:
        """Make an empty collection of unit vectors, unless it is there."""
        ...

    def prepare_collection(self, collection: str, dim: int) -> None:
        """Make the payload indexes that are missing.

        Raises:
            StoreError: it is none for unit vectors of this length.
        """
        ...

    def rebuild_collection(self, collection: str, dim: int) -> Salvage:
        """Replace a damaged collection by one of the points that can be read.

        Raises:
            StoreError: the engine keeps its files elsewhere.
        """
        ...

    def optimize(
        self, collection: str, *, with_graph: bool, progress: Progress | None = None
    ) -> Optimized | None:
        """See ``VectorStore.optimize_collection``."""
        ...

    def count_uncompacted(self, collection: str) -> int:
        """How many points were written since ``optimize``; 0 where it is not ours to do."""
        ...

    def delete_collection(self, collection: str) -> None:
        """Delete a collection; one that is not there is no error."""
        ...

    def upsert(self, collection: str, records: Sequence[Record]) -> None:
        """Write records, which have vectors, and wait until they are stored."""
        ...

    def set_payload(self, collection: str, fields: Mapping[str, Any], ids: Sequence[str]) -> None:
        """Write some fields into the points with these ids, and wait until they are stored."""
        ...

    def delete(self, collection: str, only: Condition) -> None:
        """Delete the points that pass a filter at that moment, and wait until they are gone."""
        ...

    def delete_payload(self, collection: str, field: str, only: Condition) -> None:
        """Take a field from the points that pass a filter at that moment, and wait for it."""
        ...

    def count(self, collection: str, only: Condition | None = None) -> int:
        """How many points there are, or pass a filter."""
        ...

    def retrieve(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False
    ) -> list[Record]:
        """Those of these points that are there."""
        ...

    def scroll(
        self, collection: str, only: Condition | None = None, *, with_vectors: bool = False
    ) -> Iterator[Record]:
        """All points, or those that pass a filter, page by page."""
        ...

    def query(
        self, collection: str, vector: Vector, limit: int, only: Condition | None = None
    ) -> list[Record]:
        """The nearest of all points, or of those that pass a filter, best first, with scores."""
        ...

    def describe(self, collection: str) -> dict[str, Any]:
        """What the engine tells of a collection: how it is made, and how large it is."""
        ...

    def close(self, *, at_exit: bool = False) -> None:
        """Let go of the store; twice is no error.

        Args:
            at_exit: the process ends soon, and may own an embedded store for half a second more,
                where it takes long to free.
        """
        ...
