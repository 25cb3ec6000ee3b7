"""The result as files: a page for people, one file that needs no network, and JSON beside it."""

import base64
import io
import json
import math
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from warmclip.inference.arrays import Crop
from warmclip_export.errors import ExportRefused
from warmclip_export.parity import plots
from warmclip_export.parity.compatibility import ACTIVATION_NAMES
from warmclip_export.parity.finding import Finding
from warmclip_export.parity.result import Result, Spread

_PACKAGE = "warmclip_export.parity"
_TEMPLATE = "report.html.jinja"
_STYLE = "report.css"
_THUMBNAIL_PX = 128
_LOSSLESS_PX = 64  # up to which a thumbnail is a PNG
_TEXT_CHARS = 90
_PERCENT = frozenset({"top-1 agreement", "top-10 overlap"})


def report_paths(where: Path) -> tuple[Path, Path]:
    """Where the page and the JSON go: into a folder, or by the name of the page.

    Raises:
        ExportRefused: neither can be written there.
    """
    page = where if where.suffix in (".html", ".htm") else where / "parity.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        probe = page.with_name(f".{page.name}.tmp")
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        raise ExportRefused(
            f"--report {where}: cannot write {page.name} in {page.parent}: {exc.strerror}"
        ) from exc
    return page, page.with_suffix(".json")


def write_report(result: Result, page: Path, data: Path) -> None:
    """Write both files, each whole or not at all.

    Raises:
        ExportRefused: the disk is full, or the folder gone.
    """
    for path, content in ((data, render_json(result)), (page, render_html(result))):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        except OSError as exc:
            raise ExportRefused(f"cannot write the report {path}: {exc.strerror}") from exc


def render_json(result: Result) -> str:
    """The report for machines; pure ASCII, so that it keeps texts that are not UTF-8."""
    return json.dumps(result.as_json(), indent=2, allow_nan=False) + "\n"


def render_html(result: Result) -> str:
    """The report for people: one page, no script, nothing loaded from anywhere."""
    environment = Environment(
        loader=PackageLoader(_PACKAGE, ""),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": format_figure,
        "track": _track,
        "histogram": _histogram,
        "data_uri": _data_uri,
        "difference": _difference,
        "shortened": _shortened,
    }
    own = [each for each in result.record.compatibilities if each.is_own]
    return environment.get_template(_TEMPLATE).render(
        result=result,
        style=Markup(files(_PACKAGE).joinpath(_STYLE).read_text("utf-8")),  # noqa: S704 - our own
        activation_names=ACTIVATION_NAMES,
        own_activation=ACTIVATION_NAMES[own[0].activation] if own else "",
        may_share_with_own=bool(own) and all(each.may_share for each in own),
        facts=_facts(result),
        targets=_by_target(result),
        last_spreads=_last_spreads(result),
    )


def share_used(finding: Finding) -> float:
    """The share of what is allowed that a figure used: 0 nothing, 1 all of it, more: too far."""
    if finding.measure == "times nearer":
        return finding.threshold / finding.figure if finding.figure else math.inf
    if finding.more_is_better:  # all of these are at best 1
        spare = 1 - finding.threshold
        lost = max(1 - finding.figure, 0.0)
        return lost / spare if spare else (math.inf if lost else 0.0)
    return finding.figure / finding.threshold if finding.threshold else math.inf


def format_figure(finding: Finding) -> str:
    """A figure as people read it."""
    figure, measure = finding.figure, finding.measure
    if not math.isfinite(figure):
        return "none"
    if figure == 0:
        return "0"
    if measure.endswith("that differ"):
        return f"{figure:.0f}"
    if measure in _PERCENT:
        return f"{figure:.1%}" if figure < 1 else "100%"
    if measure == "times nearer":
        return f"{figure:,.0f} ×" if figure >= 10 else f"{figure:.2f} ×"  # noqa: RUF001 - times
    if measure == "lowest cosine" and figure > 1 - 1e-4:
        return f"1 − {max(1 - figure, 0.0):.1e}"  # noqa: RUF001 - a minus sign
    return f"{figure:.5f}" if finding.more_is_better else f"{figure:.1e}"


def _facts(result: Result) -> dict[str, str]:
    reference = result.reference
    when = result.measured_at[:16].replace("T", " ")
    return {
        "reference": f"open_clip {result.versions['open_clip_torch']} on {reference['device']}, "
        f"{reference['dtype']}",
        "compared": result.compared,
        "machine": f"{reference['system']} {reference['machine']}",
        "measured": f"{when} UTC, in {result.seconds:.0f} s",
        "weights": f"{reference['model']}, {reference['pretrained']}",
        "fingerprint": result.fingerprint[:16],
    }


def _by_target(result: Result) -> list[tuple[tuple[str, bool], list[Any]]]:
    """(target, whether it is served) -> its compatibilities, in the order of the record."""
    grouped = groupby(result.record.compatibilities, lambda each: (each.target, each.is_served))
    return [(target, list(of_target)) for target, of_target in grouped]


def _last_spreads(result: Result) -> list[Spread]:
    """Of each target and tower the stage nearest to the user: end to end, where there is one."""
    last = {(spread.tower, spread.target): spread for spread in result.record.spreads}
    return list(last.values())


def _track(finding: Finding) -> str:
    if finding.threshold == 0:
        return ""
    share = share_used(finding)
    return plots.track(share, f"{share:.2%} of what is allowed")


def _histogram(spread: Spread, label: str) -> str:
    return plots.histogram(spread.differences, spread.threshold, label)


def _difference(spread: Spread, row: int) -> str:
    value = spread.differences[row]
    if not math.isfinite(value):
        return Markup('<span class="bad">no vector</span>')
    return f"{value:.1e}"


def _data_uri(crop: Crop) -> str:
    """A crop as a picture inside the page."""
    picture = Image.fromarray(crop)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    kind = "png" if max(picture.size) <= _LOSSLESS_PX else "jpeg"
    stream = io.BytesIO()
    picture.save(stream, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _shortened(text: str) -> str:
    return (text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}…") or "(empty)"


def _printable(value: Any) -> Any:
    """A text with no invisible characters; the environment escapes it after that."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)
