"""What the matrix means, in one sentence, and whether warmclip can work on this machine."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from warmclip.doctor.matrix import PLAIN, Row, Variant
from warmclip.doctor.probe import ProbeResult
from warmclip.doctor.processes import Kind
from warmclip.inference.providers import asked_for

_MOST_REASONS = 2
_OURS: tuple[Kind, ...] = ("exec", "horse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What the doctor concludes from a matrix."""

    is_fork_unsafe: bool  # a forked child failed, this time
    own_way_works: bool  # onnxruntime in a process that was exec'd, cold and warm
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The conclusion as JSON can carry it."""
        return asdict(self)


def draw_conclusion(rows: Sequence[Row], choice: str) -> Conclusion:
    """Conclude from a matrix.

    Args:
        rows: as ``run_matrix`` filled them.
        choice: the provider that the settings name; ``auto`` accepts any.
    """
    reasons = [_explain_failure(row, variant) for row, variant in _fork_only_failures(rows)]
    working = [row for row in _sessions(rows, choice) if _works(row)]
    return Conclusion(
        is_fork_unsafe=bool(reasons),
        own_way_works=bool(working),
        sentence=f"{_describe_forks(reasons)} {_describe_horse(rows, working, choice)}",
    )


def _fork_only_failures(rows: Sequence[Row]) -> Iterator[tuple[Row, Variant]]:
    """Rows where a forked child fails and an exec'd one does not, each with its first failure."""
    for row in rows:
        bad = [variant for variant in row.forked if variant.cell.status not in ("ok", "absent")]
        if bad and row.cells["main"].is_ok:
            yield row, bad[0]


def _explain_failure(row: Row, variant: Variant) -> str:
    how = "" if variant.name == PLAIN else f" ({variant.name})"
    return f"after {row.name}{how} the forked child {describe_result(variant.cell)}"


def describe_result(cell: ProbeResult) -> str:
    """What a child came to, as the end of a sentence."""
    when = f" when it {cell.step}" if cell.step else ""
    match cell.status:
        case "ok":
            return "does it"
        case "hang":
            return f"hangs{when} (given {cell.seconds:.0f} s)"
        case "signal":
            told = f" ({cell.said})" if cell.said else ""
            return f"dies of {cell.reason}{when}{told}"
        case "error":
            return f"fails{when} ({cell.reason})"
        case "absent":
            return f"was not tried ({cell.reason})"


def _describe_forks(reasons: Sequence[str]) -> str:
    if not reasons:
        return (
            "No forked child failed here this time, which is luck and no promise; "
            "`warmclip worker` does not fork."
        )
    shown = "; ".join(reasons[:_MOST_REASONS])
    rest = len(reasons) - _MOST_REASONS
    more = f"; and {rest} more" if rest > 0 else ""
    return f"Forking is unsafe here because {shown}{more}. `warmclip worker` does not fork."


def _describe_horse(rows: Sequence[Row], working: Sequence[Row], choice: str) -> str:
    if working:
        horse = working[0].cells["horse"]
        return (
            f"Its horse, an exec'd process, works on {working[0].provider}: the first answer after "
            f"{horse.seconds or 0:.2f} s, the next after {1000 * (horse.again_s or 0):.1f} ms."
        )
    tried = _sessions(rows, choice)
    if not tried:
        imported = next(row for row in rows if row.name == "import onnxruntime").cells["main"]
        return (
            f"Nor can it work here: onnxruntime has no session on {choice!r} "
            f"(importing it: {describe_result(imported)})."
        )
    bad = next(tried[0].cells[kind] for kind in _OURS if not tried[0].cells[kind].is_ok)
    return f"But neither does it work here: {tried[0].name}, {describe_result(bad)}."


def _sessions(rows: Sequence[Row], choice: str) -> list[Row]:
    meant = {provider.name for provider in asked_for(choice)}
    return [row for row in rows if row.provider in meant]


def _works(row: Row) -> bool:
    return all(row.cells[kind].is_ok for kind in _OURS)
