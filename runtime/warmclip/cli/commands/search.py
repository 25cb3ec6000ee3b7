"""The command search."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from warmclip.cli.commands.index import choose_model, open_encoder
from warmclip.cli.console import Terminal, shorten_path
from warmclip.cli.options import (
    WORKERS_CHOICE,
    Bundle,
    Collection,
    Decode,
    EnvFile,
    ExifTranspose,
    Json,
    Provider,
    Verbose,
    open_terminal,
    read_settings,
)
from warmclip.cli.paths import parse_path
from warmclip.cli.sheet import Sheet, check_sheet, save_sheet
from warmclip.errors import JobFailed, SettingsError, StoreUnreachable
from warmclip.logs import printable
from warmclip.settings import Settings
from warmclip.store.filter import MOST_HITS, Filter, Query

if TYPE_CHECKING:
    from warmclip.store.protocol import Hit

_LATE_S = 2.5  # of an answer, after which the store is asked whether it is there
_QDRANT_S = 2.0  # for its answer


def search(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to look for, in words.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", parser=parse_path, metavar="PATH", help="Look for pictures like this one."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST_HITS, help="Hits for each query.")
    ] = 10,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", parser=parse_path, metavar="PATH", help="Only what lies below it."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="YYYY-MM-DD",
            help="Only pictures that were taken on this day or later.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="YYYY-MM-DD",
            help="Only pictures that were taken on this day or earlier.",
        ),
    ] = None,
    by_file_date: Annotated[
        bool,
        typer.Option(
            "--by-file-date",
            help="Days are those of the files' last changes (UTC), not of the cameras.",
        ),
    ] = False,
    sheet: Sheet = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Ask a running `warmclip worker`.")
    ] = False,
    collection: Collection = None,
    bundle: Bundle = None,
    provider: Provider = None,
    exif_transpose: ExifTranspose = False,
    decode: Decode = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find pictures by words, or by a picture."""
    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(
            bundle, collection, provider, exif_transpose, decode, env_file=env_file
        )
        queries = [Query(text=text) for text in texts or []]
        for path in image or []:
            if not path.is_file():
                raise SettingsError(f"--image {path}: there is no such file")
            queries.append(Query(image=str(path.absolute())))
        if not queries:
            raise SettingsError("say what to look for: words, or --image FILE")
        if any(query.text is not None and not query.text.strip() for query in queries):
            raise SettingsError("an empty text is like nothing: say what to look for")
        check_sheet(sheet)
        if queue and (bundle or provider or exif_transpose or decode):
            raise SettingsError(WORKERS_CHOICE)
        below = None if folder is None else str(folder.absolute())
        only = Filter.of(below, since, until, by_file_date=by_file_date)
        if queue:
            found = _search_by_worker(settings, queries, limit, only)
        else:
            found = _search(terminal, settings, queries, limit, only, insist=bundle is not None)
        if folder is not None and not any(found) and not folder.is_dir():
            terminal.note(f"--folder {folder}: there is none, and nothing is stored below it")
        if sheet is not None:
            _draw_sheet(terminal, sheet, settings, queries, found)
        show_hits(terminal, queries, [[hit.to_dict() for hit in hits] for hits in found])


def _search(
    terminal: Terminal,
    settings: Settings,
    queries: list[Query],
    limit: int,
    only: Filter,
    *,
    insist: bool,
) -> "list[list[Hit]]":
    from warmclip.indexing.indexer import Indexer
    from warmclip.store.open import share_store

    # The model first: nobody who wants to own the store has to wait for it.
    encoder = open_encoder(settings, terminal)
    with share_store(settings) as store:
        if not insist:
            chosen = choose_model(settings, store, terminal)
            if chosen.bundle != settings.bundle:
                encoder = open_encoder(chosen, terminal)
        indexer = Indexer.from_settings(encoder, store, settings)
        return [
            indexer.search(query.text, image=query.image, limit=limit, only=only)
            for query in queries
        ]


class _StoreOutage:
    """Whether a Qdrant server does not answer, asked while a worker's answer is late.

    The worker would go on to try, for longer than anybody waits for a search.
    """

    def __init__(self, settings: Settings) -> None:
        self.words = ""
        self._settings = settings
        self._began = time.monotonic()

    def is_there(self) -> bool:
        """Whether it has been seen; asked every second."""
        from warmclip.doctor.dependencies import find_qdrant_outage

        if not self.words and time.monotonic() - self._began > _LATE_S:
            self.words = find_qdrant_outage(self._settings, _QDRANT_S) or ""
        return bool(self.words)


def _search_by_worker(
    settings: Settings, queries: list[Query], limit: int, only: Filter
) -> "list[list[Hit]]":
    from warmclip.store.protocol import Hit
    from warmclip.work.broker import QUICK_ANSWER_S, open_broker
    from warmclip.work.call import CallCancelled, call

    found = []
    with open_broker(settings, answer_s=QUICK_ANSWER_S) as connection:
        for query in queries:
            question = {"text": query.text, "image": query.image, "limit": limit}
            question |= {"collection": settings.collection, **only.to_dict()}
            outage = _StoreOutage(settings)
            try:
                answer = call(connection, "search", question, is_cancelled=outage.is_there)
            except CallCancelled:
                raise StoreUnreachable(outage.words) from None
            try:
                found.append([Hit.from_dict(hit) for hit in answer["hits"]])
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise JobFailed(
                    "a worker's answer in Redis holds no hits: are client and workers of one "
                    "warmclip?"
                ) from exc
    return found


def _draw_sheet(
    terminal: Terminal,
    file: Path,
    settings: Settings,
    queries: list[Query],
    found: "list[list[Hit]]",
) -> None:
    from warmclip.indexing.contact_sheet import SheetSection

    sections = [
        SheetSection(heading=query.heading, hits=hits)
        for query, hits in zip(queries, found, strict=True)
    ]
    save_sheet(
        terminal, file, settings, sections, columns=min(5, max(3, *(len(hits) for hits in found)))
    )


def show_hits(
    terminal: Terminal,
    queries: Sequence[Query],
    hits_of_each: Sequence[Sequence[Mapping[str, Any]]],
) -> None:
    """Write the pictures found for each query, best first."""
    answers = list(zip(queries, hits_of_each, strict=True))
    if terminal.as_json:
        terminal.json({"queries": [asdict(query) | {"hits": hits} for query, hits in answers]})
        return
    for query, hits in answers:
        terminal.print(Text(printable(shorten_path(query.heading)), style="bold"))
        if not hits:
            terminal.print("      nothing was found")
        for place, hit in enumerate(hits, start=1):
            path = printable(shorten_path(hit["path"]))
            day = (hit["taken_at"] or "")[:10]
            terminal.print(f"{place:4}  {hit['score']:.3f}  {day:10}  {path}")
