"""Which points stand for no file any more, and when so many of them are not believed."""

from collections.abc import Sequence
from pathlib import Path

from warmclip.errors import PruneRefused
from warmclip.indexing.files import Walk, canonical_folder, is_gone, point_id
from warmclip.indexing.store import Point
from warmclip.settings import Root

MOST_LOST = 0.2  # of a collection; more looks like an unmounted disk


def is_orphan(point: Point, roots: Sequence[Root]) -> bool:
    """Whether a point's file is gone, or has another id since the roots were named otherwise.

    Args:
        point: of any collection.
        roots: from ``canonical_roots``.
    """
    path = point.payload.path
    return is_gone(path) or point.id != point_id(path, roots)


def prunable(path: str) -> str:
    """The real path of a folder that may be compared with a collection.

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
    return canonical_folder(path)


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
