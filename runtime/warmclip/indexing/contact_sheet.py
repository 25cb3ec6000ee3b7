"""Contact sheets: what searches found, drawn into one picture."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import locate_file, read_picture
from warmclip.indexing.roots import Roots
from warmclip.inference.image import UNDECODABLE, open_image
from warmclip.inference.reading import FileReader
from warmclip.settings import Limits, Root
from warmclip.store.protocol import Hit

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom, px."""

_CELL_PX = 208
_GAP_PX = 20
_MARGIN_PX = 32
_HEADING_PX = 56
_CAPTION_PX = 52
_NOTHING_PX = 44

# With names as Pillow finds them in the system's folders: macOS, then Linux.
_FONTS = (
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
)

_PAPER = (252, 252, 250)
_PANEL = (238, 238, 234)
_INK = (34, 34, 34)
_FAINT = (120, 120, 116)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetSection:
    """One question and its answers, a row or more of the sheet."""

    heading: str
    hits: Sequence[Hit]


def draw_contact_sheet(
    searches: Sequence[SheetSection],
    *,
    columns: int = 5,
    roots: Sequence[Root] = (),
    limits: Limits | None = None,
) -> Image.Image:
    """Draw thumbnails with their scores and names, one block per search, RGB.

    A picture that can no longer be read leaves a cell that says why. Orientation tags are obeyed,
    which the embedding may ignore.
    """
    if columns < 1:
        raise ValueError(f"columns={columns}: a sheet has at least one")
    width = 2 * _MARGIN_PX + columns * (_CELL_PX + _GAP_PX) - _GAP_PX
    height = 2 * _MARGIN_PX - _GAP_PX + sum(_height(search, columns) for search in searches)
    sheet = Image.new("RGB", (width, max(height, 2 * _MARGIN_PX)), _PAPER)
    pen = _Pen(sheet, Roots(roots), limits or Limits())
    top = _MARGIN_PX
    for search in searches:
        pen.draw_heading(search.heading, top, width - 2 * _MARGIN_PX)
        for box, hit in zip(_boxes(top + _HEADING_PX, columns), search.hits, strict=False):
            pen.draw_hit(hit, box)
        if not search.hits:
            pen.draw_nothing(top + _HEADING_PX)
        top += _height(search, columns)
    return sheet


def shorten(text: str, font: Font, width_px: int) -> str:
    """The text, or its two ends around "…", whichever fits the width."""
    if font.getlength(text) <= width_px:
        return text
    kept = len(text) - 1
    while kept > 1 and font.getlength(_elided(text, kept)) > width_px:
        kept -= 1
    return _elided(text, kept)


def readable_name(path: str) -> str:
    """A file's name as it can be drawn or printed, whatever its bytes are."""
    name = os.fsencode(path).rpartition(b"/")[2].decode("utf-8", "replace")
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )


class _Pen:
    def __init__(self, sheet: Image.Image, roots: Roots, limits: Limits) -> None:
        self._sheet = sheet
        self._draw = ImageDraw.Draw(sheet)
        self._roots = roots
        self._limits = limits
        self._reader = FileReader(limits)
        self._large = _font(26)
        self._middle = _font(18)
        self._small = _font(14)

    def draw_heading(self, text: str, top: int, width_px: int) -> None:
        line = shorten(" ".join(text.split()), self._large, width_px)
        self._draw.text((_MARGIN_PX, top), line, fill=_INK, font=self._large)

    def draw_nothing(self, top: int) -> None:
        self._draw.text((_MARGIN_PX, top), "nothing found", fill=_FAINT, font=self._middle)

    def draw_hit(self, hit: Hit, box: Box) -> None:
        left, top, right, bottom = box
        self._draw.rounded_rectangle(box, radius=6, fill=_PANEL)
        try:
            thumbnail = self._thumbnail(hit.payload.path)
        except ImageUnreadable as exc:
            self._draw_reason(str(exc), box)
        else:
            x = left + (right - left - thumbnail.width) // 2
            y = top + (bottom - top - thumbnail.height) // 2
            self._sheet.paste(thumbnail, (x, y), thumbnail)
        name = shorten(readable_name(hit.payload.path), self._small, right - left)
        self._draw.text((left, bottom + 6), f"{hit.score:.3f}", fill=_INK, font=self._middle)
        self._draw.text((left, bottom + 28), name, fill=_FAINT, font=self._small)

    def _draw_reason(self, reason: str, box: Box) -> None:
        left, top, right, bottom = box
        self._draw.line((left + 12, top + 12, left + 28, top + 28), fill=_FAINT, width=2)
        self._draw.line((left + 28, top + 12, left + 12, top + 28), fill=_FAINT, width=2)
        lines = _wrap(reason, self._small, right - left - 24)
        most = (bottom - top - 60) // 18
        text = "\n".join(lines[:most])
        self._draw.multiline_text(
            (left + 12, top + 42), text, fill=_FAINT, font=self._small, spacing=4
        )

    def _thumbnail(self, path: str) -> Image.Image:
        """The picture, at most a cell large; RGBA, so that what it lets through shows the panel.

        What is left of a picture that was cut off is drawn, as in thumbnails.
        """
        content = self._reader.read(partial(self._read, path))
        picture = open_image(content, self._limits, load_truncated=True)
        try:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith(("I", "F")):  # 16 bits and floats: spread over what eyes see
                picture = _stretch(picture)
            return ImageOps.contain(picture.convert("RGBA"), (_CELL_PX, _CELL_PX))
        except UNDECODABLE as exc:
            raise ImageUnreadable(f"cannot be drawn: {exc}") from exc

    def _read(self, path: str) -> bytes:
        return read_picture(locate_file(path, self._roots), self._roots, self._limits)[1]


def _font(size_px: int) -> Font:
    """The widest font that this machine has; Pillow's own knows no letter beyond ASCII."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return ImageFont.load_default(size_px)


def _stretch(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture, np.float32)
    low, span = levels.min(), max(float(np.ptp(levels)), 1e-6)
    return Image.fromarray(((levels - low) * (255 / span)).astype(np.uint8))


def _height(search: SheetSection, columns: int) -> int:
    if not search.hits:
        return _HEADING_PX + _NOTHING_PX
    rows = -(-len(search.hits) // columns)
    return _HEADING_PX + rows * (_CELL_PX + _CAPTION_PX + _GAP_PX)


def _boxes(top: int, columns: int) -> Iterator[Box]:
    """Cells from left to right, row under row, without end."""
    while True:
        for column in range(columns):
            left = _MARGIN_PX + column * (_CELL_PX + _GAP_PX)
            yield left, top, left + _CELL_PX, top + _CELL_PX
        top += _CELL_PX + _CAPTION_PX + _GAP_PX


def _elided(text: str, kept: int) -> str:
    # The end of a file's name tells more than its middle.
    head = (kept + 1) // 2
    return f"{text[:head]}…{text[len(text) - (kept - head) :]}"


def _wrap(text: str, font: Font, width_px: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width_px:
            lines[-1] = joined
        else:
            lines.append(shorten(word, font, width_px))
    return lines
