"""The memory of an export, as it is said before one begins."""

from pathlib import Path

import pytest

from warmclip.inference.bundle import Tower
from warmclip_export.memory import estimate_memory, find_memory, memory_warning


def test_linux_tells_what_can_be_had(tmp_path: Path) -> None:
    """What holds files that can be read again counts as free, as the kernel says it."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    4000 kB\n")

    assert find_memory(meminfo) == 4000 * 1024


def test_other_systems_tell_what_there_is(tmp_path: Path) -> None:
    """Without the kernel's figure, all memory is the most that there can be."""
    found = find_memory(tmp_path / "meminfo")

    assert found is not None
    assert found > 2**28


@pytest.mark.parametrize("there", [9_000_000_000, None])
def test_export_that_fits_is_not_warned_of(there: int | None) -> None:
    """Neither where there is enough, nor where nobody knows."""
    assert memory_warning(8_800_000_000, there) == ""


def test_export_that_may_not_fit_is_warned_of() -> None:
    """Both figures are there, so that a person can close something or take another machine."""
    said = memory_warning(8_800_000_000, 4_100_000_000)

    assert "about 8.8 GB" in said
    assert "4.1 GB" in said


@pytest.mark.parametrize(("image", "text", "gigabytes"), [(0.35, 0.25, 5.5), (0.0, 1.5, 10.0)])
def test_memory_is_about_what_was_measured(image: float, text: float, gigabytes: float) -> None:
    """EVA02-B-16 and ViT-B-16-SigLIP2-256, as docs/reference/coverage.md has them."""
    weights: dict[Tower, int] = {"image": int(image * 1e9), "text": int(text * 1e9)}

    assert estimate_memory(weights) == pytest.approx(gigabytes * 1e9, rel=0.01)


def test_unknown_weights_take_an_unknown_amount() -> None:
    """A text tower whose configuration is not here says nothing, and warns of nothing."""
    assert estimate_memory({}) == 0
    assert memory_warning(estimate_memory({}), 1) == ""
