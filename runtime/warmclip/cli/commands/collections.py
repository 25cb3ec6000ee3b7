"""The commands below ``warmclip collections``: what is stored, and how a damaged one is mended."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from warmclip.cli.collection import CollectionArgument, choose_collection
from warmclip.cli.console import Terminal
from warmclip.cli.options import Bundle, EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.errors import BundleError
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.store.protocol import Space

app = typer.Typer(
    name="collections",
    help="List collections, mend a damaged one, build an index.",
    no_args_is_help=True,
)


@app.command("list")
def list_collections(
    env_file: EnvFile = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """List the collections, and the models whose vectors they hold."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.store.open import read_store

        settings = read_settings(env_file=env_file)
        with read_store(settings) as store:
            rows = [
                {"name": name, **asdict(generation)}
                for name in store.list_names()
                for generation in store.list_generations(name)
            ]
        if as_json:
            terminal.json({"collections": rows})
        elif rows:
            terminal.print_table(rows, ("collection", "name"), "points", "fingerprint", "in_use")
        else:
            terminal.print("nothing is stored yet")


@app.command("rebuild")
def rebuild(
    name: CollectionArgument = None,
    bundle: Bundle = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a damaged collection of the embedded store anew of what can be read.

    Its damaged files are kept beside it. Index the folders of its pictures afterwards: what was
    lost is embedded again, the rest is found unchanged.
    """
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.store.open import open_store

        chosen = choose_collection(name, None)
        settings = read_settings(bundle, chosen, env_file=env_file)
        with open_store(settings) as store:
            salvage = store.rebuild_collection(settings.collection, _read_space(settings))
        if as_json:
            terminal.json({"collection": settings.collection, **asdict(salvage)})
        else:
            lost = "an unknown number" if salvage.lost is None else str(salvage.lost)
            terminal.print(
                f"{salvage.kept} pictures of {settings.collection!r} could be read, {lost} could "
                f"not; the damaged files are in {salvage.set_aside}"
            )
            terminal.print("`warmclip index FOLDER` embeds what was lost again")
        if salvage.lost != 0:
            raise typer.Exit(1)


@app.command("optimize")
def optimize(
    name: CollectionArgument = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Build the index of a collection in the embedded store, and give back unused room.

    Searches are approximate afterwards. It is not needed below some 300,000 pictures, and takes
    36 s for 50,000.
    """
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.store.open import open_store

        settings = read_settings(None, choose_collection(name, None), env_file=env_file)
        _say_that_it_takes_long(terminal)
        with open_store(settings) as store:
            done = store.optimize_collection(settings.collection)
        if as_json:
            terminal.json({"collection": settings.collection, "optimized": done})
        else:
            terminal.print("its index was built" if done else "there was nothing to do")


def _say_that_it_takes_long(terminal: Terminal) -> None:
    if not terminal.as_json:
        terminal.note("building the index; nothing else runs in this process meanwhile")


def _read_space(settings: Settings) -> "Space":
    """The embedding space of the settings' bundle; no graph of it is loaded."""
    from warmclip.inference.bundle import Manifest
    from warmclip.store.protocol import Space

    file = settings.bundle / "manifest.json"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise BundleError(
            f"cannot read {file}: {exc.strerror}; name the model of the collection with --bundle"
        ) from exc
    manifest = Manifest.parse(text, file)
    recipe = {"exif": settings.exif, "decode": settings.decode}
    fingerprint = manifest.derive_fingerprint(manifest.image.model_copy(update=recipe))
    return Space(fingerprint=fingerprint, dim=manifest.dim)
