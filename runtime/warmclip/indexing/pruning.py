"""Orphans: points whose file is gone or excluded. What looks like an unmounted disk is doubted."""

import shlex
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmclip.errors import ImageUnreadable, PruneRefused
from warmclip.indexing.files import is_file_gone, locate_file
from warmclip.indexing.mounts import MountPoints
from warmclip.indexing.roots import Roots, real_folder
from warmclip.indexing.walk import Walk
from warmclip.store.protocol import Point, VectorStore

MOST_LOST = 0.2  # of a collection; more looks like an unmounted disk


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedOrphans:
    """What became of orphans."""

    deleted: int
    kept: frozenset[str]  # ids of those whose file is there, but not stored by its new id


def is_orphan(point: Point, roots: Roots, excluded: Container[str] = ()) -> bool:
    """Whether a point's file is gone, excluded, or has another id, as roots were named otherwise.

    Args:
        point: of any collection.
        roots: what ids are made by.
        excluded: the paths that do not belong to the collection any more: see ``ExcludedPaths``.
    """
    path = point.payload.path
    return _is_gone(path, excluded) or point.id != roots.point_id(path)


def _is_gone(path: str, excluded: Container[str]) -> bool:
    return is_file_gone(path) or path in excluded


def check_folder(path: str, collection: str) -> None:
    """Refuse a path that may not be compared with a collection, to delete what is gone.

    Raises:
        PruneRefused: it is missing or holds no pictures, as the place of an unmounted disk does.
    """
    if not Path(path).is_dir():
        raise PruneRefused(
            "forgetting pictures that are gone takes folders to compare with the collection, and "
            f"{path!r} is no folder; is a disk not mounted? Nothing was changed. "
            f"{_if_gone(path, collection)}"
        )
    if next(iter(Walk(path, None)), None) is None:  # those that are excluded show that it is there
        raise PruneRefused(
            f"{path!r} holds no pictures at all; is a disk not mounted? Nothing was changed. "
            f"{_if_gone(path, collection)}"
        )


def _if_gone(folder: str, collection: str) -> str:
    named = shlex.quote(real_folder(folder))
    return (
        "If it is gone for good, delete what is stored below it with "
        f"`warmclip forget --collection {collection} {named}`"
    )


def check_mounted(mounts: MountPoints | None, collection: str, paths: Iterable[str]) -> None:
    """Refuse to delete what lies on a disk that was mounted when it was indexed, and is not now.

    Args:
        mounts: where disks were; None: it is not known.
        collection: its name.
        paths: of what would be deleted.

    Raises:
        PruneRefused: naming the disk.
    """
    unmounted = {} if mounts is None else mounts.find_unmounted(paths)
    for folder, count in unmounted.items():
        raise PruneRefused(
            f"this would delete {count} pictures below {folder!r}, where a disk was mounted when "
            "they were indexed, and none is now; mount it. Nothing was changed. "
            f"{_if_gone(folder, collection)}"
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
            f"{gone[0]!r}; is a disk not mounted, or is too much excluded? Nothing was "
            "changed. If they are meant to go, repeat with --yes"
        )


def delete_orphans(
    store: VectorStore,
    collection: str,
    ids: Collection[str],
    roots: Roots,
    *,
    excluded: Container[str] = (),
    moved_to: Mapping[str, str] | None = None,
) -> DeletedOrphans:
    """Delete those of the points that still are orphans, and whose vector nobody needs.

    Each is looked at again, and deleted only if it still is what was looked at: its file may have
    come back meanwhile, and been indexed. Where a file is there under another id, or at another
    place, its vector is needed until the file is stored anew: it may be unreadable just now, or
    workers may have other roots than we. What is gone for good is deleted from the vectors that
    ``migrate`` kept as well, so that no deleted picture comes back with them.

    Args:
        store: where the collection is.
        collection: its name.
        ids: of the points.
        roots: what ids are made by.
        excluded: see ``is_orphan``.
        moved_to: id -> the path to which its file was moved.
    """
    if not ids:
        return DeletedOrphans(deleted=0, kept=frozenset())
    orphans = [it for it in store.scroll(collection, ids=ids) if is_orphan(it, roots, excluded)]
    new_ids = {}  # id -> the id that its file has now; None: none that could be stored
    for point in orphans:
        path = (moved_to or {}).get(point.id)
        if path is not None:
            new_ids[point.id] = _id_of(path, roots)
        elif not _is_gone(point.payload.path, excluded):
            new_ids[point.id] = roots.point_id(point.payload.path)
    wanted = {id_ for id_ in new_ids.values() if id_ is not None}
    stored = {point.id for point in store.scroll(collection, ids=wanted)}
    kept = frozenset(id_ for id_, new_id in new_ids.items() if new_id not in stored)
    needless = [point for point in orphans if point.id not in kept]
    changed = store.delete_unchanged(collection, needless)
    gone = [point.id for point in needless if point.id not in new_ids]
    _delete_kept_vectors(store, collection, gone, excluded)
    return DeletedOrphans(deleted=len(needless) - len(changed), kept=kept)


def _delete_kept_vectors(
    store: VectorStore, collection: str, ids: Sequence[str], excluded: Container[str]
) -> None:
    """Delete pictures that are gone from the former vectors of a collection."""
    for generation in store.list_generations(collection)[1:]:
        points = [
            point
            for point in store.scroll(generation.collection, ids=ids)
            if _is_gone(point.payload.path, excluded)
        ]
        store.delete_unchanged(generation.collection, points)


def _id_of(path: str, roots: Roots) -> str | None:
    try:
        return locate_file(path, roots).id
    except ImageUnreadable:
        return None
