"""Compiled models on disk: CoreML's, and graphs that are prepared for a processor.

onnxruntime's CoreML provider looks only whether a folder exists: it knows neither the weights,
the batch size nor its own version, takes a half-written folder for whole, and deletes nothing.
So each combination has a folder of its own here, is built by one process at a time, counts from
its completion marker on, and is built once more if it cannot be loaded.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from warmclip.children import DOCTOR_PREFIX, TRIAL_PREFIX
from warmclip.errors import SettingsError
from warmclip.fsutil import file_lock, private_folder
from warmclip.inference.ort.checksums import ChecksumMismatch, verify_checksums, write_checksums

log = logging.getLogger(__name__)

T = TypeVar("T")

COMPLETE = ".complete"

_UNUSED_DAYS = 30
_STALE_S = 24 * 3600
_URL_SAFE = re.compile(r"[A-Za-z0-9/._~-]+")  # CoreML reads a path as a URL
_TEMPORARY = re.compile(rf"onnxruntime-[0-9A-Fa-f-]{{36}}.*|({TRIAL_PREFIX}|{DOCTOR_PREFIX}).*")


class ModelCache:
    """The compiled models of one WARMCLIP_HOME, which its processes share."""

    def __init__(self, home: Path) -> None:
        self.folder = _place(home)
        self._home = home

    def load(
        self,
        identity: Mapping[str, Any],
        load: Callable[[Path], T],
        broken: tuple[type[Exception], ...] = (RuntimeError, OSError),
        *,
        is_immutable: bool = False,
        patience_s: float | None = None,
    ) -> T:
        """Load from the folder of an identity, which ``load`` fills if it is empty.

        Args:
            identity: all that decides what is compiled, as JSON can carry it.
            load: given the folder; what it raises passes through if it raises it twice.
            broken: what it raises of an entry that is broken, and may raise of a model that cannot
                be loaded: only a build from nothing tells. Anything else passes at once.
            is_immutable: whether the files never change, so that an altered one is broken.
            patience_s: how long another process may be at the entry; None: as long as it lives.

        Raises:
            SettingsError: the folder cannot be made or written into, or is not ours alone.
            TimeoutError: another process is at it for too long.
        """
        self._require_ours()
        key = _key(identity)
        entry = self.folder / key
        failures: tuple[type[Exception], ...] = (*broken, ChecksumMismatch)
        with file_lock(self._lock(key), patience_s=patience_s):
            if not (entry / COMPLETE).exists():
                return self._build(entry, load, is_immutable=is_immutable)
            try:
                if is_immutable:
                    verify_checksums(entry, COMPLETE)
                loaded = load(entry)
            except failures as exc:
                log.warning("the compiled model in %s is broken, building it again: %s", entry, exc)
                return self._build(entry, load, is_immutable=is_immutable)
            (entry / COMPLETE).touch()
            return loaded

    def has(self, identity: Mapping[str, Any]) -> bool:
        """Whether the entry of an identity is whole."""
        return (self.folder / _key(identity) / COMPLETE).exists()

    def remove(self, identity: Mapping[str, Any]) -> None:
        """Delete the entry of an identity, unless another process is at it just now.

        Nothing is touched in a folder that others may write: whoever loads is told of it.
        """
        key = _key(identity)
        with contextlib.suppress(OSError, SettingsError):
            if (self.folder / key).exists():
                self._require_ours()
                with file_lock(self._lock(key), patience_s=0):
                    shutil.rmtree(self.folder / key, ignore_errors=True)

    @property
    def nearest_folder(self) -> Path:
        """The folder, or what is above it as long as it is not made."""
        return next(it for it in (self.folder, *self.folder.parents) if it.exists())

    def _require_ours(self) -> None:
        if self.folder.parent == self._home:
            private_folder(self._home, private=False)
        private_folder(self.folder, private=False)
        if not os.access(self.folder, os.W_OK | os.X_OK, effective_ids=True):
            raise SettingsError(
                f"{self.folder} cannot be written into; let this user write there, or name "
                "another folder with WARMCLIP_HOME"
            )

    def _build(self, entry: Path, load: Callable[[Path], T], *, is_immutable: bool) -> T:
        self._sweep(spare=entry)
        shutil.rmtree(entry, ignore_errors=True)
        entry.mkdir(mode=0o700)
        try:
            loaded = load(entry)
            if is_immutable:
                write_checksums(entry, COMPLETE)
        except BaseException:
            shutil.rmtree(entry, ignore_errors=True)
            raise
        (entry / COMPLETE).touch()
        return loaded

    def _sweep(self, *, spare: Path) -> None:
        """Remove what nobody has loaded for a month, and what killed processes left half built."""
        for entry in self.folder.iterdir():
            if entry == spare or not _is_stale(entry):
                continue
            # TimeoutError, if somebody is at it just now; two processes may sweep at once.
            with contextlib.suppress(OSError), file_lock(self._lock(entry.name), patience_s=0):
                if _is_stale(entry):
                    shutil.rmtree(entry, ignore_errors=True)

    def _lock(self, key: str) -> Path:
        return self.folder / f".{key}.lock"


def _key(identity: Mapping[str, Any]) -> str:
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def sweep_temporaries(folder: Path | None = None) -> list[Path]:
    """Remove what killed processes of ours left in the temporary folder.

    Without a cache, onnxruntime's CoreML provider writes whole models there and removes them only
    when a session ends in peace. What is younger than a day may be in use.
    """
    swept: list[Path] = []
    try:
        paths = list(Path(folder or tempfile.gettempdir()).iterdir())
    except OSError:  # there is none, or one that may be written but not listed
        return swept
    for path in paths:
        if not _TEMPORARY.fullmatch(path.name):
            continue
        try:
            status = path.lstat()
            if (
                status.st_uid == os.geteuid()
                and stat.S_ISDIR(status.st_mode)
                and time.time() - status.st_mtime > _STALE_S
            ):
                shutil.rmtree(path)
                swept.append(path)
        except OSError as exc:
            log.warning("cannot remove the stale %s: %s", path, exc)
    return swept


def _is_stale(entry: Path) -> bool:
    """Whether a folder has no marker, or one that is old."""
    if not entry.is_dir():  # a lock
        return False
    try:
        unused_s = time.time() - (entry / COMPLETE).stat().st_mtime
    except FileNotFoundError:
        return True
    return unused_s > _UNUSED_DAYS * 24 * 3600


def _place(home: Path) -> Path:
    """A folder whose path is the same as a path and as a URL."""
    places = [home / "compiled"]
    if sys.platform == "darwin":
        places.append(Path("~/Library/Caches/warmclip").expanduser())
    places += [
        Path(f"/var/tmp/warmclip-{os.geteuid()}"),  # noqa: S108 - private_folder refuses a stranger's
    ]
    return next(place for place in places if _URL_SAFE.fullmatch(str(place)))
