"""What may be named over HTTP."""

import os
from collections.abc import Sequence

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.folders import resolve_path
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
