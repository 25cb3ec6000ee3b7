"""The argument COLLECTION of several commands, beside the option --collection."""

import os
from pathlib import Path
from typing import Annotated

import typer

from warmclip.errors import SettingsError
from warmclip.settings import check_collection

CollectionArgument = Annotated[
    str | None, typer.Argument(metavar="[COLLECTION]", help="The collection to look at.")
]


NameArgument = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")]


def choose_collection(argument: str | None, option: str | None) -> str | None:
    """The collection that the command line names, by position or with --collection.

    Raises:
        SettingsError: it names two, or what is no collection's name.
    """
    if argument is not None and option is not None and argument != option:
        raise SettingsError(f"two collections: {argument!r}, and --collection {option!r}")
    name = option if argument is None else argument
    if name is None:
        return None
    try:
        return check_collection(name)
    except SettingsError as exc:
        raise SettingsError(f"{exc}{hint_at_path(name)}") from exc


def hint_at_path(name: str | None) -> str:
    """What to add to an error about a collection whose name may have been meant as a path."""
    if name is None or not (os.sep in name or Path(name).exists()):
        return ""
    return (
        f". {name!r} looks like a path; the collection's name comes first: "
        "`warmclip audit COLLECTION PATH...`, and so for `duplicates`"
    )
