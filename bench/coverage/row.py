"""One configuration of open_clip in the table, and the table as a CSV file."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "coverage.csv"

Outcome: TypeAlias = Literal["taken", "refused", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was found out about one configuration; empty is what was not measured.

    Attributes:
        model: its name in open_clip.
        outcome: whether it becomes a bundle.
        reason: why not.
        parameters: in millions, at full size.
        measured: as it is, or how it was made smaller.
        image: the largest difference to open_clip's unit vectors in float32.
        text: the same of the text tower.
        pieces: how many CoreML gets of the image tower in fp32 and fp16, of the text tower in both.
        cut: the operators that CoreML refuses, where it gets more than one piece.
        seconds: of building, exporting and comparing.
        peak_gb: of the process that did so.
    """

    model: str
    outcome: Outcome
    reason: str = ""
    parameters: str = ""
    measured: str = ""
    image: str = ""
    text: str = ""
    pieces: str = ""
    cut: str = ""
    seconds: str = ""
    peak_gb: str = ""


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of a table by model; none if there is no table yet."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {found["model"]: Row(**found) for found in csv.DictReader(stream)}  # type: ignore[arg-type]  # it writes what it reads


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a table, sorted by model, so that a run changes only the rows that it measured."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        names = [field.name for field in fields(Row)]
        table = csv.DictWriter(stream, names, lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.model.lower()))
    part.replace(path)
