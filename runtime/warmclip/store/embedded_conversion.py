"""A store of the former format, qdrant-client's local mode, made one of the present format once.

The former files stay until the new ones are whole: a conversion that was killed, or met a full
disk, begins again. The former format keeps a pickled point in each row of a SQLite file. Only the
class of points is unpickled, and as a stand-in of our own: nothing in the file can run code.
"""

import io
import json
import logging
import pickle
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from warmclip.errors import StoreDamaged
from warmclip.progress import Progress
from warmclip.store.batches import batches
from warmclip.store.embedded_catalog import Catalog, is_of_former_format
from warmclip.store.embedded_shard import Shard
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.payload import path_of

log = logging.getLogger(__name__)

_PARTIAL = ".converting"  # the folder that becomes the new store
_BATCH = 128
_STAGE = "converting the store"


def convert_local_store(folder: Path, progress: Progress | None = None) -> None:
    """Convert the store in a folder, if it is of the former format.

    Args:
        folder: whose lock this process holds.
        progress: told how many points are converted, of how many.

    Raises:
        StoreDamaged: the former files cannot be read; they are left as they are.
        StoreError: the disk is full; the former files are left as they are.
        OSError: likewise.
    """
    if not is_of_former_format(folder):
        return
    # Shards without store.json, and without a conversion that was killed: somebody deleted it.
    if (folder / _PARTIAL).exists() or not (folder / "shards").exists():
        meta = _read_meta(folder / "meta.json")
        log.warning("the embedded store %s is converted to the engine's format, once", folder)
        _convert(folder, meta, progress or (lambda _done, _total, _stage: None))


def remove_former_files(folder: Path, catalog: Catalog) -> None:
    """Remove the files of the former format once the store is converted."""
    shutil.rmtree(folder / "collection", ignore_errors=True)
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    for file in (".lock", "meta.json"):
        (folder / file).unlink(missing_ok=True)
    catalog.has_former_files = False
    catalog.write()


def _convert(folder: Path, meta: dict[str, Any], progress: Progress) -> None:
    partial = folder / _PARTIAL
    # Of a conversion that was killed between its two renames: in this order, see above.
    shutil.rmtree(folder / "shards", ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    catalog = Catalog(partial)
    files = {name: _LocalCollection(folder, name) for name in meta["collections"]}
    total = sum(len(file) for file in files.values())
    done = 0
    for name, file in files.items():
        shard = Shard.create(catalog.begin(name), meta["collections"][name]["vectors"]["size"])
        try:
            for points in batches(file.points(), _BATCH):
                shard.update(edge.UpdateOperation.upsert_points(points), points=len(points))
                done += len(points)
                progress(done, total, _STAGE)
        finally:
            shard.close()
        catalog.adopt(name)
    catalog.aliases = dict(meta["aliases"])
    catalog.has_former_files = True
    catalog.write()
    (partial / "shards").rename(folder / "shards")
    (partial / "store.json").rename(folder / "store.json")  # from here on it is the store
    log.warning("%d pictures in %d collections were converted", done, len(files))


def _read_meta(file: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads(file.read_text("utf-8"))
        for collection in meta["collections"].values():
            int(collection["vectors"]["size"])
        dict(meta["aliases"])
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _torn(file) from exc
    return meta


class _LocalCollection:
    """One collection of the former format."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / "collection" / name / "storage.sqlite"

    def __len__(self) -> int:
        for (count,) in self._select("SELECT count(*) FROM points"):
            return int(count)
        return 0

    def points(self) -> Iterator[edge.Point]:
        """Its points; of several rows with one id, the last is the latest."""
        for (pickled,) in self._select("SELECT point FROM points ORDER BY rowid"):
            try:
                found = _PointUnpickler(io.BytesIO(pickled)).load()
                payload = dict(found.payload or {})
                if "path" in payload:
                    payload[FOLDERS_FIELD] = keys_above(path_of(payload))
                point = edge.Point(found.id, list(found.vector), payload)
            except (
                pickle.UnpicklingError,
                ArithmeticError,
                AttributeError,
                EOFError,
                LookupError,
                TypeError,
                ValueError,
            ) as exc:  # what torn bytes make pickle raise
                raise _torn(self._file) from exc
            yield point

    def _select(self, query: str) -> Iterator[tuple[Any, ...]]:
        if not self._file.exists():
            raise _torn(self._file)
        try:
            with closing(sqlite3.connect(self._file)) as connection:
                yield from connection.execute(query)
        except sqlite3.Error as exc:
            raise _torn(self._file) from exc


class _LocalPoint:
    """Stands for qdrant-client's PointStruct, as pickle restores it."""

    id: Any
    vector: Any
    payload: Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["__dict__"])


class _PointUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("qdrant_client.") and name == "PointStruct":
            return _LocalPoint
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a stored point")


def _torn(file: Path) -> StoreDamaged:
    return StoreDamaged(
        f"{file} of the embedded store's former format is damaged, so the store cannot be "
        "converted; nothing was changed. To begin a new store, move the folder "
        f"{file.parent if file.name == 'meta.json' else file.parent.parent.parent} away, and run "
        "`warmclip index` again"
    )
