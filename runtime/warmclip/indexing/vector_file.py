"""A collection as one .npz file, which numpy reads without pickle: vectors and payloads.

The rows are written as they come from the store: to two unnamed files beside the target, as the
header of an array names its length, then to the archive, which gets its name when it is whole.
"""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from warmclip.errors import SettingsError, StoreError
from warmclip.inference.arrays import Vector
from warmclip.progress import Progress
from warmclip.store.batches import batches
from warmclip.store.folder_keys import FOLDERS_FIELD
from warmclip.store.payload import to_json
from warmclip.store.protocol import Point, VectorStore

FORMAT = 1

_BATCH = 256  # points in memory
_ID_CHARS = 36  # of a UUID


def export_collection(
    store: VectorStore,
    name: str,
    file: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a collection's vectors and payloads into a file; some hundred of them are in memory.

    The arrays, of which the n-th rows belong to one picture:

    - ``vectors``: float32, shape (points, dim), of unit length;
    - ``ids``: shape (points,), 36 ASCII bytes each;
    - ``payloads``: uint8: a JSON object in each line, as UTF-8;
    - ``about``: uint8: one JSON object with the format, the collection, its fingerprint, dim and
      points.

    Args:
        store: where the collection is.
        name: of it; vectors that ``migrate`` left are not written.
        file: ends with ".npz".
        force: replace the file if it is there.
        progress: told how far it is.

    Returns:
        How many pictures were written.

    Raises:
        SettingsError: the file cannot be written, or is there.
        NotStored: there is no such collection.
        StoreError: the store failed.
    """
    check_target(file, force=force)
    generation = store.list_generations(name)[0]
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with (
            tempfile.TemporaryFile(dir=file.parent) as rows,
            tempfile.TemporaryFile(dir=file.parent) as lines,
        ):
            ids = bytearray()
            dim = 0
            points = store.scroll(generation.collection, with_vectors=True)
            for batch in batches(points, _BATCH):
                dim = _write_batch(batch, rows, lines, ids)
                if progress is not None:
                    count = len(ids) // _ID_CHARS
                    progress(count, max(generation.points, count), "writing")
            about = {
                "format": FORMAT,
                "collection": name,
                "fingerprint": generation.fingerprint,
                "dim": dim,
                "points": len(ids) // _ID_CHARS,
                "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "warmclip": version("warmclip"),
            }
            _write_archive(partial, about, rows, lines, ids)
        _give_name(partial, file, force=force)
    except OSError as exc:
        raise SettingsError(f"cannot write {file}: {exc.strerror or exc}") from exc
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return len(ids) // _ID_CHARS


def check_target(file: Path, *, force: bool) -> None:
    """Refuse a file that may not be written, before any work is done for it.

    Raises:
        SettingsError: it is there, or has another suffix.
    """
    if file.suffix.lower() != ".npz":
        raise SettingsError(f"{file}: the file is numpy's .npz, so its name must end so")
    if file.is_dir() or (file.exists() and not force):
        raise SettingsError(f"{file} is there already: name another, or add --force")


def _write_batch(batch: list[Point], rows: IO[bytes], lines: IO[bytes], ids: bytearray) -> int:
    """Write some points; returns the length of their vectors."""
    vectors = np.stack([_vector(it) for it in batch])
    rows.write(np.ascontiguousarray(vectors, "<f4").tobytes())
    for it in batch:
        payload = to_json(it.payload)
        del payload[FOLDERS_FIELD]  # they follow from the path
        lines.write(json.dumps(payload).encode("ascii") + b"\n")
        ids += it.id.encode("ascii")
    return int(vectors.shape[1])


def _vector(point: Point) -> Vector:
    if point.vector is None:
        raise StoreError(f"the point of {point.payload.path!r} has no vector")
    return point.vector


def _write_archive(
    partial: Path, about: dict[str, Any], rows: IO[bytes], lines: IO[bytes], ids: bytearray
) -> None:
    count, dim = about["points"], about["dim"]
    told = json.dumps(about).encode("ascii")
    with partial.open("wb") as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            with _array(archive, "about", "|u1", (len(told),)) as array:
                array.write(told)
            with _array(archive, "ids", f"|S{_ID_CHARS}", (count,)) as array:
                array.write(ids)
            with _array(archive, "vectors", "<f4", (count, dim)) as array:
                _copy(rows, array)
            with _array(archive, "payloads", "|u1", (lines.tell(),)) as array:
                _copy(lines, array)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _array(
    archive: zipfile.ZipFile, name: str, kind: str, shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array of an archive, of which the header is written."""
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as array:
        np.lib.format.write_array_header_1_0(array, header)
        yield array


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    source.seek(0)
    shutil.copyfileobj(source, target, 1024 * 1024)


def _give_name(partial: Path, file: Path, *, force: bool) -> None:
    """Let a file that is whole have its name.

    Raises:
        SettingsError: another process has made a file of this name meanwhile.
    """
    if force:
        partial.replace(file)
        return
    try:
        os.link(partial, file)
    except FileExistsError:
        check_target(file, force=False)
        raise
    except OSError:  # a file system without hard links
        check_target(file, force=False)
        partial.replace(file)
