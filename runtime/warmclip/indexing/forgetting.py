"""Forgets pictures: deletes what is stored at or below some paths, whether or not it is there.

The user's word is what counts: a picture below a path goes even if it was stored again a moment
ago. What is stored after it was looked for, by an ``index`` that goes on, stays.
"""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from warmclip.fsutil import prefix_below
from warmclip.indexing.refusals import forget_below
from warmclip.indexing.thumbnail_cache import ThumbnailCache
from warmclip.store.batches import batches
from warmclip.store.filter import Filter

if TYPE_CHECKING:  # it imports numpy, and a server only reads a report
    from warmclip.store.protocol import VectorStore

MOST_AT_ONCE = 20_000
"""Pictures that one job forgets: a second of an embedded store, which searches wait for."""

_BATCH = 256  # pictures that are found before they are deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetReport:
    """What was forgotten, or would be."""

    collection: str
    pictures: int = 0  # that searches found
    kept: int = 0  # the same and others, in vectors that ``migrate`` left or has not finished
    refused: int = 0  # files that could not be read, whose reasons are not remembered any more
    complete: bool = True  # else there is more: ask again

    def __add__(self, other: Self) -> Self:
        return type(self)(
            collection=self.collection,
            pictures=self.pictures + other.pictures,
            kept=self.kept + other.kept,
            refused=self.refused + other.refused,
            complete=other.complete,
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """The inverse of ``to_dict``.

        Raises:
            TypeError, KeyError: it is no such report.
        """
        values = {field.name: raw[field.name] for field in fields(cls)}
        for name, value in values.items():
            wanted = {"collection": str, "complete": bool}.get(name, int)
            if type(value) is not wanted:
                raise TypeError(f"{name}: {value!r}")
        return cls(**values)


def forget_pictures(
    store: "VectorStore",
    collection: str,
    paths: Sequence[str],
    *,
    home: Path | None = None,
    dry_run: bool = False,
    most: int | None = None,
) -> ForgetReport:
    """Delete the points at or below these paths from all vectors that are kept under a name.

    Those that ``migrate`` left come first, and those that searches find last: after a kill the
    path still names what is left, and running it again completes it.

    Args:
        store: where the collection is.
        collection: its name.
        paths: absolute, as points have them; see ``Roots.stored_path``.
        home: where refused files are remembered, and thumbnails kept; None: nowhere.
        dry_run: delete nothing, and count.
        most: pictures to delete in this call; None: all.

    Raises:
        NotStored: there is no such collection.
        StoreError: the store failed; what was deleted is gone.
    """
    outermost = find_outermost(paths)
    counts = {True: 0, False: 0}  # by whether searches find them
    for generation in reversed(store.list_generations(collection)):
        left = None if most is None else most - sum(counts.values())
        ids = itertools.islice(_find_ids(store, generation.collection, outermost), left)
        for batch in batches(ids, _BATCH):
            if not dry_run:
                store.delete_points(generation.collection, batch)
            counts[generation.in_use] += len(batch)
    complete = most is None or sum(counts.values()) < most
    refused = 0
    if home is not None and complete and not dry_run:
        refused = forget_below(home, outermost)
        ThumbnailCache(home).clear()  # what is kept is named by content, not by path
    return ForgetReport(
        collection=collection,
        pictures=counts[True],
        kept=counts[False],
        refused=refused,
        complete=complete,
    )


def find_outermost(paths: Sequence[str]) -> list[str]:
    """The paths without those that lie below another one, each once."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda it: (len(it), it)):
        if not any(path.startswith(prefix_below(above)) for above in found):
            found.append(path)
    return found


def _find_ids(store: "VectorStore", collection: str, paths: Sequence[str]) -> Iterator[str]:
    """The ids of the points below these paths; where there is none, of the one at the path."""
    files = defaultdict(set)  # folder -> paths in it that nothing is below
    for path in paths:
        is_folder = False
        for point in store.scroll(collection, only=Filter(folder=path)):
            is_folder = True
            yield point.id
        if not is_folder:
            files[os.path.dirname(path)].add(path)  # noqa: PTH120 - a str as the file system spells it
    for folder, named in files.items():
        for point in store.scroll(collection, only=Filter(folder=folder)):
            if point.payload.path in named:
                yield point.id
