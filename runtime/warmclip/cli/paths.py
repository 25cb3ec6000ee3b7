"""Paths on the command line: an empty one is refused, as it would mean the current folder."""

from pathlib import Path

import typer

from warmclip.settings import absolute_path


def parse_path(text: str) -> Path:
    """A path as it was written, for ``parser`` of an argument or option.

    Raises:
        BadParameter: it is empty, as when a shell's variable is not set, or begins in a folder
            that is gone.
    """
    if not text:
        raise typer.BadParameter(
            "an empty path; is a variable not set? The current folder is written '.'"
        )
    path = Path(text)
    if not absolute_path(path).is_absolute():
        raise typer.BadParameter("the current folder was deleted: go to one that is there")
    return path
