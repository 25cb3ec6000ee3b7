"""The command models."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.logs import printable
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.inference.model_card import ModelCard

_MB = 1_000_000


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=parse_path,
            metavar="[FOLDER]...",
            help="Folders that hold bundles.",
            show_default="beside WARMCLIP_BUNDLE, ./models, and models in WARMCLIP_HOME",
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

        searched = folders or settings.bundle_folders
        cards = [ModelCard.read(folder) for folder in find_bundles(searched)]
        in_use = {card.folder for card in cards if _is_in_use(card, settings)}
        if as_json:
            rows = [{"in_use": card.folder in in_use, **asdict(card)} for card in cards]
            terminal.json({"models": rows})
        elif cards:
            for card in cards:
                _show(terminal, card, mark="*" if card.folder in in_use else " ")
            if in_use:
                terminal.print("* is WARMCLIP_BUNDLE: the model of new collections")
        else:
            places = " or ".join(map(str, searched))
            terminal.print(f"there is no model in {places}; `warmclip-export model` makes one")


def _is_in_use(card: "ModelCard", settings: Settings) -> bool:
    return Path(card.folder).absolute() == settings.bundle.absolute()


def _show(terminal: Terminal, card: "ModelCard", *, mark: str) -> None:
    terminal.print(f"{mark} {printable(card.folder)}")
    if card.problem is not None:
        terminal.print(f"    {printable(card.problem)}")
        return
    terminal.print(
        f"    {printable(str(card.weights))}; vectors of {card.dim}, pictures of {card.size_px} "
        f"px, texts of {card.context_length} tokens, {card.activation}; "
        f"{', '.join(card.precisions)}; {(card.size_bytes or 0) / _MB:.0f} MB"
    )
    figures = []
    if card.fp32_difference is not None:
        figures.append(f"differs from open_clip by {card.fp32_difference:.1e} in fp32")
    if card.fp16_cosine is not None:
        figures.append(f"cosine {card.fp16_cosine:.6f} in fp16")
    terminal.print(f"    {', '.join(figures)}; fingerprint {str(card.fingerprint)[:12]}")
