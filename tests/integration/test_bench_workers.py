"""The comparison with RQ's own workers, as `make bench-worker` starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benching import over_after_a_round
from processes import read_commands

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "bench.workers")

pytestmark = pytest.mark.usefixtures("server_binary")


def compare(*options: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run it."""
    return subprocess.run(
        [*COMMAND, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_no_op_jobs_of_all_workers(tmp_path: Path, demo_bundle: Path) -> None:
    """Every worker does its jobs in every round; the figures go to a file, a table to stdout."""
    file = tmp_path / "figures.json"
    options = ("--case=no-op", "--rounds=2", "--jobs=10", f"--json={file}")
    done = compare(*options, f"--bundle={demo_bundle}")
    assert done.returncode == 0, done.stderr

    figures = json.loads(file.read_text())
    assert figures["rounds"] == 2
    assert figures["environment"]["cores"] >= 1
    assert figures["environment"]["packages"]["rq"]
    (case,) = figures["cases"]
    assert case["name"] == "no-op"
    names = [each["name"] for each in case["contenders"]]
    assert names == ["RQ Worker", "RQ SpawnWorker", "RQ SimpleWorker", "WarmWorker"]
    for each in case["contenders"]:
        assert each["failure"] is None
        assert len(each["seconds_per_job"]) == 2
        assert all(seconds > 0 for seconds in each["seconds_per_job"])
        figure = each["figure"]
        assert figure["lowest"] <= figure["median"] <= figure["highest"]
        assert figure["highest"] == pytest.approx(1 / min(each["seconds_per_job"]))
    (ratio,) = case["ratios"]
    assert ratio["met"] == (ratio["times"]["median"] >= ratio["target"] == 3)

    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    for name in names:
        assert any(name in row for row in rows), done.stdout
    assert "Python" in done.stdout
    assert "Load average" in done.stdout


@pytest.mark.skipif(find_spec("qdrant_edge") is None, reason="needs qdrant-edge, of the test group")
def test_fleets_of_workers(tmp_path: Path, demo_bundle: Path) -> None:
    """One worker, two and four share the jobs and the store; each has its figure."""
    file = tmp_path / "figures.json"
    options = ("--case=fleet", "--rounds=1", f"--json={file}", f"--checkpoint={demo_bundle}")
    done = compare(*options, f"--bundle={demo_bundle}")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(file.read_text())["cases"]
    failures = {each["name"]: each["failure"] for each in case["contenders"]}
    assert failures == {"WarmWorker": None, "2 WarmWorkers": None, "4 WarmWorkers": None}
    assert all(each["figure"]["median"] > 0 for each in case["contenders"])


def test_worker_that_cannot_work(tmp_path: Path) -> None:
    """A worker that fails is out, with its reason; the others are still compared."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    file = tmp_path / "figures.json"
    done = compare("--case=no-op", "--rounds=1", "--jobs=2", f"--json={file}", f"--bundle={bundle}")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(file.read_text())["cases"]
    failures = {each["name"]: each["failure"] for each in case["contenders"]}
    assert "manifest" in failures.pop("WarmWorker")
    assert set(failures.values()) == {None}
    (ratio,) = case["ratios"]
    assert (ratio["times"], ratio["met"]) == (None, None)


def test_comparison_that_is_stopped(tmp_path: Path, demo_bundle: Path) -> None:
    """SIGTERM leaves no worker, no Redis and no folder behind."""
    process = subprocess.Popen(
        [*COMMAND, "--case=no-op", "--jobs=100000", f"--bundle={demo_bundle}"],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/worker.log")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (folder,) = tmp_path.iterdir()
    finally:
        process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not folder.exists()
    assert str(folder) not in "\n".join(read_commands().values())


def test_comparison_that_is_cut_short(tmp_path: Path, demo_bundle: Path) -> None:
    """Ctrl+C loses no round that was over: what there is, is printed and written."""
    file = tmp_path / "figures.json"
    options = ["--case=no-op", "--jobs=2", "--rounds=1000", f"--json={file}"]
    command = [*COMMAND, *options, f"--bundle={demo_bundle}"]
    with over_after_a_round(command, REPOSITORY, os.environ) as process:
        pass
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "| WarmWorker" in printed
    (case,) = json.loads(file.read_text())["cases"]
    assert {len(each["seconds_per_job"]) for each in case["contenders"]} == {1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--case=noop"], "use one of no-op, one-image, 64-images, fleet"),
        (["--case=no-op", "--bundle=/nowhere"], "`make bench-worker` makes it"),
    ],
)
def test_comparison_of_what_is_not_there(options: list[str], words: str) -> None:
    """A case or a model that is not there is named before anything runs."""
    done = compare(*options)
    assert done.returncode == 2
    assert words in done.stderr
