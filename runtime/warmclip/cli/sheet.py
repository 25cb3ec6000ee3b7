"""The option --sheet of several commands: a contact sheet in a PNG file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.paths import parse_path
from warmclip.errors import SettingsError
from warmclip.settings import Settings

Sheet = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        parser=parse_path,
        metavar="PATH",
        help="Also draw what was found into this PNG file.",
    ),
]

if TYPE_CHECKING:
    from warmclip.indexing.contact_sheet import SheetSection


def check_sheet(file: Path | None) -> None:
    """Refuse a name that is no PNG's, before any work is done for it.

    Raises:
        SettingsError: the name ends with something else.
    """
    if file is not None and file.suffix.lower() != ".png":
        raise SettingsError(f"--sheet {file}: the sheet is a PNG file, so its name must end so")


def save_sheet(
    terminal: Terminal,
    file: Path,
    settings: Settings,
    sections: "list[SheetSection]",
    *,
    columns: int,
) -> None:
    """Draw a contact sheet into a file, and say where that is.

    Raises:
        SettingsError: the file cannot be written.
    """
    from warmclip.indexing.contact_sheet import draw_contact_sheet

    sheet = draw_contact_sheet(
        sections, columns=columns, roots=settings.roots, limits=settings.limits
    )
    try:
        sheet.save(file, "PNG")
    except OSError as exc:
        raise SettingsError(f"cannot write --sheet {file}: {exc.strerror}") from exc
    terminal.note(f"the sheet is {file.absolute()}")
