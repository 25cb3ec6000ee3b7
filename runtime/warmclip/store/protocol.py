"""What the rest of warmclip needs of a vector store: its verbs, and the records that they take."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

from warmclip.inference.arrays import Vector
from warmclip.progress import Progress
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
    # ISO 8601 on the camera's clock; empty: the file does not tell; None: nobody looked yet
    taken_at: str | None = None
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
    foreign: int = 0  # points among them that warmclip did not write; every read passes them by
    in_use: bool  # the name leads to it; else ``migrate`` left it, or has not ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What a rebuild could read of a damaged collection."""

    kept: int  # points that are in the new collection
    lost: int | None  # points that are not; None: nobody knows how many there were
    set_aside: str  # the folder that has the damaged files now


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """What became of a collection that was optimized."""

    done: bool  # False: there was nothing to do
    points: int
    segments: int
    seconds: float
    size_bytes: int  # on the disk
    former_size_bytes: int
    had_graph: bool
    has_graph: bool  # searches may miss pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer to a search; ``score`` is the cosine similarity."""

    score: float
    id: str
    payload: Payload
    # That the text belongs to the picture. A store leaves it None, as it knows no model; set by
    # ``indexing.probability``, unless the model, or the query, has none.
    probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON can carry it: score, probability, id, and the payload's fields."""
        own = {"score": self.score, "probability": self.probability, "id": self.id}
        return own | asdict(self.payload)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        payload = Payload(
            **{field.name: raw[field.name] for field in fields(Payload) if field.name in raw}
        )
        return cls(
            score=raw["score"],
            id=raw["id"],
            payload=payload,
            probability=raw.get("probability"),
        )


def collection_of(name: str, fingerprint: str) -> str:
    """The collection that holds the vectors of one space under a name: all writes go there.

    The own name of a collection is kept as it is.
    """
    return name if "__" in name else f"{name}__{fingerprint}"


def fingerprint_in(collection: str) -> str:
    """The fingerprint in a collection's own name, see ``collection_of``."""
    return collection.rpartition("__")[2]


class VectorStore(Protocol):
    """Where vectors live. Implementations translate their client's errors into StoreError.

    A ``name`` is the collection as users say it: an alias, which leads to the collection of one
    space. Reads go where the name leads. **Writes go to the collection of the points' own
    fingerprint, never to the alias**: see ``collection_of``. So a writer whose name was switched
    to another model meanwhile mixes nothing. Every verb that takes a name also takes the own name
    of a collection.

    A collection of a space has three states: it is not there; it was created, and the name does
    not lead to it (``migrate`` fills it); the name leads to it. Every verb may be repeated.
    """

    def list_names(self) -> tuple[str, ...]:
        """The names that lead to a collection, sorted."""
        ...

    def list_generations(self, name: str) -> tuple[Generation, ...]:
        """All collections that are kept under a name, the one in use first.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def count_points(self, name: str) -> int:
        """How many points the collection in use has, those that are none of ours included.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def fingerprint_of(self, name: str) -> str:
        """The fingerprint of the space whose vectors a name leads to now.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def ensure_collection(self, name: str, space: Space) -> None:
        """Make a name ready to be written to: its collection, payload indexes and alias.

        Whatever of that is missing is made, at every call: a process that was killed between two
        of these steps leaves nothing unmade.

        Raises:
            SpaceMismatch: ``name`` leads to vectors of another space.
        """
        ...

    def create_collection(self, name: str, space: Space) -> str:
        """Make the collection of a space ready to be written to; the name does not lead there yet.

        A collection that is there is kept with its points: see ``clear_collection``.

        Returns:
            Its own name.
        """
        ...

    def clear_collection(self, collection: str) -> None:
        """Delete all points of a collection that no name leads to.

        Raises:
            StoreError: a name leads to it.
            NotStored: it is not there.
        """
        ...

    def delete_collection(self, collection: str) -> None:
        """Delete a collection that no name leads to; one that is not there is no error.

        Raises:
            StoreError: a name leads to it.
        """
        ...

    def delete_name(self, name: str, *, dry_run: bool = False) -> tuple[str, ...]:
        """Delete a name with all collections that are kept under it, damaged ones as well.

        A call that was killed is completed by the next one.

        Args:
            name: no collection's own name.
            dry_run: delete nothing.

        Returns:
            The collections' own names.

        Raises:
            NotStored: there is nothing under this name.
        """
        ...

    def rebuild_collection(self, name: str, space: Space) -> Salvage:
        """Make a damaged collection anew of what can be read, and set its files aside.

        A name that leads to no collection of this space is refused. Index the folders of its
        pictures afterwards: what was lost is embedded again, the rest is found unchanged.

        Raises:
            SpaceMismatch: ``name`` leads to vectors of another space.
            NotStored: the name leads to no collection.
            StoreError: a server keeps the collection, whose files are none of ours.
        """
        ...

    def optimize_collection(
        self, name: str, *, with_graph: bool = False, progress: Progress | None = None
    ) -> Optimized | None:
        """Compact an embedded collection: it opens faster, and deleted points leave no room.

        A copy of it is compacted in a process of its own, and takes its place when it is whole:
        the disk needs room for the collection twice more. Searches go on meanwhile; what is
        written waits while the files are copied.

        Args:
            name: of the collection.
            with_graph: also build a graph of neighbours (HNSW), by which searches of very many
                pictures are faster, and may miss some. Without it a graph that is there goes:
                searches are exact.
            progress: told about every second that it works; it does not know how far it is.

        Returns:
            What was done; None: a server does it by itself.

        Raises:
            NotStored: the name leads to no collection.
            StoreError: it failed, or too much was written meanwhile; the collection is as it was.
            StoreHeld: another process owns the embedded store.
        """
        ...

    def wants_compaction(self, name: str) -> bool:
        """Whether so many points of an embedded collection came since that optimizing it pays.

        Never of one that has a graph, which takes long, or of which another process is the owner.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def revision(self, name: str) -> str:
        """One value for all that a name holds: its collection, and each point's id and content.

        It differs as soon as a point was written, rewritten or deleted, and reads every payload.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def switch_alias(
        self, name: str, fingerprint: str, *, if_revision: str | None = None
    ) -> str | None:
        """Let a name lead to the collection of a space, which must be there, in one step.

        Args:
            name: of the alias.
            fingerprint: of the space whose collection the name leads to afterwards.
            if_revision: switch only if ``revision(name)`` still is this. A server cannot be asked
                both at once: what is written between the two requests is in the former
                collection only, so compare the two once more after the switch.

        Returns:
            The former collection, which is kept; None if there was none, or no change.

        Raises:
            SourceChanged: the name holds something else by now; nothing was switched.
            NotStored: there is no collection of this space.
        """
        ...

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Write points and wait until they are stored; the same id overwrites.

        Each goes to the collection of its own fingerprint, whatever ``name`` leads to just then.
        """
        ...

    def delete_unchanged(self, name: str, points: Sequence[Point]) -> frozenset[str]:
        """Delete each point that still is what was read, and wait until it is gone.

        A point has changed if it was written again since: its digest, its file's time or
        ``indexed_at`` differ. One that is gone already is no error.

        Args:
            name: the collection; each point is deleted in that of its own fingerprint.
            points: as they were read, with or without vectors.

        Returns:
            The ids of those that have changed, and are still there.
        """
        ...

    def delete_points(self, collection: str, ids: Iterable[str]) -> None:
        """Delete points whatever they are by now, and wait until they are gone.

        For what somebody said is to go. ``delete_unchanged`` is for what was found to be gone.

        Args:
            collection: its own name, or the name that leads to it.
            ids: of a scroll of it, which may go on meanwhile. One that is gone is no error.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def mark_verified(self, name: str, points: Sequence[Point]) -> None:
        """Let these points wait for their canary no more.

        One that was written again since, and waits for another canary, is left as it is.
        """
        ...

    def search(
        self, name: str, space: Space, vector: Vector, limit: int, only: Filter = EVERYTHING
    ) -> list[Hit]:
        """The nearest points by cosine, best first, among those that pass the filter.

        The filter's folder is a real path.

        Raises:
            SpaceMismatch: ``name`` leads to vectors of another space.
            NotStored: the name leads to no collection.
        """
        ...

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
        """All points, or those that one of the arguments asks for, in no order.

        Those below a folder are found even if they were stored without their folders.

        Args:
            name: the collection.
            ids: the points with these ids; one that is not there is no error.
            sha256: the points with these contents.
            unverified: the points that wait for a canary.
            only: the points that pass a filter, whose folder is a real path.
            with_vectors: read them as well; else ``Point.vector`` is None.

        Raises:
            NotStored: the name leads to no collection.
        """
        ...

    def describe(self, collection: str) -> dict[str, Any]:
        """How a collection is made, and how large it is, as JSON can carry it.

        An embedded one tells its points, segments and bytes on disk; a server tells its shards,
        replicas, quantization and limits.

        Raises:
            NotStored: there is no such collection.
        """
        ...

    def close(self) -> None:
        """Let go of the store, so that another process may own it. Twice is no error."""
        ...
