"""What the Apple tier does without a Mac: its table, its measures, and how it says no."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from apple import machine
from apple.measurement import finished, footprint_mb, growth, leave_witnesses, per_second
from apple.table import MEASURED, Row, markdown
from warmclip import Encoder
from warmclip.inference.ort.model_cache import COMPLETE, ModelCache


def _report(outcome: str, **more: object) -> pytest.TestReport:
    place = "tests/apple/test_x.py::test_warm_horse_computes[demo-coreml-fp16]"
    told = {"longrepr": None, "when": "call", "keywords": {}, **more}
    report = {"nodeid": place, "location": ("", 0, ""), "outcome": outcome, **told}
    return pytest.TestReport(**report)  # type: ignore[arg-type]  # it is made of a dictionary


def test_table_shows_every_outcome_with_its_figures_and_reason() -> None:
    """Markdown that no figure breaks: the machine, then what was measured, passed or why not."""
    passed = _report("passed", user_properties=[(MEASURED, "load 1 s"), (MEASURED, "cosine 1")])
    skipped = _report("skipped", longrepr=("f", 1, "Skipped: no a|b\nhere"))
    failed = _report("failed", longrepr="x" * 1000, user_properties=[("other", "hidden")])

    text = markdown([Row.of(it) for it in (passed, skipped, failed)], "Apple M9, macOS 99")

    what = "warm horse computes (demo-coreml-fp16)"
    assert text.splitlines()[:6] == [
        "Apple M9, macOS 99",
        "",
        "| what | measured | outcome |",
        "|---|---|---|",
        f"| {what} | load 1 s; cosine 1 | passed |",
        f"| {what} |  | skipped: no a\\|b here |",
    ]
    assert text.splitlines()[6].startswith(f"| {what} |  | **failed**: xxx")
    assert len(text.splitlines()[6]) < 300


_BALLAST = "ballast = b'x' * (64 << 20); print('held', flush=True); input()"


def test_real_encoder_is_measured(demo_bundle: Path) -> None:
    """A rate is of rows, and memory of a process that holds something."""
    encoder = Encoder.open(demo_bundle, provider="cpu")
    square = Image.new("RGB", (64, 64))
    assert per_second(lambda: encoder.encode_images([square] * 8), rows=8, runs=2) > 0
    with subprocess.Popen(
        [sys.executable, "-c", _BALLAST], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert 64 < footprint_mb(process.pid) < 200
        process.communicate(b"\n")
    assert growth([200.0, 190.0, 230.0, 210.0]) == pytest.approx(0.15)


def test_witness_tells_a_load_from_a_build(tmp_path: Path) -> None:
    """It stays while a compiled model is loaded, and goes when one is built again."""
    cache = ModelCache(tmp_path)
    for identity in ({"batch": 1}, {"batch": 8}):
        cache.load(identity, lambda folder: (folder / "model").touch())
    first, second = leave_witnesses(cache.folder)
    assert len(finished(cache.folder)) == 2

    (second.parent / COMPLETE).unlink()  # as a killed build leaves it
    for identity in ({"batch": 1}, {"batch": 8}):
        cache.load(identity, lambda folder: (folder / "model").touch())

    assert (first.exists(), second.exists()) == (True, False)


def test_missing_piece_fails_in_ci_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's Mac without a package skips with the reason; the workflow's must have it."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no torch"):
        machine.missing("no torch")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have it: no torch"):
        machine.missing("no torch")


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (
            "warning: x\nTraceback (most recent call last):\n  File a, line 1\n    f()\n"
            "NotImplementedError: Could not run it on MPS.\n\nCPU: registered at y\n",
            "NotImplementedError: Could not run it on MPS.",
        ),
        ("objc: one\n-[MTLDevice] assertion failed\n", "-[MTLDevice] assertion failed"),
        ("x" * 201, "x" * 199 + "…"),
        ("", ""),
    ],
)
def test_reason_is_the_exception(stderr: str, told: str) -> None:
    """Of torch's page about a backend that it lacks, the line that says so."""
    assert machine.raised(stderr) == told


@pytest.mark.skipif(machine.IS_APPLE_SILICON or machine.IS_REHEARSAL, reason="the tier runs here")
def test_tier_says_why_it_does_not_run_here() -> None:
    """The reason names this machine, and what would do."""
    said = machine.why_not()
    assert said is not None
    assert "needs macOS on Apple Silicon" in said
