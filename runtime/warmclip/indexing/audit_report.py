"""The report of an audit: where a collection differs from the files that it was made of.

A provider other than the CPU is checked by canaries: golden rows that are computed with a batch. A
point is stored with the name of the canary that it waits for, which is removed when that canary was
good. So a point that still has it was computed after the last good canary of a provider that
failed, or of a process that died; or a moment ago, by a worker that is running. It is unverified,
which users and JSON call suspect.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from warmclip.indexing.report import IndexReport
from warmclip.store.protocol import Generation, Point, VectorStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """A point whose vector no good canary has followed."""

    path: str
    id: str
    provider: str
    indexed_at: str
    canary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A file without a point."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """A file with another content than its point was made of."""

    path: str
    id: str
    size_bytes: int
    stored_bytes: int
    indexed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A point without a file, or whose file is excluded."""

    path: str
    id: str
    size_bytes: int
    indexed_at: str
    sha256: str
    excluded: bool = False  # its file is there
    elsewhere: str = ""  # another stored file with this content that is there, if there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """An orphan, and the file without a point that has its content."""

    before: Orphan
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPoint:
    """A point of another embedding space, which another program has written."""

    path: str
    id: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdenticalFiles:
    """Several stored files that hold the same bytes."""

    sha256: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found, and what became of it. Each picture is in one category of faults."""

    collection: str
    paths: tuple[str, ...] = ()  # what was compared; none: only unverified points were looked for
    exclude: tuple[str, ...] = ()  # patterns that were given
    files: int = 0
    points: int = 0  # in the whole collection
    missing: tuple[Missing, ...] = ()
    stale: tuple[Stale, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    moved: tuple[Moved, ...] = ()
    unverified: tuple[Unverified, ...] = ()
    foreign: tuple[ForeignPoint, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)  # path -> why nothing was compared there
    unreadable: dict[str, str] = field(default_factory=dict)  # file -> reason: no fault
    touched: tuple[str, ...] = ()  # the same bytes with another time: no fault
    identical: tuple[IdenticalFiles, ...] = ()  # no fault
    ignored: dict[str, int] = field(default_factory=dict)  # as in ``IndexReport``: no fault
    generations: tuple[Generation, ...] = ()
    model: str = ""  # the fingerprint of the model here, where there is one
    repaired: IndexReport | None = None  # None: it was only listed

    @property
    def files_to_index(self) -> tuple[str, ...]:
        """The files that a repair indexes; of moved ones the vector is there already."""
        return (
            *(it.path for it in self.missing),
            *(it.path for it in self.stale),
            *(it.path for it in self.moved),
            *(it.path for it in self.unverified),
            *(it.path for it in self.foreign),
            *self.touched,
        )

    @property
    def is_of_another_model(self) -> bool:
        """Whether the collection's vectors are of another space than the model's here."""
        return bool(
            self.model and self.generations and self.generations[0].fingerprint != self.model
        )

    @property
    def faults(self) -> int:
        """How many pictures are not as they should be, and folders could not be compared.

        A file that cannot be read is none: no repair would change that.
        """
        categories = (self.missing, self.stale, self.orphans, self.moved, self.unverified)
        return sum(map(len, categories)) + len(self.foreign) + len(self.problems)

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong any more; 1: something is."""
        if self.repaired is None:
            return 1 if self.faults or self.is_of_another_model else 0
        return 1 if self.problems else self.repaired.exit_code

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        listed: dict[str, tuple[Any, ...]] = {
            "missing": self.missing,
            "stale": self.stale,
            "orphans": self.orphans,
            "moved": self.moved,
            "suspects": self.unverified,
            "strangers": self.foreign,
            "duplicates": self.identical,
            "generations": self.generations,
        }
        return {
            "collection": self.collection,
            "paths": list(self.paths),
            "exclude": list(self.exclude),
            "files": self.files,
            "points": self.points,
            "faults": self.faults,
            **{name: [asdict(it) for it in records] for name, records in listed.items()},
            "problems": self.problems,
            "unreadable": self.problems | self.unreadable,
            "touched": list(self.touched),
            "ignored": self.ignored,
            "model": self.model,
            "other_model": self.is_of_another_model,
            "repaired": None if self.repaired is None else self.repaired.to_dict(),
        }


def describe_unverified(point: Point) -> Unverified:
    """The record of a point that waits for a canary."""
    return Unverified(
        path=point.payload.path,
        id=point.id,
        provider=point.payload.provider,
        indexed_at=point.payload.indexed_at,
        canary=point.payload.canary,
    )


def find_unverified(store: VectorStore, collection: str) -> tuple[Unverified, ...]:
    """The unverified points of a collection, by path.

    Raises:
        StoreError: there is no such collection, or the store failed.
    """
    found = map(describe_unverified, store.scroll(collection, unverified=True))
    return tuple(sorted(found, key=lambda it: it.path))
