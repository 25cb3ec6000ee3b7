"""A provider that turns wrong while it indexes: what is stored, what is told, what is repaired."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from standins.faulty import environment
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings
from warmclip.store.open import open_store
from warmclip.store.protocol import Point
from warmclip_export import drawing

_LOADING = 1  # runs of a session that loading takes: the golden rows
_TRIAL = 15  # runs that a trial compares, at most; a fault that comes later passes it


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_bundle: Path) -> Path:
    """Small batches, and a canary every fourth."""
    home = tmp_path / "home"
    monkeypatch.setenv("WARMCLIP_HOME", str(home))
    monkeypatch.setenv("WARMCLIP_BUNDLE", str(demo_bundle))
    monkeypatch.setenv("WARMCLIP_BATCH_SIZE", "4")
    monkeypatch.setenv("WARMCLIP_CANARY_EVERY", "4")
    return home


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Drawn pictures that fill 25 batches."""
    drawing.write_gallery(tmp_path / "pictures", 100, seed=0)
    return tmp_path / "pictures"


def run(
    *arguments: str | Path, fault: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command, in a process that knows the faulty providers."""
    return subprocess.run(
        [sys.executable, "-m", "warmclip.cli", *map(str, arguments)],
        env=environment(fault, **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def stored(home: Path) -> list[Point]:
    """The collection, by path."""
    settings = Settings.from_env({"WARMCLIP_HOME": str(home)})
    with open_store(settings) as store:
        found = store.scroll("images", with_vectors=True)
        return sorted(found, key=lambda point: point.payload.path)


def differences(points: list[Point], bundle: Path) -> Any:
    """How far each stored vector is from the CPU's."""
    wanted = Encoder.open(bundle, provider="cpu").encode_images(
        [point.payload.path for point in points]
    )
    return np.abs(np.stack([point.vector for point in points]) - wanted).max(axis=1)  # type: ignore[misc]  # scrolled with vectors


def test_nothing_is_suspect_while_all_goes_well(home: Path, gallery: Path) -> None:
    """A provider that stays right leaves no mark, and the CPU never does."""
    assert run("index", gallery, fault="none").returncode == 0
    points = stored(home)
    assert {point.payload.provider for point in points} == {"faulty-none"}
    assert {point.payload.canary for point in points} == {""}
    done = run("audit", "--suspect")
    assert done.returncode == 0
    assert "no vector in 'images' is suspect" in done.stdout


def test_drift_is_found_listed_and_repaired(home: Path, gallery: Path, demo_bundle: Path) -> None:
    """Every wrong vector is among the suspects, and after the repair none is wrong."""
    # Batches 0 to 17 are right, 18 and 19 wrong; canaries ride on 16 and 20.
    first_wrong = _LOADING + 1 + 18
    assert first_wrong > _TRIAL
    done = run("index", gallery, fault="drift", FAULTY_N=str(first_wrong))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("faulty-drift is left for 24 hours") == 1

    points = stored(home)
    wrong = {points[at].id for at in np.flatnonzero(differences(points, demo_bundle) > 1e-5)}
    suspect = {point.id for point in points if point.payload.canary}
    assert len(wrong) == 2 * 4
    assert wrong <= suspect
    assert len(suspect) == 3 * 4  # batch 17 came after the last good canary as well
    assert {point.payload.provider for point in points} == {"faulty-drift", "cpu"}

    listed = run("audit", "--suspect", "--json")
    assert listed.returncode == 1
    report = json.loads(listed.stdout)
    assert {it["id"] for it in report["suspects"]} == suspect
    assert {it["provider"] for it in report["suspects"]} == {"faulty-drift"}

    repaired = run("audit", "--suspect", "--repair", fault="drift")
    assert repaired.returncode == 0, repaired.stderr
    assert "12 indexed" in repaired.stdout
    points = stored(home)
    assert differences(points, demo_bundle).max() < 1e-5
    assert {point.payload.canary for point in points} == {""}
    assert run("audit", "--suspect").returncode == 0


def test_process_that_dies_before_its_canary(home: Path, gallery: Path, demo_bundle: Path) -> None:
    """What it has written stays suspect, and the next run embeds it again by itself."""
    one_by_one = {"WARMCLIP_BATCH_SIZE": "1", "WARMCLIP_CANARY_EVERY": "1000"}
    # After the trial, which has fewer runs, and after the first 64 pictures are stored.
    died = run("index", gallery, fault="nth", FAULTY_N="95", **one_by_one)
    assert died.returncode == -signal.SIGABRT, died.stderr
    report = json.loads(run("audit", "--suspect", "--json").stdout)
    assert len(report["suspects"]) == 63  # the first picture's own canary was good
    again = run("index", gallery, "--json")
    report = json.loads(again.stdout)
    assert (report["unchanged"], report["indexed"]) == (1, 99)
    assert differences(stored(home), demo_bundle).max() < 1e-5
    assert run("audit", "--suspect").returncode == 0


def test_bad_vector_never_reaches_the_store(home: Path, gallery: Path, demo_bundle: Path) -> None:
    """NaN in service: the CPU computes that batch again, and the run is whole."""
    done = run("index", gallery, fault="nannth", FAULTY_N=str(_LOADING + 1 + 18))
    assert done.returncode == 0, done.stderr
    points = stored(home)
    assert len(points) == 100
    assert differences(points, demo_bundle).max() < 1e-5


@pytest.mark.usefixtures("home")
def test_audit_says_what_it_can_do() -> None:
    """The bare command is no action, and no riddle."""
    done = run("audit")
    assert done.returncode == 2
    assert "--suspect" in done.stderr


@pytest.mark.usefixtures("home")
def test_audit_of_a_collection_that_is_not_there() -> None:
    """It says what to do first."""
    done = run("audit", "--suspect")
    assert done.returncode == 2
    assert "run `warmclip index` first" in done.stderr
