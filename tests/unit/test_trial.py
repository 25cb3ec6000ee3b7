"""What a trial finds of a provider: on real sessions, and with a clock that is set."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from standins.trials import COREML
from warmclip.fsutil import private_folder
from warmclip.inference.arrays import Features, Pixels
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.ort.placement import Placement
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU
from warmclip.inference.selection import trial as trials
from warmclip.inference.selection.golden import Golden
from warmclip.inference.selection.trial import BATCHES, Trial, _compare, _misplaced, try_provider
from warmclip.inference.selection.trial_process import run_trial


@pytest.mark.parametrize(
    ("placement", "takes_all", "fault"),
    [
        (None, True, ""),
        (Placement(partitions=1, cpu_nodes=0), True, ""),
        (Placement(partitions=2, cpu_nodes=0), True, "in 2 pieces and leaves 0 nodes"),
        (Placement(partitions=0, cpu_nodes=0), True, "in 0 pieces"),
        (Placement(partitions=1, cpu_nodes=1), True, "in 1 pieces and leaves 1 nodes"),
        (Placement(partitions=2, cpu_nodes=5), False, ""),
    ],
)
def test_graph_in_pieces(placement: Placement | None, takes_all: bool, fault: str) -> None:
    """A provider that takes all of a graph must get it as one."""
    found = _misplaced(replace(COREML, takes_all=takes_all), placement)
    assert bool(found) == bool(fault)
    assert fault in (found or "")


class Turning:
    """Onnxruntime's session, which turns the last row of one batch away from what it should be."""

    def __init__(self, session: Any, wrong: int, ran: list[Pixels]) -> None:
        self._session = session
        self._wrong = wrong
        self._ran = ran

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str], feeds: dict[str, Pixels], *options: Any) -> list[Features]:
        """One batch."""
        pixels = feeds["pixel_values"]
        self._ran.append(pixels)
        (features,) = self._session.run(names, feeds, *options)
        if len(pixels) == self._wrong:
            features[-1] = np.roll(features[-1], 1) * 1.5
        return [features]


@pytest.mark.parametrize(
    ("buckets", "wrong"),
    [
        *(((), batch) for batch in (0, *BATCHES)),
        *(((1, 4, 64), batch) for batch in (0, 1, 4, 64)),
    ],
)
def test_worst_row_at_any_batch_decides(
    bundle: ModelBundle, buckets: tuple[int, ...], wrong: int
) -> None:
    """Shapes that are compiled each for themselves are each compared, at every golden row."""
    ran: list[Pixels] = []
    provider = replace(CPU, buckets=buckets, around=lambda inner: Turning(inner, wrong, ran))
    session = OnnxSession(bundle.graph("image", "fp32"), provider)
    golden = Golden(bundle)
    found = _compare(session, golden, "image")
    for batch in buckets or BATCHES:
        rows = {row.tobytes() for pixels in ran if len(pixels) == batch for row in pixels}
        assert len(rows) == golden.rows("image")
    if wrong:
        assert found.cosine < 0.9
        assert found.max_abs > 0.1
        assert found.norm == pytest.approx(0.5, abs=1e-3)
    else:
        assert (found.cosine, found.max_abs, found.norm) == pytest.approx((1, 0, 0), abs=1e-5)


def test_cpu_is_tried(bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes, with all its figures; it is said what is done, in this order."""
    monkeypatch.setattr(trials, "_SECONDS", 0.0)
    home = private_folder(tmp_path / "home", private=False)
    stages: list[str] = []
    found = try_provider(bundle, CPU, "text", home=home, threads=1, stage=stages.append)
    assert found.passed, found.reason
    assert (found.provider, found.tower, found.died) == ("cpu", "text", False)
    assert found.cosine == pytest.approx(1, abs=1e-4)
    assert set(found.images_per_s) == set(BATCHES)
    assert min(found.images_per_s.values()) > 0
    assert found.peak_rss_mb is not None
    assert found.load_s is not None
    assert found.peak_rss_mb > 0
    assert 0 < found.load_s < 60
    assert stages == [
        "reading the bundle",
        "loading",
        "computing golden vectors",
        *(f"timing batches of {batch}" for batch in BATCHES),
    ]
    assert Trial.from_dict(found.to_dict()) == found


def test_trial_in_a_process_of_its_own(bundle: ModelBundle, tmp_path: Path) -> None:
    """It answers as if it were ours, and says what it cannot read."""
    home = private_folder(tmp_path / "home", private=False)

    def run(tried: ModelBundle) -> Trial:
        return run_trial(
            tried, CPU, "text", home=home, threads=1, deadline_s=120, waiting=lambda: None
        )

    found = run(bundle)
    assert found.passed, found.reason
    assert set(found.images_per_s) == set(BATCHES)
    broken = Path(shutil.copytree(bundle.folder, tmp_path / "broken"))
    opened = ModelBundle.open(broken)
    (broken / "manifest.json").write_text("{}")
    found = run(opened)
    assert (found.passed, found.died) == (False, True)
    assert "exit code 2" in found.reason
    assert str(broken) in found.reason


_FULL_DISK = """
from warmclip.errors import CacheUnusable
from warmclip.inference.selection import trial

def full(*_, **__):
    print("what a library says", flush=True)
    raise CacheUnusable("the disk is full")

trial.try_provider = full
trial.main()
"""


def test_trial_whose_process_finds_no_room(bundle: ModelBundle, tmp_path: Path) -> None:
    """It ends well, and its answer is that alone: no provider is blamed for a full disk."""
    request = {
        "bundle": str(bundle.folder),
        "provider": "cpu",
        "tower": "text",
        "home": str(tmp_path),
        "threads": 1,
        "alarm_s": 120,
    }
    stdin, ours = os.pipe()  # somebody waits for the answer
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FULL_DISK, json.dumps(request)],
            stdin=stdin,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    finally:
        os.close(stdin)
        os.close(ours)
    assert (done.returncode, done.stdout) == (0, b'{"cache_unusable": "the disk is full"}\n')
    assert b"what a library says" in done.stderr


class Clock:
    """Runs that take as long as they are told to."""

    def __init__(self, runs_s: list[float]) -> None:
        self.now_s, self.runs_s, self.runs = 0.0, runs_s, 0

    def run(self, feeds: object) -> None:  # noqa: ARG002 - a session's
        """One run."""
        self.now_s += self.runs_s[min(self.runs, len(self.runs_s) - 1)]
        self.runs += 1


@pytest.mark.parametrize(
    ("runs_s", "rate", "runs"),
    [
        ([9.0, 2.0], 4, 4),  # slow: three, after one that warms and does not count
        ([9.0, 0.1, 0.1, 8.0], 80, 4),  # the median
        ([9.0, 0.25, 0.125], 64, 4),
        ([9.0, 3.0], 8 / 3, 4),
        ([9.0, 2**-4], 128, 8),  # as many as fit
        ([9.0, 2**-10], 8192, 22),  # and no more than twenty-one
    ],
)
def test_rate(
    bundle: ModelBundle,
    monkeypatch: pytest.MonkeyPatch,
    runs_s: list[float],
    rate: float,
    runs: int,
) -> None:
    """Rows a second, of a few runs."""
    clock = Clock(runs_s)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now_s)
    found = trials._rate(clock, Golden(bundle), "image", 8)  # type: ignore[arg-type]  # what it uses of one
    assert found == pytest.approx(rate)
    assert clock.runs == runs
