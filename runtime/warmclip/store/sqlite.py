"""How Qdrant's embedded mode writes its files."""

import sqlite3
from typing import Any

from qdrant_client import QdrantClient


def write_ahead(client: QdrantClient, collection: str) -> None:
    """Let the commits of a collection not wait for the disk.

    The embedded mode commits once a point, which is 16 to 18 ms of waiting each. With a log that
    is written ahead, a process that is killed loses nothing; a machine that loses its power may
    lose the last points, never the store, and the next run embeds them again.

    Args:
        client: of an embedded store that this process owns: nobody else reads the log.
        collection: one that is there.
    """
    for step in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
        _connection(client, collection).execute(f"PRAGMA {step}")


def _connection(client: QdrantClient, collection: str) -> sqlite3.Connection:
    # No public name leads there: tests/contract/test_vector_store.py sees if it moves.
    embedded: Any = client._client
    connection: sqlite3.Connection = embedded.collections[collection].storage.storage
    return connection
