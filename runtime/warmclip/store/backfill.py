"""Points as others wrote them, given the field that searches by folder ask for."""

import itertools
import logging
import os
from collections.abc import Sequence

from warmclip.store.engine import Engine
from warmclip.store.filters import WITHOUT_FOLDERS
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.payload import is_ours, path_of

log = logging.getLogger(__name__)


def complete_folders(engine: Engine, collection: str) -> None:
    """Give every point of a collection its folders.

    Else a filter would pass by, in silence, what was stored before the field existed, or was
    carried over from an embedded store of an older version. A collection whose points have them
    costs one request. Twice, or in two processes at once, is no error.

    Args:
        engine: of the store.
        collection: its own name.
    """
    paths = sorted(
        (path_of(it.payload), it.id)
        for it in engine.scroll(collection, WITHOUT_FOLDERS)
        if is_ours(it.payload)
    )
    for _, group in itertools.groupby(paths, lambda it: os.path.dirname(it[0])):  # noqa: PTH120 - a str as the file system spells it
        points: Sequence[tuple[str, str]] = list(group)
        fields = {FOLDERS_FIELD: keys_above(points[0][0])}
        engine.set_payload(collection, fields, [id_ for _, id_ in points])
    if paths:
        log.info("%d points of %s can now be found by folder", len(paths), collection)
