"""Which folders a session may name."""

import os
from collections.abc import Sequence

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.files import is_inside
from warmclip.settings import Root, Settings


def find_folder(path: str, settings: Settings, roots: Sequence[Root]) -> str:
    """The real path of a folder that lies in the roots, or is one.

    Nothing is told of what lies outside, not even whether it exists.

    Args:
        path: as somebody wrote it.
        settings: whose roots it may be spelt by.
        roots: from ``canonical_roots``.

    Raises:
        JobRefused: it is outside the roots, or there are none.
        FolderUnreadable: it is no absolute path, or no folder.
    """
    if not roots:
        raise JobRefused(
            "no folder may be named, as there are no roots: start `warmclip serve` with "
            "WARMCLIP_ROOTS set to the folders that hold pictures"
        )
    if not os.path.isabs(path) or "\0" in path:  # noqa: PTH117 - a str, as somebody wrote it
        raise FolderUnreadable(f"{path!r} is no absolute path")
    listed = ", ".join(str(root.folder) for root in settings.roots)
    outside = JobRefused(f"{path!r} is outside the roots {listed} (WARMCLIP_ROOTS)")
    if not _is_in(os.path.normpath(path), (*settings.roots, *roots)):
        raise outside
    real = os.path.realpath(path)
    if not _is_in(real, roots):
        raise outside
    if not os.path.isdir(real):  # noqa: PTH112 - Path.is_dir raises inside a closed folder
        raise FolderUnreadable(f"{path!r} is no folder")
    return real


def _is_in(path: str, roots: Sequence[Root]) -> bool:
    return is_inside(path, roots) or any(path == str(root.folder) for root in roots)
