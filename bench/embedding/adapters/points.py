"""Points to search among, as an index would have stored them."""

import uuid

from bench.embedding.adapters.adapter import Array
from bench.embedding.fixtures import collection
from warmclip.store.protocol import Payload, Point, Space
from warmclip.store.qdrant import QdrantStore

COLLECTION = "bench"


def fill(store: QdrantStore, fingerprint: str, dim: int, count: int) -> None:
    """Store so many random points."""
    store.ensure_collection(COLLECTION, Space(fingerprint=fingerprint, dim=dim))
    rows = collection(count, dim)
    store.upsert(
        COLLECTION,
        [
            make_point(number, row, fingerprint, f"/photographs/{number:06}.jpg")
            for number, row in enumerate(rows)
        ],
    )


def make_point(number: int, vector: Array, fingerprint: str, path: str) -> Point:
    """One picture as an index would have stored it."""
    return Point(
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
        vector=vector,
        payload=Payload(
            path=path,
            sha256=f"{number:064x}",
            size_bytes=1,
            mtime_ns=0,
            width_px=640,
            height_px=480,
            fingerprint=fingerprint,
            provider="cpu",
            versions={},
            indexed_at="2026-01-01T00:00:00+00:00",
        ),
    )
