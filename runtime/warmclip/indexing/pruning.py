"""Which points stand for no file any more, and when so many of them are not believed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmclip.errors import ImageUnreadable, PruneRefused
from warmclip.indexing.files import Walk, is_gone, locate, point_id
from warmclip.settings import Root
from warmclip.store.protocol import Point, VectorStore

MOST_LOST = 0.2  # of a collection; more looks like an unmounted disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What became of orphans."""

    deleted: int
    kept: frozenset[str]  # ids of those whose file is there, but not stored as it is named now


def is_orphan(point: Point, roots: Sequence[Root]) -> bool:
    """Whether a point's file is gone, or has another id since the roots were named otherwise.

    Args:
        point: of any collection.
        roots: from ``canonical_roots``.
    """
    path = point.payload.path
    return is_gone(path) or point.id != point_id(path, roots)


def check_folder(path: str) -> None:
    """Refuse a path that may not be compared with a collection, to forget what is gone.

    Raises:
        PruneRefused: it is missing or holds no pictures, as the place of an unmounted disk does.
    """
    if not Path(path).is_dir():
        raise PruneRefused(
            "forgetting pictures that are gone takes folders to compare with the collection, and "
            f"{path!r} is no folder; is a disk not mounted? Nothing was changed"
        )
    if next(iter(Walk(path)), None) is None:
        raise PruneRefused(
            f"{path!r} holds no pictures at all; is a disk not mounted? Nothing was changed"
        )


def check_loss(collection: str, gone: Sequence[str], total: int) -> None:
    """Refuse to delete so much of a collection that it looks like an unmounted disk.

    Args:
        collection: its name.
        gone: the paths of what would be deleted.
        total: points in the collection.

    Raises:
        PruneRefused: it is more than a fifth.
    """
    if len(gone) > MOST_LOST * total:
        raise PruneRefused(
            f"this would delete {len(gone)} of the {total} pictures in {collection!r}, such as "
            f"{gone[0]!r}; is a disk not mounted? Nothing was changed. If they are meant to go, "
            "repeat with --yes"
        )


def forget(
    store: VectorStore,
    collection: str,
    ids: Collection[str],
    roots: Sequence[Root],
    *,
    now_at: Mapping[str, str] | None = None,
) -> Forgotten:
    """Delete those of the points that still are orphans, and whose vector nobody needs.

    Where a file is there under another id, or at another place, its vector is needed until the
    file is stored anew: it may be unreadable just now, or workers may have other roots than we.

    Args:
        store: where the collection is.
        collection: its name.
        ids: of the points.
        roots: from ``canonical_roots``.
        now_at: id -> the place to which its file was moved.
    """
    if not ids:
        return Forgotten(deleted=0, kept=frozenset())
    orphans = [it for it in store.scroll(collection, ids=ids) if is_orphan(it, roots)]
    heirs = {}  # id -> the id that its file has now; None: none that could be stored
    for point in orphans:
        place = (now_at or {}).get(point.id)
        if place is not None:
            heirs[point.id] = _id_of(place, roots)
        elif not is_gone(point.payload.path):
            heirs[point.id] = point_id(point.payload.path, roots)
    wanted = {heir for heir in heirs.values() if heir is not None}
    stored = {point.id for point in store.scroll(collection, ids=wanted)}
    kept = frozenset(id_ for id_, heir in heirs.items() if heir not in stored)
    doomed = [point for point in orphans if point.id not in kept]
    changed = store.delete_unchanged(collection, doomed)
    return Forgotten(deleted=len(doomed) - len(changed), kept=kept | changed)


def _id_of(path: str, roots: Sequence[Root]) -> str | None:
    try:
        return locate(path, roots).id
    except ImageUnreadable:
        return None
