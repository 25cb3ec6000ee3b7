"""The contact sheet, looked at by pixels."""

import os
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from standins.points import hit
from warmclip.indexing.contact_sheet import SheetSection, draw_contact_sheet, readable_name, shorten
from warmclip.settings import Root


def draw(path: Path, colour: str, size: tuple[int, int] = (300, 200), mode: str = "RGB") -> Path:
    """A picture of one colour."""
    Image.new(mode, size, colour).save(path)
    return path


def colours(sheet: Image.Image) -> set[tuple[int, ...]]:
    """The colours of any area worth the name."""
    counted = sheet.getcolors(maxcolors=sheet.width * sheet.height)
    assert counted is not None
    return {colour for count, colour in counted if isinstance(colour, tuple) and count > 500}


def test_pictures_found(tmp_path: Path) -> None:
    """Each is on the sheet, in its own colour."""
    hits = [hit(draw(tmp_path / f"{name}.png", name)) for name in ("red", "lime", "blue")]
    shown = colours(draw_contact_sheet([SheetSection(heading="colours", hits=hits)]))
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= shown


def test_several_searches(tmp_path: Path) -> None:
    """They are stacked: the first one's pictures lie above the second one's."""
    red, blue = draw(tmp_path / "r.png", "red"), draw(tmp_path / "b.png", "blue")
    sheet = draw_contact_sheet(
        [
            SheetSection(heading="warm", hits=[hit(red)] * 3),
            SheetSection(heading="cold", hits=[hit(blue)]),
        ],
        columns=2,
    )
    rows_of = {
        colour: [y for y in range(sheet.height) if colour in _row(sheet, y)]
        for colour in ((255, 0, 0), (0, 0, 255))
    }
    assert max(rows_of[255, 0, 0]) < min(rows_of[0, 0, 255])


def _row(sheet: Image.Image, y: int) -> set[object]:
    strip = sheet.crop((0, y, sheet.width, y + 1))
    return {colour for _, colour in strip.getcolors(sheet.width) or []}


def test_picture_that_is_gone(tmp_path: Path) -> None:
    """Its cell stays, with a reason in it, and its neighbours are drawn."""
    kept = hit(draw(tmp_path / "a.png", "red"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    search = SheetSection(heading="x", hits=[hit(tmp_path / "gone.png"), hit(broken), kept])
    sheet = draw_contact_sheet([search])
    assert (255, 0, 0) in colours(sheet)
    empty = draw_contact_sheet([SheetSection(heading="x", hits=[hit(tmp_path / "gone.png")] * 3)])
    assert sheet.size == empty.size


def test_picture_that_was_cut_off(tmp_path: Path) -> None:
    """What is left of it is drawn, as some models see it."""
    cut = draw(tmp_path / "a.bmp", "red")
    cut.write_bytes(cut.read_bytes()[:100_000])
    sheet = draw_contact_sheet([SheetSection(heading="x", hits=[hit(cut)])])
    assert (255, 0, 0) in colours(sheet)


def test_picture_outside_the_roots(tmp_path: Path) -> None:
    """It is not shown: a sheet reads no more than a worker may."""
    search = SheetSection(heading="x", hits=[hit(draw(tmp_path / "a.png", "red"))])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    sheet = draw_contact_sheet([search], roots=[Root(name="", folder=elsewhere)])
    assert (255, 0, 0) not in colours(sheet)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_picture_of_any_mode(tmp_path: Path, mode: str) -> None:
    """It is drawn without a warning or an error."""
    path = tmp_path / "a.tiff"
    Image.new(mode, (50, 40)).save(path)
    assert draw_contact_sheet([SheetSection(heading=mode, hits=[hit(path)])]).mode == "RGB"


def test_nothing_found() -> None:
    """There is a sheet all the same, for no hits and for no searches."""
    assert draw_contact_sheet([SheetSection(heading="x", hits=[])]).height > 0
    assert draw_contact_sheet([]).height > 0


def test_long_name() -> None:
    """It keeps its start and its end, and fits."""
    font = ImageFont.load_default(14)
    short = shorten("holiday-in-the-mountains-of-norway-0042.jpeg", font, 150)
    assert short.startswith("hol")
    assert short.endswith(".jpeg")
    assert font.getlength(short) <= 150
    assert shorten("a.jpeg", font, 150) == "a.jpeg"


def test_name_that_cannot_be_printed() -> None:
    """Bytes that are no text, and control characters, become a mark."""
    assert (
        readable_name(os.fsdecode(b"/x/caf\xe9\n.jpg"))
        == "caf\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}.jpg"
    )
