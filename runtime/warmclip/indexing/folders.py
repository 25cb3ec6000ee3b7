"""Folders that a request may name: resolved, and inside the roots."""

import os
from collections.abc import Sequence

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.files import canonical_folder, is_inside
from warmclip.settings import Root, Settings


def find_folder(path: str, settings: Settings, roots: Sequence[Root]) -> str:
    """The real path of a folder that lies in the roots, or is one.

    Args:
        path: as somebody wrote it.
        settings: whose roots it may be spelt by.
        roots: from ``canonical_roots``.

    Raises:
        JobRefused: it is outside the roots, or there are none.
        FolderUnreadable: it is no absolute path, or no folder.
    """
    real = find_place(path, settings, roots)
    if not os.path.isdir(real):  # noqa: PTH112 - Path.is_dir raises inside a closed folder
        raise FolderUnreadable(f"{path!r} is no folder")
    return real


def find_place(path: str, settings: Settings, roots: Sequence[Root]) -> str:
    """The real path of whatever lies in the roots, or would.

    Raises:
        JobRefused: it is outside the roots, or there are none.
        FolderUnreadable: it is no absolute path.
    """
    if not roots:
        raise JobRefused(
            "nothing may be named, as there are no roots: start `warmclip serve` with "
            "WARMCLIP_ROOTS set to the folders that hold pictures"
        )
    return resolve_path(path, settings.roots, roots)


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
