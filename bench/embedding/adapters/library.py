"""A library of pictures that is searched by vectors: the three ways to keep one on a machine.

No model takes part, but for `warmclip search` as a whole. What a way needs is imported when its
library is opened, as a program would have to.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench.embedding.adapters.adapter import HITS, Array
from bench.embedding.fixtures import Fixtures, collection
from warmclip.store.folder_keys import keys_above

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from warmclip.store.qdrant import QdrantStore

_DIM = 512
_BATCH = 256
_IN_A_FOLDER = 1_000
_SPACE = "library"  # instead of a model's fingerprint
_DEMO = Path(__file__).parents[3] / "models" / "demo" / "bundle"


class Library(Protocol):
    """One way to keep vectors and paths, and to search them exactly."""

    def describe(self) -> dict[str, Any]:
        """Nothing: its versions are the run's."""
        ...

    def fill(self, count: int) -> None:
        """Make a library of so many points, and close it."""
        ...

    def prepare_command(self, count: int) -> None:
        """Make what ``time_command`` searches; no clock runs."""
        ...

    def open(self) -> None:
        """Open the library that was filled, so that a search can begin."""
        ...

    def search(self, vector: Array, folder: str | None = None) -> list[str]:
        """The paths of the nearest pictures, of all or below a folder."""
        ...

    def time_command(self) -> float | None:
        """Seconds of one search as a command, from exec to exit; None: there is none."""
        ...


def question(number: int) -> Array:
    """A unit vector to search by, which no picture has, (512,)."""
    row = np.random.default_rng(1_000_000 + number).standard_normal(_DIM).astype(np.float32)
    unit: Array = row / np.linalg.norm(row)
    return unit


FOLDER = "/photographs/000"
"""Of a thousand pictures."""


def _path(number: int) -> str:
    return f"/photographs/{number // _IN_A_FOLDER:03}/{number:06}.jpg"


def _batches(count: int, dim: int = _DIM) -> Iterator[tuple[range, Array]]:
    """The numbers and the vectors of some pictures, until all have come."""
    rows = collection(count, dim)
    for start in range(0, count, _BATCH):
        yield range(start, min(start + _BATCH, count)), rows[start : start + _BATCH]


class _WithoutCommand:
    def describe(self) -> dict[str, Any]:
        """See ``Library``."""
        return {}

    def prepare_command(self, count: int) -> None:
        """See ``Library``."""

    def time_command(self) -> float | None:
        """See ``Library``."""
        return None


class EmbeddedStore(_WithoutCommand):
    """warmclip's embedded store."""

    def __init__(self, fixtures: Fixtures) -> None:
        self._home = fixtures.folder / "library-warmclip"
        self._command_home = fixtures.folder / "library-command"
        self._store: QdrantStore | None = None

    def fill(self, count: int) -> None:
        """See ``Library``; with the payload of a picture, and compacted as `index` ends."""
        self._fill(self._home, count, "bench", _SPACE, _DIM)

    def prepare_command(self, count: int) -> None:
        """See ``Library``: as many points of the demo model's space."""
        from warmclip.inference.bundle import ModelBundle

        manifest = ModelBundle.open(_DEMO).manifest
        self._fill(self._command_home, count, "images", manifest.derive_fingerprint(), manifest.dim)
        self.time_command()  # which may keep a prepared model for the next one

    def open(self) -> None:
        """See ``Library``; a collection's files are opened when it is first asked for."""
        self._store = self._open(self._home)
        self._store.count_points("bench")

    def search(self, vector: Array, folder: str | None = None) -> list[str]:
        """See ``Library``."""
        from warmclip.store.filter import Filter
        from warmclip.store.protocol import Space

        assert self._store is not None  # noqa: S101 - it was opened
        space = Space(fingerprint=_SPACE, dim=_DIM)
        hits = self._store.search("bench", space, vector, HITS, Filter(folder=folder))
        return [hit.payload.path for hit in hits]

    def time_command(self) -> float | None:
        """See ``Library``: `warmclip search` with the demo model."""
        variables = {"WARMCLIP_HOME": str(self._command_home), "WARMCLIP_BUNDLE": str(_DEMO)}
        installed = Path(sys.executable).with_name("warmclip")
        command = [str(installed), "search", "a", "red", "star", "--json"]
        started = time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - started
        (query,) = json.loads(done.stdout)["queries"]
        if len(query["hits"]) != HITS:
            raise RuntimeError(f"`warmclip search` found {len(query['hits'])} of {HITS} pictures")
        return seconds

    def _fill(self, home: Path, count: int, name: str, fingerprint: str, dim: int) -> None:
        from bench.embedding.adapters.points import make_point
        from warmclip.store.protocol import Space

        with self._open(home) as store:
            store.ensure_collection(name, Space(fingerprint=fingerprint, dim=dim))
            for numbers, rows in _batches(count, dim):
                points = [
                    make_point(number, row, fingerprint, _path(number))
                    for number, row in zip(numbers, rows, strict=True)
                ]
                store.upsert(name, points)
            if store.wants_compaction(name):
                store.optimize_collection(name)

    def _open(self, home: Path) -> "QdrantStore":
        from warmclip.settings import Settings
        from warmclip.store.open import open_store

        home.mkdir(mode=0o700, exist_ok=True)
        return open_store(Settings(home=home, bundle=_DEMO))


class LocalQdrant(_WithoutCommand):
    """qdrant-client's local mode."""

    def __init__(self, fixtures: Fixtures) -> None:
        self._folder = fixtures.folder / "library-local"
        self._client: QdrantClient | None = None

    def fill(self, count: int) -> None:
        """See ``Library``; with path and folders, by which warmclip's store filters as well."""
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=str(self._folder))
        client.create_collection(
            "bench", models.VectorParams(size=_DIM, distance=models.Distance.COSINE)
        )
        for numbers, rows in _batches(count):
            points = [
                models.PointStruct(
                    id=number,
                    vector=row.tolist(),
                    payload={"path": _path(number), "folders": keys_above(_path(number))},
                )
                for number, row in zip(numbers, rows, strict=True)
            ]
            client.upsert("bench", points)
        client.close()

    def open(self) -> None:
        """See ``Library``."""
        from qdrant_client import QdrantClient

        self._client = QdrantClient(path=str(self._folder))

    def search(self, vector: Array, folder: str | None = None) -> list[str]:
        """See ``Library``."""
        from qdrant_client import models

        assert self._client is not None  # noqa: S101 - it was opened
        within = models.FieldCondition(key="folders", match=models.MatchValue(value=folder or "/"))
        found = self._client.query_points(
            "bench",
            query=vector.tolist(),
            limit=HITS,
            query_filter=None if folder is None else models.Filter(must=[within]),
        )
        return [str((point.payload or {})["path"]) for point in found.points]


class SqliteNumpy(_WithoutCommand):
    """A table of paths and vectors, all of which a search reads: rclip's way to search.

    rclip sorts all scores in Python; numpy's sort, which takes less, stands for it here.
    """

    def __init__(self, fixtures: Fixtures) -> None:
        self._file = fixtures.folder / "library.sqlite"
        self._connection: sqlite3.Connection | None = None

    def fill(self, count: int) -> None:
        """See ``Library``; in one transaction."""
        connection = sqlite3.connect(self._file)
        connection.execute("CREATE TABLE images (path TEXT NOT NULL UNIQUE, vector BLOB NOT NULL)")
        for numbers, rows in _batches(count):
            connection.executemany(
                "INSERT INTO images VALUES (?, ?)",
                [(_path(number), row.tobytes()) for number, row in zip(numbers, rows, strict=True)],
            )
        connection.commit()
        connection.close()

    def open(self) -> None:
        """See ``Library``."""
        self._connection = sqlite3.connect(self._file)

    def search(self, vector: Array, folder: str | None = None) -> list[str]:
        """See ``Library``."""
        assert self._connection is not None  # noqa: S101 - it was opened
        rows = self._connection.execute(
            "SELECT path, vector FROM images WHERE path LIKE ?", (f"{folder or ''}/%",)
        ).fetchall()
        vectors = np.stack([np.frombuffer(blob, np.float32) for _, blob in rows])
        best = np.argsort(-(vectors @ vector))[:HITS]
        return [rows[place][0] for place in best]
