"""The summary as one picture: bars beside each other, in SVG that suits light and dark pages."""

from collections.abc import Sequence
from html import escape

from bench.embedding.contenders import CONTENDERS, GEMM, WARM
from bench.embedding.results import Results
from bench.spread import Spread, short

_PANEL_WIDTH = 440
_NAME_WIDTH = 190
_BAR_WIDTH = 150
_ROW = 19
_HEAD = 30
_GAP = 22
_COLUMNS = 2
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600 } .bar { fill: #afb8c1 } .ours { fill: #0969da }
  .bound { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 }
  .range { stroke: #1f2328; stroke-width: 1.2 } .page { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .bar { fill: #484f58 } .ours { fill: #4493f8 }
    .range { stroke: #e6edf3 } .page { fill: #0d1117 }
  }
"""


def draw_plot(results: Results, panels: Sequence[tuple[str, str, str]]) -> str:
    """One panel for each (case, column, heading) that was measured.

    A bar is the median, the line across its end the lowest and highest round; ours are coloured.
    """
    drawn = []
    x, y, tallest = 0, 0, 0
    measured = [it for it in panels if _rows(results, it[0], it[1])]
    for number, (case, column, heading) in enumerate(measured):
        if number and number % _COLUMNS == 0:
            y += tallest + _GAP
            tallest = 0
        x = number % _COLUMNS * _PANEL_WIDTH
        rows = _rows(results, case, column)
        is_rate = results.cases[case].is_rate(column)
        marks, height = _panel(heading, "more is better" if is_rate else "less is better", rows)
        drawn.append(f'<g transform="translate({x + 12} {y + 12})">{"".join(marks)}</g>')
        tallest = max(tallest, height)
    width, height = _COLUMNS * _PANEL_WIDTH + 12, y + tallest + 18
    label = escape("; ".join(heading for _, _, heading in measured))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{label}">'
        f'<style>{_STYLE}</style><rect class="page" width="{width}" height="{height}"/>'
        f"{''.join(drawn)}</svg>\n"
    )


def _rows(results: Results, case: str, column: str) -> list[tuple[str, Spread, str]]:
    """Name, figure, and how it compares; in the order of the tables."""
    if case not in results.cases:
        return []
    rows = []
    for name in CONTENDERS:
        spread = results.spread(case, column, name)
        if spread is None:
            continue
        times = results.in_brackets(case, column, name)
        rows.append((name, spread, f"{times.median:.1f}x" if times else ""))
    return rows


def _panel(
    heading: str, better: str, rows: Sequence[tuple[str, Spread, str]]
) -> tuple[list[str], int]:
    longest = max(spread.highest for _, spread, _ in rows)
    marks = [f'<text class="head" y="12">{escape(heading)}</text>']
    marks.append(f'<text x="{_PANEL_WIDTH - 34}" y="12" text-anchor="end">{better}</text>')
    for number, (name, spread, times) in enumerate(rows):
        top = _HEAD + number * _ROW - 8
        middle = top + 6.5

        def place(figure: float) -> float:
            return _NAME_WIDTH + _BAR_WIDTH * figure / longest

        kind = "ours" if name.startswith(WARM) else "bound" if name == GEMM else "bar"
        title = f"{name}: {spread}"
        figure = " ".join(filter(None, (short(spread.median), times and f"({times})")))
        marks += [
            f'<text x="{_NAME_WIDTH - 6}" y="{top + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{_NAME_WIDTH}" y="{top}" height="13" '
            f'width="{place(spread.median) - _NAME_WIDTH:.1f}" rx="2">'
            f"<title>{escape(title)}</title></rect>",
            f'<line class="range" x1="{place(spread.lowest):.1f}" x2="{place(spread.highest):.1f}" '
            f'y1="{middle}" y2="{middle}"/>',
            f'<text x="{place(spread.highest) + 6:.1f}" y="{top + 11}">{figure}</text>',
        ]
    return marks, _HEAD + len(rows) * _ROW
