"""Vectors that nobody has vouched for: which pictures they are of, and how they are made good.

A provider other than the CPU is checked by canaries, golden rows that ride along. A point is
stored with the name of the canary that it waits for, which is taken away when that one was good.
So a point that still has it was computed after the last good canary of a provider that failed, or
of a process that died; or a moment ago, by a worker that is running.
"""

from dataclasses import asdict, dataclass
from typing import Any

from warmclip.indexing.report import IndexReport
from warmclip.indexing.store import VectorStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A picture whose vector is not proven."""

    path: str
    id: str
    provider: str
    indexed_at: str
    canary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found, and what became of it."""

    collection: str
    suspects: tuple[Suspect, ...]
    repaired: IndexReport | None = None  # None: it was only listed

    @property
    def exit_code(self) -> int:
        """0: nothing is suspect any more; 1: something is."""
        if self.repaired is None:
            return 1 if self.suspects else 0
        return self.repaired.exit_code

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return {
            "collection": self.collection,
            "suspects": [asdict(suspect) for suspect in self.suspects],
            "repaired": None if self.repaired is None else self.repaired.to_dict(),
        }


def find_suspects(store: VectorStore, collection: str) -> tuple[Suspect, ...]:
    """The pictures of a collection whose vectors are not proven, by path.

    Raises:
        StoreError: there is no such collection, or the store failed.
    """
    found = [
        Suspect(
            path=point.payload.path,
            id=point.id,
            provider=point.payload.provider,
            indexed_at=point.payload.indexed_at,
            canary=point.payload.canary,
        )
        for point in store.scroll(collection, suspect=True)
    ]
    return tuple(sorted(found, key=lambda suspect: suspect.path))
