"""The folder of an embedded store: its collections, and the aliases that lead to them.

    <folder>/.owner                the lock
    <folder>/store.json            format, version of the engine, aliases; replaced as a whole
    <folder>/shards/<collection>/  the engine's files of one collection
    <folder>/shards/.former-<..>/  while a compacted copy takes a collection's place: two renames
    <folder>/damaged/              collections that were set aside

A collection is there as soon as its folder has its name, and gone as soon as it has lost it: both
are one rename. A killed compaction is completed or undone when the store is opened next. Other
work that was not finished has a name of ``UNFINISHED``, and is removed.
"""

import json
import logging
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from warmclip.errors import StoreDamaged, StoreError
from warmclip.fsutil import replace_file, write_out
from warmclip.store.embedded_layout import is_compacted

log = logging.getLogger(__name__)

FORMAT = 2  # 1 was qdrant-client's local mode

UNFINISHED = (
    ".new-",  # a collection that is being made
    ".gone-",  # one that is being deleted
    ".indexes-",  # damaged payload indexes, while new ones are made
    ".copy-",  # of a collection, which is being compacted
)
"""What the names of folders begin with that nobody needs after a crash."""

_FORMER = ".former-"  # of a collection whose copy is about to take its place

_ENGINE = "qdrant-edge-py"


class Catalog:
    """What an embedded store has. It is changed by one thread; any may read its aliases."""

    def __init__(self, folder: Path) -> None:
        """Read what is there, or begin an empty store, and remove what was left unfinished.

        Args:
            folder: whose lock this process holds.

        Raises:
            StoreDamaged: ``store.json`` cannot be read.
            StoreError: the store is of a newer format.
            OSError: the folder cannot be used.
        """
        self.folder = folder
        self._file = folder / "store.json"
        self._shards = folder / "shards"
        self.aliases: dict[str, str] = {}
        self.has_former_files = False  # of a converted store, which are still to be removed
        self._engine = ""  # the version that wrote the store
        if self._file.exists():
            self._read()
        else:
            self.write()
        self._shards.mkdir(mode=0o700, exist_ok=True)
        for leftover in list(self._shards.iterdir()):
            if leftover.name.startswith(_FORMER):
                self._settle(leftover)
        for leftover in list(self._shards.iterdir()):
            if leftover.name.startswith(UNFINISHED):
                _remove(leftover)

    def list_collections(self) -> list[str]:
        """The collections' own names, sorted."""
        return sorted(it.name for it in self._shards.iterdir() if it.name[0] != "." and it.is_dir())

    def set_alias(self, name: str, collection: str) -> None:
        """Let an alias lead to a collection."""
        self.aliases = self.aliases | {name: collection}
        self.write()

    def delete_alias(self, name: str) -> None:
        """Take an alias away; one that is not there is no error."""
        if name in self.aliases:
            self.aliases = {it: to for it, to in self.aliases.items() if it != name}
            self.write()

    def path(self, collection: str) -> Path:
        """The folder of a collection."""
        return self._shards / collection

    def is_link(self, collection: str) -> bool:
        """Whether a collection's files were moved elsewhere, and its folder is a link to them."""
        return self.path(collection).is_symlink()

    def begin(self, collection: str) -> Path:
        """Where the files of a collection are made that is not there yet."""
        path = self._shards / f".new-{collection}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def adopt(self, collection: str) -> None:
        """Let a collection be there, whose files were made where ``begin`` says."""
        (self._shards / f".new-{collection}").rename(self.path(collection))

    def name_copy(self, collection: str) -> Path:
        """Where a copy of a collection is made, which nobody else writes to even after a kill."""
        return self._shards / f".copy-{collection}.{time.time_ns()}"

    def replace(self, collection: str, copy: Path) -> Path:
        """Let the files of a copy be the collection's. A kill leaves the ones or the others.

        Returns:
            Where the former files are, to be deleted.
        """
        former = self._shards / f"{_FORMER}{collection}"
        self.path(collection).rename(former)
        try:
            copy.rename(self.path(collection))
        except OSError:
            former.rename(self.path(collection))
            raise
        write_out(self._shards)  # before the former files go
        return self._let_go(former, collection)

    def _settle(self, former: Path) -> None:
        """Remove the former files of a collection, or let them be its files if it has none."""
        collection = former.name.removeprefix(_FORMER)
        path = self.path(collection)
        if not path.exists():
            former.rename(path)
        elif is_compacted(path):
            _remove(self._let_go(former, collection))
        else:  # not the copy: a version that knows of none has begun the collection anew
            place = self._set_aside(former, collection)
            log.warning("%s was begun anew after a crash; its former pictures: %s", path, place)

    def remove(self, collection: str) -> None:
        """Delete a collection's files."""
        _remove(self._let_go(self.path(collection), collection))

    def _let_go(self, path: Path, collection: str) -> Path:
        # By a rename: half of them must never be taken for the collection's.
        return path.rename(self._shards / f".gone-{collection}.{time.time_ns()}")

    def set_aside(self, collection: str) -> Path:
        """Move a damaged collection's files out of the way; returns where they are now."""
        return self._set_aside(self.path(collection), collection)

    def _set_aside(self, path: Path, collection: str) -> Path:
        place = self.folder / "damaged"
        place.mkdir(mode=0o700, exist_ok=True)
        return path.rename(place / f"{collection}.{time.time_ns()}")

    def newer_engine(self) -> str:
        """What to add to an error if a newer engine than this one wrote the store."""
        ours = version(_ENGINE)
        if _numbers(self._engine) <= _numbers(ours):
            return ""
        return f"; {_ENGINE} {self._engine} wrote it, and {ours} is installed: update it"

    def write(self) -> None:
        """Replace ``store.json``."""
        told: dict[str, Any] = {
            "format": FORMAT,
            "engine": version(_ENGINE),
            "aliases": self.aliases,
        }
        if self.has_former_files:
            told["has_former_files"] = True
        replace_file(self._file, json.dumps(told, indent=1) + "\n")

    def _read(self) -> None:
        try:
            told = json.loads(self._file.read_text("utf-8"))
            format_, self._engine, aliases = told["format"], told["engine"], told["aliases"]
            self.aliases = {str(name): str(collection) for name, collection in aliases.items()}
            self.has_former_files = bool(told.get("has_former_files"))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise StoreDamaged(
                f"{self._file} is damaged: the names of the collections in {self._shards} are "
                "lost, their pictures are not. Delete the file, and run `warmclip index` for each "
                "collection with its model: it finds its pictures there"
            ) from exc
        if format_ != FORMAT:
            raise StoreError(
                f"the embedded store {self.folder} has format {format_}, and this warmclip knows "
                f"format {FORMAT}: update warmclip. Nothing was changed"
            )


def is_of_former_format(folder: Path) -> bool:
    """Whether a folder has a store of qdrant-client's local mode, and none of ours."""
    return not (folder / "store.json").exists() and (folder / "meta.json").exists()


def _remove(path: Path) -> None:
    """Delete what is of no use any more; what stays is tried again at the next opening."""
    if path.is_symlink():
        path.unlink()
    else:
        # A compactor whose owner was killed may still write there.
        shutil.rmtree(path, ignore_errors=True)


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".") if part.isdigit()]
