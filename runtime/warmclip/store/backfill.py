"""Points on a server as others wrote them, given the field that searches by folder ask for."""

import itertools
import logging
import os
from collections.abc import Callable, Sequence

from warmclip.store.engine import Engine
from warmclip.store.filters import WITHOUT_FOLDERS
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.payload import from_json

log = logging.getLogger(__name__)


def complete_folders(
    engine: Engine, collection: str, set_payload: Callable[[dict[str, list[str]], list[str]], None]
) -> None:
    """Give every point of a collection its folders.

    Else a filter would pass by, in silence, what was stored before the field existed, or was
    carried over from an embedded store of an older version. A collection whose points have them
    costs one request. Twice, or in two processes at once, is no error.

    Args:
        engine: of the store.
        collection: its own name.
        set_payload: writes some fields into the points with these ids.
    """
    paths = sorted(
        (from_json(it.payload).path, it.id) for it in engine.scroll(collection, WITHOUT_FOLDERS)
    )
    for _, group in itertools.groupby(paths, lambda it: os.path.dirname(it[0])):  # noqa: PTH120 - a str as the file system spells it
        points: Sequence[tuple[str, str]] = list(group)
        set_payload({FOLDERS_FIELD: keys_above(points[0][0])}, [id_ for _, id_ in points])
    if paths:
        log.info("%d points of %s can now be found by folder", len(paths), collection)
