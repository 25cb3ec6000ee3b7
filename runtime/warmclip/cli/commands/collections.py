"""The commands below ``warmclip collections``: what is stored, and what can be done with it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmclip.cli.collection import CollectionArgument, NameArgument, choose_collection
from warmclip.cli.compaction import compact, describe_optimized
from warmclip.cli.console import MOST_LISTED, Terminal
from warmclip.cli.options import Bundle, EnvFile, Json, Verbose, open_terminal, read_settings
from warmclip.cli.paths import parse_path
from warmclip.errors import (
    BundleError,
    NotStored,
    QueueUnreachable,
    SettingsError,
    StoreDamaged,
)
from warmclip.logs import printable
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.indexing.collection_info import CollectionInfo
    from warmclip.inference.bundle import Manifest
    from warmclip.store.protocol import Space, VectorStore

_GRAPH_FROM = 500_000  # pictures: an exact search of so many takes some 40 ms
_WHEN_A_GRAPH_PAYS = (
    "of so many pictures `--approximate` makes searches faster, if some may be missed"
)
_WHEN_STOPPED = "stopped; nothing is lost"

app = typer.Typer(
    name="collections",
    help="List, describe, export and delete collections, mend a damaged one, compact one.",
    no_args_is_help=True,
)


@app.command("list")
def list_collections(
    env_file: EnvFile = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """List the collections, and the models whose vectors they hold."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.store.open import share_store
        from warmclip.store.question import question

        settings = read_settings(env_file=env_file)
        rows = []
        with share_store(settings) as store:
            with question():
                names = store.list_names()
            for name in names:
                with question():
                    found = store.list_generations(name)
                rows += [{"name": name, **asdict(generation)} for generation in found]
        if as_json:
            terminal.json({"collections": rows})
        elif rows:
            terminal.print_table(rows, ("collection", "name"), "points", "fingerprint", "in_use")
        else:
            terminal.print("nothing is stored yet")


@app.command("info")
def info(
    name: CollectionArgument = None,
    bundle: Bundle = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Tell what a collection holds: pictures, model, providers, folders, size on disk."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.indexing.collection_info import describe_collection
        from warmclip.store.open import share_store
        from warmclip.store.question import question

        settings = read_settings(bundle, choose_collection(name, None), env_file=env_file)
        with share_store(settings) as store:
            with question():  # then each payload is read, for as long as that takes
                store.fingerprint_of(settings.collection)
            found = describe_collection(store, settings.collection)
        model = _model_of(settings, found.generations[0].fingerprint, insist=bundle is not None)
        if as_json:
            terminal.json(found.to_dict() | {"model": model})
        else:
            _show_info(terminal, found, model)


@app.command("delete")
def delete(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Delete a collection, with the vectors that `migrate` left. The pictures are not touched."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.store.open import share_store
        from warmclip.store.question import question

        settings = read_settings(collection=choose_collection(name, None), env_file=env_file)
        with share_store(settings) as store:
            with question():
                kept = _kept_under(store, settings.collection)
            told = f"Delete the collection {settings.collection!r}: {kept}?"
            if not yes and not terminal.confirm(f"{told} The pictures' files are not touched"):
                raise SettingsError("nothing was deleted")
            store.delete_name(settings.collection)
        _forget_count(terminal, settings)
        if as_json:
            terminal.json({"collection": settings.collection, "deleted": True})
        else:
            terminal.print(f"deleted: {settings.collection}")


@app.command("export")
def export(
    name: NameArgument,
    to: Annotated[
        Path,
        typer.Option("--to", parser=parse_path, metavar="FILE.npz", help="The file to write."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a collection's vectors and payloads into a file that numpy reads."""
    with open_terminal(as_json, verbose) as terminal:
        from warmclip.indexing.vector_file import check_target, export_collection
        from warmclip.store.open import share_store

        settings = read_settings(collection=choose_collection(name, None), env_file=env_file)
        check_target(to, force=force)
        with share_store(settings) as store, terminal.progress("pictures") as progress:
            points = export_collection(
                store, settings.collection, to, force=force, progress=progress
            )
        if as_json:
            terminal.json({"collection": settings.collection, "points": points, "file": str(to)})
        else:
            terminal.print(f"{points} pictures of {settings.collection!r} are in {to}")


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
            salvage = store.rebuild_collection(settings.collection, _read_manifest(settings)[1])
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
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Also build a graph (HNSW). Searches of many hundred thousand pictures become "
            "faster, and may miss pictures.",
        ),
    ] = False,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compact a collection of the embedded store: it opens faster, and gives back unused room.

    Searches are exact; a graph that is there goes. `index` does it by itself once 20,000
    pictures, and a tenth of all, are new. It needs room on the disk for the collection twice
    more; other commands are served meanwhile.
    """
    with open_terminal(as_json, verbose, when_stopped=_WHEN_STOPPED) as terminal:
        from warmclip.store.open import open_store

        settings = read_settings(None, choose_collection(name, None), env_file=env_file)
        with open_store(settings) as store:
            if not as_json:
                work = "building a graph, which takes long" if approximate else "compacting"
                terminal.note(f"{work}; other commands are served meanwhile")
            done = compact(terminal, store, settings.collection, with_graph=approximate)
        if as_json:
            told = {} if done is None else asdict(done)
            optimized = told.pop("done", False)  # a server does it by itself
            terminal.json({"collection": settings.collection, "optimized": optimized, **told})
        elif done is None:
            terminal.print("there was nothing to do: the server does it by itself")
        else:
            terminal.print(describe_optimized(done))
            if done.points >= _GRAPH_FROM and not done.has_graph:
                terminal.print(_WHEN_A_GRAPH_PAYS)


def _forget_count(terminal: Terminal, settings: Settings) -> None:
    """Have metrics tell no more how many pictures it held."""
    from warmclip.work.broker import QUICK_ANSWER_S, open_broker
    from warmclip.work.counters import forget_points
    from warmclip.work.private_redis import has_private_redis

    if settings.redis_url is None and not has_private_redis(settings.home):
        return  # there was never a worker, which counts
    try:
        with open_broker(settings, answer_s=QUICK_ANSWER_S) as connection:
            forget_points(connection, settings.collection)
    except QueueUnreachable as exc:
        terminal.note(f"metrics go on to tell how many pictures it held: {exc}")


def _kept_under(store: "VectorStore", name: str) -> str:
    """What is kept under a name, as people read it.

    Raises:
        NotStored: nothing.
    """
    collections = store.delete_name(name, dry_run=True)
    try:
        in_use, *kept = store.list_generations(name)
    except (StoreDamaged, NotStored):  # the latter: a deletion was killed
        return f"what is left of {', '.join(collections)}"
    told = [f"{in_use.points} pictures"]
    told += [f"{it.points} vectors that `migrate` left" for it in kept]
    return ", ".join(told)


def _show_info(terminal: Terminal, found: "CollectionInfo", model: str | None) -> None:
    from warmclip.indexing.collection_info import group_folders

    in_use, *kept = found.generations
    engine = dict(found.engine)
    size = engine.pop("size_bytes", None)
    rows = {
        "collection": found.name,
        "pictures": str(found.points),
        "model": f"{model or 'not the one here'}, fingerprint {in_use.fingerprint}",
        "dim": "unknown: it is empty" if found.dim is None else str(found.dim),
        "computed by": _counts(found.providers),
        "suspect": str(found.unverified),
        "not ours": str(in_use.foreign),
        "on disk": "the server does not tell" if size is None else f"{size / 1e6:,.1f} MB",
        "made as": json.dumps(engine),
    }
    rows |= {f"kept, {it.fingerprint[:12]}": f"{it.points} pictures" for it in kept}
    for heading, told in rows.items():
        if told not in ("0", ""):
            terminal.print(f"{heading:12}  {printable(told)}")
    for folder, count in group_folders(found.folders, MOST_LISTED).items():
        terminal.print(f"{count:12}  {printable(folder)}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _model_of(settings: Settings, fingerprint: str, *, insist: bool) -> str | None:
    """The name of the model here, if its vectors are those of a collection."""
    try:
        manifest, space = _read_manifest(settings)
    except BundleError:
        if insist:
            raise
        return None
    return manifest.name if space.fingerprint == fingerprint else None


def _read_manifest(settings: Settings) -> "tuple[Manifest, Space]":
    """The manifest of the settings' bundle, and its embedding space; no graph is loaded."""
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
    fingerprint = manifest.derive_fingerprint(manifest.image_with(settings.exif, settings.decode))
    return manifest, Space(fingerprint=fingerprint, dim=manifest.dim)
