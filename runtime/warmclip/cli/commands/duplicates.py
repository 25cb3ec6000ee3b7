"""The command duplicates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from warmclip.cli.collection import CollectionArgument, choose_collection, hint_at_path
from warmclip.cli.console import MOST_LISTED, Terminal, shorten_path
from warmclip.cli.options import Collection, EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.cli.sheet import Sheet, check_sheet, save_sheet
from warmclip.errors import NotStored
from warmclip.logs import printable
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.indexing.duplicates import DuplicatesReport

_MOST_DRAWN = 50  # groups: a sheet of 17,000 px
_COLUMNS = 6


def duplicates(
    name: CollectionArgument = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=parse_path, metavar="[PATH]...", help="Only pictures at or below these."
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            help="The least cosine; 1 finds exact copies. It depends on the model: look at the "
            "sheet before you trust a lower one.",
        ),
    ] = 0.995,
    sheet: Sheet = None,
    collection: Collection = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Group stored pictures that nearly are one picture; nothing is deleted.

    Each group has its largest picture first, and those that are near to it, each by itself.
    """
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.indexing.duplicates import find_duplicates
        from warmclip.store.open import share_store

        chosen = choose_collection(name, collection)
        settings = read_settings(collection=chosen, env_file=env_file)
        check_sheet(sheet)
        with share_store(settings) as store, terminal.progress("pictures") as progress:
            try:
                report = find_duplicates(
                    store, settings.collection, paths or [], threshold=threshold, progress=progress
                )
            except NotStored as exc:
                raise NotStored(f"{exc}{hint_at_path(chosen)}") from exc
        if paths and not report.pictures:
            listed = ", ".join(map(str, paths))
            terminal.note(f"{listed}: nothing of {settings.collection!r} is stored there or below")
        if sheet is not None:
            _draw_groups(terminal, sheet, settings, report)
        show_duplicates_report(terminal, report)


def _draw_groups(
    terminal: Terminal, file: Path, settings: Settings, report: "DuplicatesReport"
) -> None:
    from warmclip.indexing.contact_sheet import SheetSection

    drawn = report.groups[:_MOST_DRAWN]
    if len(drawn) < len(report.groups):
        terminal.note(f"the sheet has the first {len(drawn)} of {len(report.groups)} groups")
    sections = [
        SheetSection(
            heading=f"{len(group.hits)} pictures; the same bytes as the first: {group.identical}",
            hits=group.hits[:_COLUMNS],
        )
        for group in drawn
    ]
    columns = max(3, *(len(each.hits) for each in sections)) if sections else 3
    save_sheet(terminal, file, settings, sections, columns=columns)


def show_duplicates_report(terminal: Terminal, report: "DuplicatesReport") -> None:
    """Write groups of pictures, each with its largest first."""
    if terminal.as_json:
        terminal.json(report.to_dict())
        return
    terminal.print(
        f"{report.pictures} pictures of {report.collection!r} compared at a cosine of "
        f"{report.threshold:g}: {len(report.groups)} groups; nothing was deleted"
    )
    for number, group in enumerate(report.groups[:MOST_LISTED], start=1):
        terminal.print(Text(f"group {number}, the largest picture first", style="bold"))
        for hit in group.hits[:MOST_LISTED]:
            it = hit.payload
            same = "same bytes" if hit is not group.hits[0] and group.is_identical(hit) else ""
            size = f"{it.width_px}x{it.height_px}, {it.size_bytes} bytes"
            path = printable(shorten_path(it.path))
            terminal.print(f"  {hit.score:.4f}  {size:28}  {same:10}  {path}")
        if len(group.hits) > MOST_LISTED:
            terminal.print(f"  ... and {len(group.hits) - MOST_LISTED} more")
    if len(report.groups) > MOST_LISTED:
        rest = len(report.groups) - MOST_LISTED
        terminal.print(f"... and {rest} more groups; --json lists them all")
