"""The command compare."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from warmclip.cli.commands.index import describe_counts, open_encoder
from warmclip.cli.console import Terminal, fold_reasons, shorten_path
from warmclip.cli.options import (
    EnvFile,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)
from warmclip.cli.paths import parse_path
from warmclip.errors import SettingsError
from warmclip.logs import printable
from warmclip.settings import Settings
from warmclip.store.filter import Filter

if TYPE_CHECKING:
    from warmclip.indexing.report import IndexReport
    from warmclip.store.protocol import Hit, VectorStore

_MODELS = 2
_NAME_CHARS = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the models, and what it found for each query."""

    bundle: Path
    fingerprint: str
    collection: str
    report: "IndexReport"
    found: "list[list[Hit]]"


def compare(
    folder: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="FOLDER", help="Of pictures.")
    ],
    bundle: Annotated[
        list[Path],
        typer.Option(
            "--bundle", parser=parse_path, metavar="PATH", help="A model folder; name two."
        ),
    ],
    query: Annotated[
        list[str], typer.Option("--query", "-q", help="What to look for; may be repeated.")
    ],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Hits.")] = 10,
    provider: Provider = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Index a folder with two models, search with both, and tell how much they agree.

    Each model has a collection of its own, compare-FINGERPRINT, which stays for the next time.
    """
    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(provider=provider, env_file=env_file)
        if len(bundle) != _MODELS:
            raise SettingsError(f"name two models with --bundle, not {len(bundle)}")
        from warmclip.store.open import share_store

        folder = folder.absolute()
        sides = []
        with share_store(settings) as store:
            for each in bundle:
                chosen = replace(settings, bundle=each)
                sides.append(_ask(terminal, chosen, store, folder, query, limit))
                gc.collect()  # one model at a time is in memory, and parts of it form cycles
        if sides[0].fingerprint == sides[1].fingerprint:
            terminal.note("both bundles are of the same embedding space")
        _show(terminal, sides, query)
        raise typer.Exit(max(side.report.exit_code for side in sides))


def _ask(
    terminal: Terminal,
    settings: Settings,
    store: "VectorStore",
    folder: Path,
    queries: list[str],
    limit: int,
) -> Side:
    """Bring one model's collection up to date, and search it."""
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.probability import with_probability
    from warmclip.indexing.query import Query, Term

    encoder = open_encoder(settings, terminal)
    collection = f"compare-{encoder.fingerprint[:12]}"
    indexer = Indexer.from_settings(encoder, store, settings, collection)
    with terminal.progress("images") as progress:
        report = indexer.index([folder], progress=progress)
    only = Filter.of(str(folder), None, None, by_file_date=False)
    found = []
    for text in queries:
        hits = indexer.search(text, limit=limit, only=only)
        query = Query(terms=(Term(text=text),))
        found.append(with_probability(hits, query, encoder.bundle.manifest.logits))
    return Side(
        bundle=settings.bundle,
        fingerprint=encoder.fingerprint,
        collection=collection,
        report=report,
        found=found,
    )


def _show(terminal: Terminal, sides: list[Side], queries: list[str]) -> None:
    common = [_count_common(*pair) for pair in zip(*(side.found for side in sides), strict=True)]
    mean = sum(common) / len(common)
    most = max(len(hits) for side in sides for hits in side.found)  # fewer than asked for, maybe
    if terminal.as_json:
        terminal.json(
            {
                "models": [_as_json(side) for side in sides],
                "queries": [
                    {
                        "text": text,
                        "common": same,
                        "hits": [[hit.to_dict() for hit in side.found[place]] for side in sides],
                    }
                    for place, (text, same) in enumerate(zip(queries, common, strict=True))
                ],
                "mean_common": mean,
            }
        )
        return
    for letter, side in zip("AB", sides, strict=True):
        told = f"{letter}  {shorten_path(str(side.bundle))}: {describe_counts(side.report)}"
        terminal.print(printable(told))
    skipped = {path: why for side in sides for path, why in side.report.skipped.items()}
    terminal.print_paths("skipped", "because", fold_reasons(skipped))
    for place, text in enumerate(queries):
        terminal.print(Text(printable(text), style="bold"))
        rows = [side.found[place] for side in sides]
        for number in range(max(map(len, rows))):
            cells = [_cell(hits[number]) if number < len(hits) else "" for hits in rows]
            terminal.print(f"{number + 1:4}  {cells[0]:{_NAME_CHARS + 7}}  {cells[1]}".rstrip())
        terminal.print(f"      {common[place]} of {most} in common")
    terminal.print(f"in common on average: {mean:.1f} of {most}")


def _cell(hit: "Hit") -> str:
    name = printable(Path(hit.payload.path).name)
    return f"{hit.score:.3f}  {name if len(name) <= _NAME_CHARS else '...' + name[-31:]}"


def _count_common(first: "list[Hit]", second: "list[Hit]") -> int:
    """A picture has the same id in all collections."""
    return len({hit.id for hit in first} & {hit.id for hit in second})


def _as_json(side: Side) -> dict[str, Any]:
    return {
        "bundle": str(side.bundle),
        "fingerprint": side.fingerprint,
        "collection": side.collection,
        "index": side.report.to_dict(),
    }
