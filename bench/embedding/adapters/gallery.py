"""Large photographs behind `warmclip serve`, and the first thumbnails that its page asks for."""

import asyncio
import hashlib
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.embedding.adapters.points import COLLECTION, make_point
from bench.embedding.adapters.service import Service
from bench.embedding.fixtures import Fixtures, collection
from warmclip.indexing.thumbnail_cache import FOLDER
from warmclip.store.protocol import Space
from warmclip.store.qdrant import QdrantStore

_TILES = 24  # of the page's first answer
_AT_ONCE = 4  # that the page asks for at once
_SIDE_PX = 384


class Gallery(Service):
    """A server, its worker, and the largest of the photographs again and again."""

    def fill(self, store: QdrantStore, fingerprint: str, fixtures: Fixtures) -> None:
        """Store the photographs as an index would have."""
        largest = max(map(Path, fixtures.singles.values()), key=lambda it: it.stat().st_size)
        store.ensure_collection(COLLECTION, Space(fingerprint=fingerprint, dim=fixtures.dim))
        self._ids = []
        for number, row in enumerate(collection(_TILES, fixtures.dim)):
            file = self._home / f"{number}.jpg"
            data = largest.read_bytes() + bytes([number])  # no two are one content
            file.write_bytes(data)
            point = make_point(number, row, fingerprint, str(file.resolve()))
            status = file.stat()
            kept = replace(
                point.payload,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=status.st_size,
                mtime_ns=status.st_mtime_ns,
            )
            store.upsert(COLLECTION, [replace(point, payload=kept)])
            self._ids.append(point.id)

    def show(self) -> dict[str, Any]:
        """Seconds of the first tiles: when nothing of them was drawn, and from the disk."""
        shutil.rmtree(self._home / FOLDER, ignore_errors=True)
        return {"cold": asyncio.run(self._fetch()), "warm": asyncio.run(self._fetch())}

    async def _fetch(self) -> float:
        targets = [f"/api/v1/points/{it}/thumbnail?side_px={_SIDE_PX}" for it in self._ids]
        started = time.perf_counter()
        await self.get_all(targets, _AT_ONCE)
        return time.perf_counter() - started
