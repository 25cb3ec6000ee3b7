"""The outcome as files: a page for people, one file that needs no network, and JSON beside it."""

import base64
import io
import json
import math
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from PIL import Image

from warmclip.inference.arrays import Crop
from warmclip_export.errors import ExportRefused
from warmclip_export.parity import plots
from warmclip_export.parity.compatibility import WORDS, Ruling
from warmclip_export.parity.finding import AT_LEAST, Finding
from warmclip_export.parity.result import Outcome, Spread

_THUMBNAIL_PX = 128
_TEXT_CHARS = 90
_PERCENT = frozenset({"top-1 agreement", "top-10 overlap"})


def places(where: Path) -> tuple[Path, Path]:
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


def write(outcome: Outcome, page: Path, data: Path) -> None:
    """Write both files, each whole or not at all.

    Raises:
        ExportRefused: the disk is full, or the folder gone.
    """
    for path, content in ((data, as_json(outcome)), (page, as_html(outcome))):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        except OSError as exc:
            raise ExportRefused(f"cannot write the report {path}: {exc.strerror}") from exc


def as_json(outcome: Outcome) -> str:
    """The report for machines; pure ASCII, so that it keeps texts that are not UTF-8."""
    return json.dumps(outcome.as_json(), indent=2, allow_nan=False) + "\n"


def as_html(outcome: Outcome) -> str:
    """The report for people: one page, no script, nothing loaded from anywhere."""
    style = files("warmclip_export.parity").joinpath("report.css").read_text("utf-8")
    name = _text(outcome.bundle)
    body = "".join(
        (
            *_head(outcome, name),
            *_rulings(outcome),
            *_stages(outcome),
            *_wrong_crops(outcome),
            *_spreads(outcome),
            *_worst(outcome),
            *_footer(outcome),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Parity of {name}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(outcome: Outcome, name: str) -> Iterator[str]:
    yield f"<header><h1>Parity of <code>{name}</code> with open_clip in torch</h1>"
    own = [ruling for ruling in outcome.record.rulings if ruling.is_own]
    shares = bool(own) and all(ruling.may_share for ruling in own)
    if outcome.passed:
        of = WORDS[own[0].activation] if own else ""
        yield (
            f'<p class="verdict"><span class="good">Yes:</span> its vectors may share a collection '
            f"with those that torch made with {of}.</p>"
        )
    else:
        first, more = outcome.failed[0], len(outcome.failed) - 1
        others = f", and {more} more figures" if more else ""
        can = "Strayed:" if shares else "No:"
        yield (
            f'<p class="verdict"><span class="bad">{can}</span> it strays from open_clip at '
            f"<em>{_text(first.stage)}</em>{others}.</p>"
        )
    yield f"<p>{_text(outcome.activation)}.</p>"
    if outcome.is_random:
        yield (
            '<p class="warning">The weights are random: the figures hold for the machinery, and '
            "for no trained model.</p>"
        )
    reference = outcome.reference
    when = outcome.measured_at[:16].replace("T", " ")
    facts = {
        "reference": f"open_clip {outcome.versions['open_clip_torch']} on {reference['device']}, "
        f"{reference['dtype']}",
        "compared": f"{len(outcome.pictures)} pictures, {len(outcome.texts)} texts",
        "machine": f"{reference['system']} {reference['machine']}",
        "measured": f"{when} UTC, in {outcome.seconds:.0f} s",
        "weights": f"{reference['model']}, {reference['pretrained']}",
        "fingerprint": outcome.fingerprint[:16],
    }
    yield '<dl class="facts">'
    for term, fact in facts.items():
        yield f"<div><dt>{term}</dt><dd>{_text(fact)}</dd></div>"
    yield "</dl></header>"


def _rulings(outcome: Outcome) -> Iterator[str]:
    yield "<section><h2>May they share a collection?</h2>"
    yield (
        '<p class="lead">The bundle\'s vectors against those that open_clip computes in torch with '
        "either activation. In the searches every other stored vector is ours, and so are the "
        "queries.</p>"
    )
    ways = groupby(outcome.record.rulings, lambda ruling: (ruling.way, ruling.is_served))
    for (way, is_served), rulings in ways:
        note = "" if is_served else "the graphs alone: workers never compute so"
        yield f'<h3>{_text(way)} <span class="note">{note}</span></h3><div class="cards">'
        for ruling in rulings:
            yield from _card(ruling)
        yield "</div>"
    yield "</section>"


def _card(ruling: Ruling) -> Iterator[str]:
    answer, colour = ("Yes", "good") if ruling.may_share else ("No", "bad")
    yield f'<article class="card"><p class="answer"><span class="{colour}">{answer}</span>, '
    yield f"with {WORDS[ruling.activation]}</p>"
    made_by = f"<code>{_text(ruling.made_by)}</code>" if ruling.made_by else "no call makes these"
    yield f'<p class="of faint">{made_by}</p><ul>'
    for finding in ruling.findings:
        stage = finding.stage.partition(",")[0]
        colour = "number" if finding.passed else "number bad"
        yield (
            f"<li><span>{_text(stage)}: {finding.measure}</span>"
            f'<span class="{colour}">{shown(finding)}</span></li>'
        )
    nearer = "these" if ruling.is_nearest else "the other activation"
    colour = "" if ruling.is_nearest else "bad"
    yield f'<li><span>nearer to</span><span class="{colour}">{nearer}</span></li></ul></article>'


def _stages(outcome: Outcome) -> Iterator[str]:
    yield "<section><h2>Stages</h2>"
    yield (
        '<p class="lead">In the order of the data; each is fed with open_clip\'s own input, so '
        "that the first that strays is the culprit. The dot shows how much of what is allowed was "
        "used, from a ten-thousandth at the left to all of it at the dashed line.</p>"
    )
    yield '<table class="stages"><thead><tr><th></th><th>stage</th><th class="number">figure</th>'
    yield '<th class="number">allowed</th><th>used of it</th></tr></thead><tbody>'
    for finding in outcome.record.findings:
        mark, colour = ("✓", "good") if finding.passed else ("✗", "bad")
        sign = "≥" if finding.measure in AT_LEAST else "≤"
        why = "" if finding.passed or not finding.note else finding.note
        yield (
            f'<tr><td class="mark {colour}">{mark}</td><td>{_text(finding.stage)}: '
            f'<span class="faint">{finding.measure}</span>'
            f"{f'<span class=why>{_text(why)}</span>' if why else ''}</td>"
            f'<td class="number">{shown(finding)}</td>'
            f'<td class="number allowed">{sign} {finding.threshold:g}</td>'
            f'<td class="track">{_track(finding)}</td></tr>'
        )
    yield "</tbody></table></section>"


def _track(finding: Finding) -> str:
    if finding.threshold == 0:
        return ""
    share = used(finding)
    return plots.track(share, f"{share:.2%} of what is allowed")


def used(finding: Finding) -> float:
    """The share of what is allowed that a figure used: 0 nothing, 1 all of it, more: strayed."""
    if finding.measure == "times nearer":
        return finding.threshold / finding.figure if finding.figure else math.inf
    if finding.measure in AT_LEAST:  # all of these are at best 1
        spare = 1 - finding.threshold
        lost = max(1 - finding.figure, 0.0)
        return lost / spare if spare else (math.inf if lost else 0.0)
    return finding.figure / finding.threshold if finding.threshold else math.inf


def shown(finding: Finding) -> str:
    """A figure as people read it, in HTML."""
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
        return f"{figure:,.0f} &times;" if figure >= 10 else f"{figure:.2f} &times;"
    if measure == "lowest cosine" and figure > 1 - 1e-4:
        return f"1 &minus; {max(1 - figure, 0.0):.1e}"
    return f"{figure:.5f}" if measure in AT_LEAST else f"{figure:.1e}"


def _wrong_crops(outcome: Outcome) -> Iterator[str]:
    wrong = outcome.record.wrong_crops
    if not wrong:
        return
    yield (
        f"<section><h2>Crops that differ</h2><p class=lead>{len(wrong)} of "
        f'{len(outcome.pictures)}; ours left, open_clip\'s right.</p><div class="shots">'
    )
    for crop in wrong[:12]:
        ours = _image(crop.ours, "ours") if crop.ours is not None else "<span>refused</span>"
        yield (
            f'<figure><div class="pair">{ours}{_image(crop.theirs, "open_clip&#39;s")}</div>'
            f"<figcaption>{_text(str(crop))}</figcaption></figure>"
        )
    yield "</div></section>"


def _spreads(outcome: Outcome) -> Iterator[str]:
    yield "<section><h2>How far each vector is off</h2>"
    yield (
        '<p class="lead">Of each picture and text, the largest difference of any component of its '
        'unit vector from open_clip\'s. One axis for all.</p><div class="cards">'
    )
    for spread in outcome.record.spreads:
        what = "pictures" if spread.tower == "image" else "texts"
        facts = spread.as_json(outcome.names(spread.tower))
        middle, largest = facts["median"], facts["largest"]
        figures = "no vectors" if middle is None else f"median {middle:.1e}, largest {largest:.1e}"
        count = f"{facts['rows']} {what}"
        lost = facts["without_a_vector"]
        missing = f", <span class=bad>{lost} without a vector</span>" if lost else ""
        label = f"{spread.stage}: {figures}"
        yield (
            f'<figure class="card"><figcaption>{_text(spread.stage)} '
            f'<span class="faint">{count}, {figures}{missing}</span></figcaption>'
            f"{plots.histogram(spread.differences, spread.threshold, label)}</figure>"
        )
    yield "</div></section>"


def _worst(outcome: Outcome) -> Iterator[str]:
    yield "<section><h2>The worst of them</h2>"
    yield '<p class="lead">Where to look first when a figure grows, also if all passed.</p>'
    for spread in _last_of_each_way(outcome.record.spreads):
        yield f"<h3>{_text(spread.stage)}</h3>"
        if spread.tower == "image":
            yield '<div class="shots">'
            for row in spread.worst:
                yield (
                    f"<figure>{_image(outcome.crops[row], outcome.pictures[row])}<figcaption>"
                    f"{_text(outcome.pictures[row])}<br>{_difference(spread, row)}"
                    "</figcaption></figure>"
                )
            yield "</div>"
        else:
            yield "<table><tbody>"
            for row in spread.worst:
                yield (
                    f'<tr><td class="text" dir="auto">{_text(_shortened(outcome.texts[row]))}</td>'
                    f'<td class="number">{_difference(spread, row)}</td></tr>'
                )
            yield "</tbody></table>"
    yield "</section>"


def _last_of_each_way(spreads: Iterable[Spread]) -> Iterator[Spread]:
    """Of each way and tower the stage nearest to the user: end to end, where there is one."""
    yield from {(spread.tower, spread.way): spread for spread in spreads}.values()


def _difference(spread: Spread, row: int) -> str:
    value = spread.differences[row]
    return f"{value:.1e}" if math.isfinite(value) else '<span class="bad">no vector</span>'


def _footer(outcome: Outcome) -> Iterator[str]:
    yield "<footer>"
    if outcome.absent:
        yield "<h3>Not measured here</h3><ul>"
        for name, reason in outcome.absent.items():
            yield f"<li>{_text(name)}: {_text(reason)}</li>"
        yield "</ul>"
    made = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    yield (
        "<h3>How it was measured</h3><p>Thresholds and the measurements behind them stand in "
        "<code>warmclip_export/parity/bounds.py</code>. Figures for every stage, and quantiles "
        "with the worst rows by name, are in the JSON beside this page.</p>"
        f"<p>{_text(made)}. Fingerprint <code>{outcome.fingerprint}</code></p></footer>"
    )


def _image(crop: Crop, name: str) -> str:
    """A crop as a picture inside the page."""
    picture = Image.fromarray(crop)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "PNG" if max(picture.size) <= 64 else "JPEG", quality=85)
    kind = "png" if max(picture.size) <= 64 else "jpeg"
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="{_text(name)}" src="data:image/{kind};base64,{data}">'


def _shortened(text: str) -> str:
    return (text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}…") or "(empty)"


def _text(text: str) -> str:
    """A text as it can stand in a page: nothing in it is markup, or invisible."""
    return escape("".join(char if char.isprintable() else ascii(char)[1:-1] for char in text))
