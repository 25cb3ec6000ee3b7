"""The command models."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.logs import printable

_MB = 1_000_000


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=parse_path,
            metavar="[FOLDER]...",
            help="Folders that hold bundles.",
            show_default="./models and models in WARMCLIP_HOME",
        ),
    ] = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the exported models, and how close each is to open_clip."""
    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(env_file=env_file)
        from warmclip.inference.model_card import ModelCard, find_bundles

        searched = folders or settings.model_folders
        cards = [ModelCard.read(folder) for folder in find_bundles(searched)]
        in_use = settings.bundle.absolute()
        rows = [
            {"in_use": Path(card.folder).absolute() == in_use, **asdict(card)} for card in cards
        ]
        if as_json:
            terminal.json({"models": rows})
        else:
            _show(terminal, rows, searched)


def _show(terminal: Terminal, rows: list[dict[str, object]], searched: list[Path]) -> None:
    if not rows:
        places = " or ".join(str(folder) for folder in searched)
        terminal.print(f"there is no model in {places}; `warmclip-export model` makes one")
        return
    for row in rows:
        mark = "*" if row["in_use"] else " "
        terminal.print(f"{mark} {printable(str(row['folder']))}")
        if row["problem"]:
            terminal.print(f"    {printable(str(row['problem']))}")
            continue
        size = f"{int(str(row['size_bytes'])) / _MB:.0f} MB"
        precisions = ", ".join(row["precisions"])  # type: ignore[arg-type]  # a tuple of texts
        terminal.print(
            f"    {printable(str(row['weights']))}; vectors of {row['dim']}, pictures of "
            f"{row['size_px']} px, texts of {row['context_length']} tokens, {row['activation']}; "
            f"{precisions}; {size}"
        )
        terminal.print(
            f"    differs from open_clip by {row['fp32_difference']:.1e} in fp32"
            f"{_of_fp16(row['fp16_cosine'])}; fingerprint {str(row['fingerprint'])[:12]}"
        )
    if any(row["in_use"] for row in rows):
        terminal.print("* is used, unless --bundle names another one")


def _of_fp16(cosine: object) -> str:
    return "" if cosine is None else f", cosine {cosine:.6f} in fp16"
