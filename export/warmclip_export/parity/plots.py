"""Small pictures for the report, as SVG that takes its colours from the page."""

import math

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

# One axis for every histogram, so that they can be compared: ten powers of ten.
_LOW, _HIGH = -10, 0
_BINS_A_DECADE = 5
_WIDTH, _HEIGHT, _LEFT, _BASE = 460, 150, 8, 122

_TRACK_LOW, _TRACK_HIGH = -4, 1


def histogram(values: npt.NDArray[np.float64], threshold: float, label: str) -> Markup:
    """How often each size of error was met, on a logarithmic axis, with the threshold as a line.

    Args:
        values: not negative; zeros and what is smaller than the axis stand in the first bar.
        threshold: where the line is drawn.
        label: what a screen reader says.
    """
    finite = values[np.isfinite(values)]
    logs = np.log10(np.clip(finite, 10.0**_LOW, 10.0**_HIGH))
    bins = (_HIGH - _LOW) * _BINS_A_DECADE
    counts, edges = np.histogram(logs, bins=bins, range=(_LOW, _HIGH))
    tallest = max(int(counts.max(initial=0)), 1)
    limit = math.log10(threshold)
    marks = [_limit_line(limit)]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            height = max(88 * count / tallest, 2)
            x, width = _x(left) + 0.75, _x(right) - _x(left) - 1.5
            name = "over" if left >= limit - 1e-9 else "bar"
            marks.append(
                f'<rect class="{name}" x="{x:.1f}" y="{_BASE - height:.1f}" '
                f'width="{width:.1f}" height="{height:.1f}" rx="1.5"><title>{count} between '
                f"{10**left:.1e} and {10**right:.1e}</title></rect>"
            )
    marks.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{_BASE}" y2="{_BASE}"/>'
    )
    for power in range(_LOW, _HIGH + 1, 2):
        word = "0" if power == _LOW else ("1" if power == 0 else f"1e{power}")
        anchor = {_LOW: "start", _HIGH: "end"}.get(power, "middle")
        marks.append(
            f'<text x="{_x(power):.1f}" y="{_BASE + 17}" text-anchor="{anchor}">{word}</text>'
        )
    return _svg(_WIDTH, _HEIGHT, label, marks)


def track(used: float, label: str) -> Markup:
    """How much of what is allowed was used: a dot on a logarithmic track, 1 where it ends.

    Args:
        used: the share; 0 stands at the left end, and what is not finite at the right.
        label: what a screen reader says.
    """
    low, high = 10.0**_TRACK_LOW, 10.0**_TRACK_HIGH
    place = math.log10(min(max(used, low), high)) if math.isfinite(used) else _TRACK_HIGH
    share = (place - _TRACK_LOW) / (_TRACK_HIGH - _TRACK_LOW)
    end = 4 + 192 * -_TRACK_LOW / (_TRACK_HIGH - _TRACK_LOW)
    name = "dot" if used <= 1 else "dot over"
    marks = [
        '<line class="axis" x1="4" x2="196" y1="10" y2="10" stroke-width="3"/>',
        f'<line class="limit" x1="{end:.1f}" x2="{end:.1f}" y1="2" y2="18"/>',
        f'<circle class="{name}" cx="{4 + 192 * share:.1f}" cy="10" r="4.5"/>',
    ]
    return _svg(200, 20, label, marks)


def _limit_line(limit: float) -> str:
    x = _x(min(max(limit, _LOW), _HIGH))
    return (
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="{_BASE}"/>'
        f'<text class="limit-word" x="{x:.1f}" y="11" text-anchor="middle">allowed</text>'
    )


def _x(power: float) -> float:
    return _LEFT + (_WIDTH - 2 * _LEFT) * (power - _LOW) / (_HIGH - _LOW)


def _svg(width: int, height: int, label: str, marks: list[str]) -> Markup:
    return Markup(  # noqa: S704 - numbers and our own names; the label is escaped
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(marks)}</svg>"
    )
