"""The folders above a file, as its point carries them.

Qdrant compares a keyword as a whole, so a path's beginning is none. A point therefore carries
every folder above its file, and a search by folder compares one.
"""

import base64
import os

FOLDERS_FIELD = "folders"
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
