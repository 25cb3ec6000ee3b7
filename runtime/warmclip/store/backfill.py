"""Points on a server as others wrote them, given the field that searches by folder ask for."""

import itertools
import logging
import os
from collections.abc import Callable

from qdrant_client import QdrantClient, models

from warmclip.store.calls import Calls
from warmclip.store.filters import WITHOUT_FOLDERS
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.payload import from_json
from warmclip.store.reads import CollectionReader

log = logging.getLogger(__name__)


class Backfill:
    """Completes each collection once in a process, before it is first searched by folder.

    Else a filter would pass by, in silence, what was stored before the field existed, or was
    carried over from an embedded store, which has none.
    """

    def __init__(
        self,
        client: QdrantClient,
        transport: Calls,
        records: CollectionReader,
        prepare: Callable[[str], None],
    ) -> None:
        """Nothing is looked at yet.

        Args:
            client: of the store.
            transport: how it is called.
            records: reads it.
            prepare: sees to a collection's indexes.
        """
        self._client = client
        self._transport = transport
        self._records = records
        self._prepare = prepare
        self._complete: set[str] = set()

    def ensure(self, collection: str) -> None:
        """See to it that every point has its folders; twice, or in two threads, is no error."""
        if collection in self._complete:
            return
        self._prepare(collection)
        paths = [
            (from_json(it.payload).path, str(it.id))
            for it in self._records.scroll(collection, WITHOUT_FOLDERS)
        ]
        paths.sort()
        for _, group in itertools.groupby(paths, lambda it: os.path.dirname(it[0])):  # noqa: PTH120 - a str as the file system spells it
            self._write(collection, list(group))
        if paths:
            log.info("%d points of %s can now be found by folder", len(paths), collection)
        self._complete.add(collection)

    def _write(self, collection: str, points: list[tuple[str, str]]) -> None:
        """Give the points of one folder, path and id, what they lack."""
        lacking = {FOLDERS_FIELD: keys_above(points[0][0])}
        ids = models.PointIdsList(points=[id_ for _, id_ in points])
        self._transport(lambda: self._client.set_payload(collection, lacking, ids, wait=True))
