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


@pytest.mark.parametrize(
    ("model", "image", "text", "peak"),
    [
        ("MobileCLIP2-S2", 0.14, 0.26, 4.0),
        ("EVA02-B-16", 0.345, 0.254, 4.8),
        ("convnext_base_w", 0.353, 0.364, 6.8),
        ("xlm-roberta-base-ViT-B-32", 0.352, 1.112, 10.4),
        ("ViT-B-16-SigLIP2-256", 0.372, 1.129, 10.6),
    ],
)
def test_memory_is_about_what_was_measured(
    model: str, image: float, text: float, peak: float
) -> None:
    """An export that is not warned of fits: of what was measured, none took more.

    The peaks are those of docs/reference/coverage.md, and the weights of both towers together are
    the sizes of the checkpoints, in GB.
    """
    weights: dict[Tower, int] = {"image": int(image * 1e9), "text": int(text * 1e9)}

    assert peak <= estimate_memory(weights) / 1e9 <= peak * 1.34, model


def test_unknown_weights_take_an_unknown_amount() -> None:
    """A text tower whose configuration is not here says nothing, and warns of nothing."""
    assert estimate_memory({}) == 0
    assert memory_warning(estimate_memory({}), 1) == ""
