"""The command models."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.console import Terminal
from warmclip.cli.options import EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.logs import printable
from warmclip.settings import Settings, absolute_path

if TYPE_CHECKING:
    from warmclip.inference.model_card import ModelCard
    from warmclip.inference.selection.trial import Trial

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
            rows = [
                {"in_use": card.folder in in_use, **asdict(card)}
                | {"trials": [trial.to_dict() for trial in _find_trials(card, settings)]}
                for card in cards
            ]
            terminal.json({"models": rows})
        elif cards:
            for card in cards:
                _show(terminal, card, mark="*" if card.folder in in_use else " ")
                for trial in _find_trials(card, settings):
                    terminal.print(f"    {printable(_describe_trial(trial))}")
            if in_use:
                terminal.print("* is WARMCLIP_BUNDLE: the model of new collections")
        else:
            places = " or ".join(map(str, searched))
            terminal.print(f"there is no model in {places}; `warmclip-export model` makes one")


def _is_in_use(card: "ModelCard", settings: Settings) -> bool:
    return absolute_path(Path(card.folder)) == absolute_path(settings.bundle)


def _find_trials(card: "ModelCard", settings: Settings) -> "list[Trial]":
    """The trials of the model that were run on this machine; none is run."""
    if card.problem is not None:
        return []
    from warmclip.inference.bundle import ModelBundle
    from warmclip.inference.providers import PROVIDERS
    from warmclip.inference.selection.trial_store import TrialStore

    bundle = ModelBundle.open(card.folder)
    kept = TrialStore(bundle, settings.home, settings.threads)
    found = (
        kept.find_trial(provider, tower)
        for provider in PROVIDERS.values()
        for tower in bundle.manifest.graphs
    )
    return [trial for trial in found if trial is not None]


def _describe_trial(trial: "Trial") -> str:
    told = f"{trial.provider} on {trial.tower}s: "
    if not trial.passed:
        return f"{told}not used, as {trial.reason}"
    fastest = max(trial.images_per_s.values(), default=None)
    return told + ("passed" if fastest is None else f"passed, {fastest:.0f} a second")


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
    if card.coreml_whole is not None:
        pieces = "in one piece" if card.coreml_whole else "in several pieces"
        figures.append(f"CoreML takes each tower {pieces}")
    terminal.print(f"    {', '.join(figures)}; fingerprint {str(card.fingerprint)[:12]}")
