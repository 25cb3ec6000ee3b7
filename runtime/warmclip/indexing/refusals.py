"""Files whose content was refused, remembered until they change, so that each is read once.

They are kept in a file of WARMCLIP_HOME and not in the store: whether a file can be decoded depends
on this host's libraries and limits, and a Qdrant server is shared by hosts that differ in both.
"""

import importlib.metadata
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from warmclip.errors import SettingsError
from warmclip.fsutil import prefix_below, private_folder
from warmclip.indexing.files import Location
from warmclip.inference.heif import heif_version
from warmclip.settings import Limits

log = logging.getLogger(__name__)

T = TypeVar("T")

FILE = "refusals.sqlite"
"""In WARMCLIP_HOME."""

_FORMAT = 1
_BUSY_S = 10.0  # while another process writes
_MOST_VARIABLES = 500  # of one statement, of 999 in old versions of SQLite

_SCHEMA = """
CREATE TABLE IF NOT EXISTS refusals (
    path BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    reader TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (path, fingerprint)
) WITHOUT ROWID
"""


class Refusals:
    """The refusals of one host and one embedding space, which processes share.

    It is a cache: one that cannot be read or written is reported in the log and does no harm.
    """

    def __init__(self, home: Path, *, fingerprint: str, limits: Limits) -> None:
        """Nothing is opened yet.

        Args:
            home: where the file is.
            fingerprint: of the embedding space.
            limits: what is accepted; with others, or other libraries, files are read again.
        """
        self._file = home / FILE
        self._fingerprint = fingerprint
        self._reader = " ".join(
            (
                importlib.metadata.version("warmclip"),
                importlib.metadata.version("pillow"),
                heif_version() or "-",
                *(str(it) for it in (limits.image_pixels, limits.image_bytes)),
                str(limits.resized_side_px),
            )
        )

    def find(self, locations: Sequence[Location]) -> dict[str, str]:
        """Which of these files were refused as they are now: real path -> reason."""
        by_path = {os.fsencode(it.path): it for it in locations}

        def read(connection: sqlite3.Connection) -> dict[str, str]:
            found = {}
            for path, size_bytes, mtime_ns, reason in _select(
                connection, list(by_path), self._fingerprint, self._reader
            ):
                location = by_path[path]
                if (size_bytes, mtime_ns) == (location.size_bytes, location.mtime_ns):
                    found[location.path] = reason
            return found

        return self._transact(read) or {} if self._is_there() else {}

    def add(self, refused: Mapping[Location, str]) -> None:
        """Remember files, and why each was refused."""
        rows = [
            (
                os.fsencode(it.path),
                self._fingerprint,
                self._reader,
                it.size_bytes,
                it.mtime_ns,
                reason,
            )
            for it, reason in refused.items()
        ]
        if rows:
            self._transact(
                lambda connection: connection.executemany(
                    "INSERT OR REPLACE INTO refusals VALUES (?, ?, ?, ?, ?, ?)", rows
                )
            )

    def forget(self, locations: Iterable[Location]) -> None:
        """Remember these files no more."""
        rows = [(os.fsencode(it.path), self._fingerprint) for it in locations]
        if rows and self._is_there():
            self._transact(
                lambda connection: connection.executemany(
                    "DELETE FROM refusals WHERE path = ? AND fingerprint = ?", rows
                )
            )

    def _is_there(self) -> bool:
        return self._file.exists()

    def _transact(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        return _transact(self._file, call)


def forget_below(home: Path, paths: Iterable[str]) -> int:
    """Remember nothing at or below these paths any more, of any embedding space.

    Args:
        home: where the file is.
        paths: absolute, as files are stored.

    Returns:
        How many refusals were forgotten.
    """
    file = home / FILE
    rows = []
    for path in paths:
        below = os.fsencode(prefix_below(path))
        rows.append((os.fsencode(path), below, below[:-1] + bytes([ord(os.sep) + 1])))

    def delete(connection: sqlite3.Connection) -> int:
        return connection.executemany(
            "DELETE FROM refusals WHERE path = ? OR (path >= ? AND path < ?)", rows
        ).rowcount

    return _transact(file, delete) or 0 if rows and file.exists() else 0


def _transact(file: Path, call: Callable[[sqlite3.Connection], T]) -> T | None:
    """Return what the call returns in one transaction, or None if that cannot be."""
    try:
        private_folder(file.parent, private=False)
        with closing(sqlite3.connect(file, timeout=_BUSY_S)) as connection, connection:
            _prepare(connection)
            return call(connection)
    except (OSError, SettingsError, sqlite3.OperationalError) as exc:
        log.warning("refused files are not remembered in %s: %s", file, exc)
    except sqlite3.DatabaseError as exc:
        log.warning("%s is damaged (%s) and is made anew", file, exc)
        file.unlink(missing_ok=True)
    return None


def _prepare(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _FORMAT):
        raise OSError(f"it is of format {version}, which a newer warmclip wrote")
    connection.execute(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {_FORMAT}")


def _select(
    connection: sqlite3.Connection, paths: Sequence[bytes], fingerprint: str, reader: str
) -> Iterator[tuple[bytes, int, int, str]]:
    for start in range(0, len(paths), _MOST_VARIABLES):
        some = paths[start : start + _MOST_VARIABLES]
        marks = ", ".join("?" * len(some))
        yield from connection.execute(
            "SELECT path, size_bytes, mtime_ns, reason FROM refusals "  # noqa: S608 - marks only
            f"WHERE fingerprint = ? AND reader = ? AND path IN ({marks})",
            (fingerprint, reader, *some),
        )
