"""The command search."""

import base64
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
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
from warmclip.errors import (
    ImagesUnreadable,
    ImageUnreadable,
    JobFailed,
    SettingsError,
    StoreUnreachable,
)
from warmclip.garbage import rarely_collected
from warmclip.logs import printable
from warmclip.settings import Settings
from warmclip.store.filter import MOST_HITS, Filter, check_score

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.query import Query, Term
    from warmclip.inference.arrays import Vector
    from warmclip.store.protocol import Hit

_LATE_S = 1.5  # of an answer, after which the store is asked whether it is there
_QDRANT_S = 2.0  # for its answer
_MOST_SHOWN = 60  # characters of a text that was cut
_LONGEST_HEADING = 200  # characters


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...",
            help="What to look for: words, and pictures' paths; + and - that stand alone add and "
            "subtract another term, and 0.5: before one is its weight.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="PATH",
            help="Look for pictures like this one; - reads it from standard input.",
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Each argument and --image is a query of its own.")
    ] = False,
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
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", help="Only pictures with this cosine similarity or more."),
    ] = None,
    existing: Annotated[
        bool, typer.Option("--existing", help="Leave out pictures whose files are not there.")
    ] = False,
    paths: Annotated[
        bool, typer.Option("--paths", "-f", help="Print paths only, one a line.")
    ] = False,
    nul: Annotated[
        bool, typer.Option("-0", help="Print paths only, each ended by a NUL, for `xargs -0`.")
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
    # numpy's OpenBLAS, which multiplies nothing large here, would start a thread for each core as
    # it is imported. They spin for a while: a tenth of a search's time on two cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from warmclip.cli.presence import Presence
    from warmclip.cli.queries import read_queries

    with open_terminal(as_json, verbose) as terminal:
        settings = read_settings(
            bundle, collection, provider, exif_transpose, decode, env_file=env_file
        )
        queries = read_queries(words or [], image or [], settings.limits, each=each)
        check_sheet(sheet)
        if queue and (bundle or provider or exif_transpose or decode):
            raise SettingsError(WORKERS_CHOICE)
        if as_json and (paths or nul):
            raise SettingsError("--json, or --paths and -0: not both")
        below = None if folder is None else str(folder.absolute())
        only = Filter.of(below, since, until, by_file_date=by_file_date)
        # Of those that are not there, nobody knows how many come first.
        most = MOST_HITS if existing else limit
        least = check_score(min_score)
        if queue:
            found = _search_by_worker(terminal, settings, queries, most, only, least)
        else:
            with rarely_collected():
                found = _search(
                    terminal, settings, queries, most, only, least, insist=bundle is not None
                )
        presence = Presence(settings.limits)
        if existing:
            found = [presence.keep_existing(hits, limit) for hits in found]
        if folder is not None and not any(found) and presence.is_folder(folder) is False:
            terminal.note(f"--folder {folder}: there is none, and nothing is stored below it")
        if sheet is not None:
            _draw_sheet(terminal, sheet, settings, queries, found)
        if paths or nul:
            terminal.write_paths((hit.payload.path for hits in found for hit in hits), nul=nul)
        else:
            show_hits(terminal, queries, found, presence.is_there)


def _search(
    terminal: Terminal,
    settings: Settings,
    queries: "list[Query]",
    limit: int,
    only: Filter,
    min_score: float | None,
    *,
    insist: bool,
) -> "list[list[Hit]]":
    from warmclip.indexing.combination import combine_terms
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.probability import with_probability
    from warmclip.store.open import share_store
    from warmclip.store.question import question

    server = None if settings.qdrant_url is None else share_store(settings)
    chosen = settings
    if not insist:
        with share_store(settings) if server is None else nullcontext(server) as store, question():
            chosen = choose_model(settings, store, terminal)
    # Beside no open store of this machine: a worker that wants to own it need not wait while
    # providers are tried.
    encoder = open_encoder(chosen, terminal)
    store = share_store(settings) if server is None else server
    indexer = Indexer.from_settings(encoder, store, settings)
    found = []
    for query in queries:
        vector = combine_terms(query, partial(_vector_of, indexer=indexer))
        with question():
            hits = indexer.search(vector=vector, limit=limit, only=only, min_score=min_score)
        found.append(with_probability(hits, query, encoder.bundle.manifest.logits))
        _tell_of_cut_texts(terminal, encoder.find_cut_texts(query.texts))
    store.close(at_exit=True)
    return found


def _vector_of(term: "Term", indexer: "Indexer") -> "Vector":
    if term.text is not None:
        return indexer.embed(term.text)
    try:
        return indexer.embed(image=term.image if term.data is None else base64.b64decode(term.data))
    except ImagesUnreadable as exc:
        name = "standard input" if term.image is None else term.image
        raise ImageUnreadable(f"{name}: {exc.reasons[0]}") from exc


def _tell_of_cut_texts(terminal: Terminal, texts: Sequence[str]) -> None:
    for text in texts:
        shown = _shorten(text, _MOST_SHOWN)
        terminal.note(
            printable(f"the model does not read the end of {shown!r}: the text is too long for it")
        )


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


class _StoreOutage:
    """Whether a Qdrant server does not answer, asked while a worker's answer is late.

    The worker itself says so soon; but it may be at another job, which waits for the server.
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
    terminal: Terminal,
    settings: Settings,
    queries: "list[Query]",
    limit: int,
    only: Filter,
    min_score: float | None,
) -> "list[list[Hit]]":
    from warmclip.store.protocol import Hit
    from warmclip.work.broker import QUICK_ANSWER_S, open_broker
    from warmclip.work.call import CALL_QUEUE, CallCancelled, call
    from warmclip.work.worker_watch import wait_for_start

    found = []
    with open_broker(settings, answer_s=QUICK_ANSWER_S) as connection:
        wait_for_start(connection, CALL_QUEUE)
        for query in queries:
            question = {**as_arguments(query), "limit": limit, **only.to_dict()}
            question |= {"collection": settings.collection}
            question |= {} if min_score is None else {"min_score": min_score}
            outage = _StoreOutage(settings)
            try:
                answer = call(connection, "search", question, is_cancelled=outage.is_there)
            except CallCancelled:
                raise StoreUnreachable(outage.words) from None
            try:
                found.append([Hit.from_dict(hit) for hit in answer["hits"]])
                _tell_of_cut_texts(terminal, answer.get("cut", ()))
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise JobFailed(
                    "a worker's answer in Redis holds no hits: are client and workers of one "
                    "warmclip?"
                ) from exc
    return found


def as_arguments(query: "Query") -> dict[str, Any]:
    """A query as the job ``search`` takes it; a single term as former workers do, too.

    Raises:
        SettingsError: a picture is too large for a job.
    """
    from warmclip.work.call import MOST_SENT_BYTES

    pictures = (base64.b64decode(it.data) for it in query.terms if it.data is not None)
    if any(len(picture) > MOST_SENT_BYTES for picture in pictures):
        raise SettingsError(
            f"--image -: with --queue a picture has at most {MOST_SENT_BYTES:,} bytes; save it "
            "where the worker finds it, and name its path"
        )
    term = query.only_term
    if term is None:
        return {"terms": [it.to_dict() for it in query.terms]}
    return {name: value for name, value in term.to_dict().items() if name != "weight"}


def _draw_sheet(
    terminal: Terminal,
    file: Path,
    settings: Settings,
    queries: "list[Query]",
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
    queries: "Sequence[Query]",
    hits_of_each: "Sequence[Sequence[Hit]]",
    is_there: Callable[[str], bool | None],
) -> None:
    """Write the pictures found for each query, best first; those whose files are gone so marked.

    Args:
        terminal: in JSON ``exists`` is what ``is_there`` returns.
        queries: in their order.
        hits_of_each: of each query.
        is_there: whether there is a file with this path; None: it is not known.
    """
    answers = list(zip(queries, hits_of_each, strict=True))
    if terminal.as_json:
        terminal.json({"queries": [_as_json(query, hits, is_there) for query, hits in answers]})
        return
    for query, hits in answers:
        heading = _shorten(_heading(query), _LONGEST_HEADING)
        terminal.print(Text(printable(heading), style="bold"))
        if not hits:
            terminal.print("      nothing was found")
        for place, hit in enumerate(hits, start=1):
            path = printable(shorten_path(hit.payload.path))
            day = (hit.payload.taken_at or "")[:10]
            mark = "  (not there)" if is_there(hit.payload.path) is False else ""
            sure = "" if hit.probability is None else f"{hit.probability:7.2%}  "
            terminal.print(f"{place:4}  {hit.score:.3f}  {sure}{day:10}  {path}{mark}")


def _heading(query: "Query") -> str:
    """The query's, with the paths of pictures as short as those of hits."""
    terms = [
        it if it.image is None else replace(it, image=shorten_path(it.image)) for it in query.terms
    ]
    return replace(query, terms=tuple(terms)).heading


def _as_json(
    query: "Query", hits: "Sequence[Hit]", is_there: Callable[[str], bool | None]
) -> dict[str, Any]:
    term = query.only_term
    return {
        "text": term and term.text,
        "image": term and term.image,
        "terms": [{"text": it.text, "image": it.image, "weight": it.weight} for it in query.terms],
        "hits": [hit.to_dict() | {"exists": is_there(hit.payload.path)} for hit in hits],
    }
