"""Folders as a search names them: resolved, and as they lie beside a point on a server.

A server compares a keyword as a whole, so a path's beginning is none. A point there therefore
carries every folder above its file, and a search compares one.
"""

import base64
import os
from collections.abc import Sequence

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.files import canonical_folder, is_inside
from warmclip.settings import Root

FIELD = "folders"
"""Where a payload has the keys of the folders above its file."""


def keys_above(path: str) -> list[str]:
    """The keys of all folders above a canonical path, the innermost first."""
    keys = []
    folder = os.path.dirname(path)  # noqa: PTH120 - a str as the file system spells it
    while folder not in ("", os.sep):
        keys.append(key_of(folder))
        folder = os.path.dirname(folder)  # noqa: PTH120 - as above
    return [*keys, os.sep]


def key_of(folder: str) -> str:
    """A folder's path as JSON can carry it, one for each: names need not be UTF-8."""
    name = os.fsencode(folder)
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:  # no absolute path begins like this
        return "base64:" + base64.b64encode(name).decode("ascii")


def resolve_path(path: str, roots: Sequence[Root], canonical: Sequence[Root]) -> str:
    """The real path of what lies in the roots, or of a root; what is gone keeps its name.

    Nothing is told of what lies outside, not even whether it exists.

    Args:
        path: as somebody wrote it.
        roots: that it may be spelt by; none: any folder.
        canonical: the same, from ``canonical_roots``.

    Raises:
        FolderUnreadable: it is no absolute path.
        JobRefused: it is outside the roots.
    """
    if not _is_path(path):
        raise FolderUnreadable(f"{path!r} is no absolute path")
    listed = ", ".join(str(root.folder) for root in roots)
    outside = JobRefused(f"{path!r} is outside the roots {listed} (WARMCLIP_ROOTS)")
    if canonical and not _is_in(os.path.normpath(path), (*roots, *canonical)):
        raise outside
    real = canonical_folder(path)
    if canonical and not _is_in(real, canonical):
        raise outside
    return real


def _is_path(path: object) -> bool:
    if not isinstance(path, str):
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return os.path.isabs(path) and "\0" not in path  # noqa: PTH117 - a str, as somebody wrote it


def _is_in(path: str, roots: Sequence[Root]) -> bool:
    return is_inside(path, roots) or any(path == str(root.folder) for root in roots)
