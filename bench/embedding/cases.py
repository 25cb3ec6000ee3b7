"""What is compared: the work, in which unit, and who does it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.embedding.contenders import (
    COMPILED,
    FASTEMBED,
    GEMM,
    INT8,
    INT8_SCALED,
    LOADER,
    LOCAL,
    SCALED,
    SERVICE,
    SINGLY,
    SQLITE,
    STOCK,
    STORE,
    TILES,
    TORCH,
    TRANSFORMERS,
    WARM,
)
from bench.embedding.pictures import Album

CPU = "CPU seconds an image"
FIRST = "exec to first vector, s"
PEAK = "peak memory, MB"
SHARE = "memory of its own (PSS), MB"
JOB = "the job alone, ms"
HTTP = "HTTP, ms"
ANSWERS = "50 clients, answers/s"
SLOWEST = "50 clients, p99, ms"
COLD = "none drawn before, s"
KEPT = "all drawn before, s"
FILL = "filled, points/s"
OPENED = "opened, s"
SEARCH = "search, ms"
FILTERED = "search in a folder, ms"
COMMAND = "`warmclip search`, s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much work there is."""

    batches: tuple[int, ...] = (1, 8, 32, 128)
    text_batches: tuple[int, ...] = (1, 32)
    singles_mp: tuple[float, ...] = (1, 12, 24)
    albums: tuple[Album, ...] = (
        Album(name="large", megapixels=(12, 24, 16, 12, 20, 12, 24, 16, 12, 20, 12, 16)),
        Album(name="small", megapixels=(0.2, 0.3, 0.5, 0.35) * 16),
        Album(name="mixed", megapixels=(0.3, 0.5, 12, 0.2, 2, 0.4, 24, 0.3) * 4),
    )
    queries: int = 100
    searches: int = 1000
    points: int = 20_000
    library: int = 100_000
    library_searches: int = 10


FULL = Scale()
QUICK = Scale(
    batches=(1, 32),
    singles_mp=(1, 12),
    albums=(
        Album(name="large", megapixels=(12, 12)),
        Album(name="small", megapixels=(0.2,) * 4),
        Album(name="mixed", megapixels=(0.2, 2, 0.2)),
    ),
    queries=10,
    searches=200,
    points=500,
    library=2_000,
    library_searches=3,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One order to a contender, and the columns that its answer fills.

    Attributes:
        order: what ``child`` is told.
        columns: by name.
        items: pictures or texts in one repetition.
        warm_up: what changes in the order when it is given for the first time, untimed.
        is_fresh: whether a new process does it, and its start counts.
    """

    order: Mapping[str, Any]
    columns: tuple[str, ...]
    items: int = 1
    warm_up: Mapping[str, Any] = field(default_factory=dict)
    is_fresh: bool = False

    def read(self, answer: Mapping[str, Any]) -> dict[str, float]:
        """An answer in the units of the columns."""
        values: tuple[float, ...]
        match self.order["do"]:
            case "pixels" | "texts":
                values = (self.items * self.order["repeats"] / answer["seconds"],)
            case "preprocess":
                values = (1000 * answer["seconds"] / self.order["repeats"],)
            case "folder":
                values = (self.items / answer["seconds"], answer["cpu"] / self.items)
            case "query":
                values = tuple(1000 * np.percentile(answer["latencies"], (50, 99)))
            case "thumbnails":
                values = (answer["cold"], answer["warm"])
            case "library":
                return _read_library(answer)
            case "service" if len(self.columns) > 1:
                slowest = 1000 * np.percentile(answer["latencies"], 99)
                values = (len(answer["latencies"]) / answer["seconds"], slowest)
            case "service":
                values = (1000 * np.median(answer["latencies"]),)
            case _:
                values = tuple(answer[column] for column in self.columns if column in answer)
        return {column: float(value) for column, value in zip(self.columns, values, strict=False)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison."""

    name: str
    title: str
    unit: str  # of all columns; empty where each has its own
    more_is_better: bool
    contenders: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def columns(self) -> list[str]:
        """Of its table."""
        return [column for step in self.steps for column in step.columns]

    def is_rate(self, column: str) -> bool:
        """Whether more of it is better."""
        return column in (ANSWERS, FILL) or (self.more_is_better and column != CPU)

    def is_speed(self, column: str) -> bool:
        """Whether "times as fast" says something of it."""
        return column not in (CPU, PEAK, SHARE)


def _read_library(answer: Mapping[str, Any]) -> dict[str, float]:
    """The columns of the case library; of a filling that was not in this round, none."""
    figures = {
        FILL: answer.get(FILL),
        OPENED: answer["opened"],
        SEARCH: 1000 * float(np.median(answer["latencies"])),
        FILTERED: 1000 * float(np.median(answer["filtered"])),
        PEAK: answer["peak_mb"],
        SHARE: answer.get("pss_mb"),
        COMMAND: answer["command"],
    }
    return {column: figure for column, figure in figures.items() if figure is not None}


_TOWERS = (WARM, INT8, TORCH, COMPILED, STOCK, TRANSFORMERS)
_FOLDERS = (WARM, SCALED, INT8, INT8_SCALED, TORCH, LOADER, STOCK, TRANSFORMERS, FASTEMBED)
_QUERIES = (WARM, INT8, TORCH, STOCK, TRANSFORMERS, FASTEMBED)


def cases(scale: Scale) -> tuple[Case, ...]:
    """All of them."""
    return (
        Case(
            name="image-tower",
            title="Image tower: ready pixels to unit vectors, images/s",
            unit="images/s",
            more_is_better=True,
            contenders=(*_TOWERS, GEMM),
            steps=tuple(_batch("pixels", size) for size in scale.batches),
        ),
        Case(
            name="text-tower",
            title="Texts to unit vectors, tokenizing included, texts/s",
            unit="texts/s",
            more_is_better=True,
            contenders=(*_TOWERS, FASTEMBED, GEMM),
            steps=tuple(_batch("texts", size) for size in scale.text_batches),
        ),
        Case(
            name="preprocessing",
            title="One JPEG to one model input, one at a time, ms",
            unit="ms",
            more_is_better=False,
            contenders=(WARM, SCALED, TORCH, TRANSFORMERS),
            steps=tuple(_single(megapixels) for megapixels in scale.singles_mp),
        ),
        *(_folder(album) for album in scale.albums),
        Case(
            name="query",
            title=f"A text to its nearest 10 of {scale.points:,} points, in this process, ms",
            unit="ms",
            more_is_better=False,
            contenders=_QUERIES,
            steps=(
                Step(
                    order={"do": "query", "count": scale.queries},
                    columns=("p50, ms", "p99, ms"),
                    warm_up={"count": 3},
                ),
            ),
        ),
        Case(
            name="library",
            title=f"A library of {scale.library:,} points of 512 numbers, opened and searched "
            "(warmclip's is filled and compacted, as `index` does)",
            unit="",
            more_is_better=False,
            contenders=(STORE, LOCAL, SQLITE),
            steps=(
                Step(
                    order={"do": "library", "count": scale.library_searches},
                    columns=(FILL, OPENED, SEARCH, FILTERED, PEAK, SHARE, COMMAND),
                    is_fresh=True,
                ),
            ),
        ),
        Case(
            name="http",
            title="Searches by text among 200 points: the job, over HTTP, from 50 clients at once",
            unit="",
            more_is_better=False,
            contenders=(SERVICE, SINGLY),
            steps=(
                _searches("job", (JOB,), count=scale.queries),
                _searches("http", (HTTP,), count=scale.queries),
                _searches("http", (ANSWERS, SLOWEST), count=scale.searches, clients=50),
            ),
        ),
        Case(
            name="thumbnails",
            title="The page's first 24 tiles, over HTTP, of the largest photograph, 4 at once, s",
            unit="s",
            more_is_better=False,
            contenders=(TILES,),
            steps=(Step(order={"do": "thumbnails"}, columns=(COLD, KEPT)),),
        ),
        Case(
            name="start",
            title="Cold start, and memory after 32 images and 32 texts",
            unit="",
            more_is_better=False,
            contenders=_QUERIES,
            steps=(Step(order={"do": "first"}, columns=(FIRST, PEAK, SHARE), is_fresh=True),),
        ),
    )


def batch_column(size: int) -> str:
    """Of a tower's case."""
    return f"batch {size}"


def _batch(do: str, size: int) -> Step:
    repeats = 8 if size < 8 else 2 if size < 32 else 1
    return Step(
        order={"do": do, "count": size, "repeats": repeats},
        columns=(batch_column(size),),
        items=size,
        warm_up={"repeats": 1},
    )


def _searches(way: str, columns: tuple[str, ...], *, count: int, clients: int = 1) -> Step:
    return Step(
        order={"do": "service", "way": way, "count": count, "clients": clients},
        columns=columns,
        warm_up={"count": min(count, 10)},
    )


def _single(megapixels: float) -> Step:
    repeats = 4 if megapixels < 4 else 1
    picture = single_name(megapixels)
    return Step(
        order={"do": "preprocess", "picture": picture, "repeats": repeats},
        columns=(picture,),
        warm_up={"repeats": 1},
    )


def single_name(megapixels: float) -> str:
    """Such as "12 MP"."""
    return f"{megapixels:g} MP"


def _folder(album: Album) -> Case:
    count, low, high = len(album.megapixels), min(album.megapixels), max(album.megapixels)
    return Case(
        name=f"{album.name}-folder",
        title=f"A folder of {count} JPEGs of {low:g} to {high:g} MP, files to stored vectors",
        unit="",
        more_is_better=True,
        contenders=_FOLDERS,
        steps=(
            Step(
                order={"do": "folder", "folder": album.name, "most": None},
                columns=("images/s", CPU),
                items=count,
                warm_up={"most": 2},
            ),
        ),
    )
