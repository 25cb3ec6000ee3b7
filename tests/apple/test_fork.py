"""The crash that this project ends, with the real thing: OpenCLIP on MPS in RQ's forked child."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from apple.conftest import DEADLINE_S, Trials
from apple.machine import GPU, IS_REHEARSAL
from apple.table import MEASURED
from running import WORKER, environment_of, outcome, reason
from warmclip.inference.bundle import ModelBundle
from warmclip.settings import Settings
from warmclip.work.broker import open_broker

Record = Callable[[str, object], None]

TESTS = Path(__file__).parents[1]
# Beyond it a child hangs: in a process of its own the job takes a few seconds.
_JOB_S = 60
# What RQ says of a child that died, or that it had to end; never of a Python error.
_DIED_OR_HUNG = re.compile(r"waitpid returned|signal \d+|JobTimeoutException|exceeded")

pytestmark = pytest.mark.usefixtures("server_binary")


def launch(
    home: Path, bundle: ModelBundle, command: list[str], function: str, argument: Any, **more: str
) -> tuple[Result, str]:
    """One job's outcome, and the log, after the launcher has used OpenCLIP and run a worker."""
    environment = environment_of(home, bundle.folder, **more)
    with open_broker(Settings.from_env(environment)) as connection:
        queue = Queue(connection=connection, serializer=JSONSerializer)
        job: Job = queue.enqueue(function, argument, job_timeout=_JOB_S)
        url = f"unix://{connection.connection_pool.connection_kwargs['path']}"
        paths = [str(home.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [
                *(sys.executable, str(TESTS / "standins" / "launcher.py")),
                *(part.replace("{url}", url) for part in command),
            ],
            env=os.environ
            | environment
            | {"PYTHONPATH": os.pathsep.join(paths), "OPEN_CLIP_DEVICE": GPU},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return outcome(job), done.stdout


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("parent", ["clean", "used"])
def test_plain_rq_worker_loses_the_job(
    tmp_path: Path, demo: ModelBundle, parent: str, record_property: Record
) -> None:
    """The child dies by a signal or hangs until RQ kills it, even where the forking process has
    not used the GPU; a Python error would be another matter.
    """
    if IS_REHEARSAL and parent == "clean":
        pytest.skip("it is about Metal")
    worker = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url={url}"]
    worker += ["--serializer=json", "--job-monitoring-interval=5"]
    if parent == "used":  # RQ imports its configuration before it forks, as a service its code
        (tmp_path / "used.py").write_text("from apple import open_clip_job as j\nj.embed('a')\n")
        worker += ["--config=used"]
    started = time.monotonic()
    result, log = launch(
        tmp_path / "home", demo, worker, "apple.open_clip_job.embed", "a red bicycle"
    )
    said = "Unable to reach MTLCompilerService"
    record_property(MEASURED, f"{time.monotonic() - started:.0f} s")
    record_property(MEASURED, f"{said!r} {'is' if said in log else 'is not'} in the log")
    assert result.type == Result.Type.FAILED, f"the child survived: {log}"
    record_property(MEASURED, reason(result))
    assert _DIED_OR_HUNG.search(reason(result)), log


@pytest.mark.usefixtures("gpu")
def test_warm_worker_loses_none(trials: Trials, full: ModelBundle, record_property: Record) -> None:
    """From the same launcher, a job on CoreML in a warm horse has its vector."""
    provider = trials.best(full)
    function = "warmclip.work.jobs.embed_texts"
    more = {"WARMCLIP_PROVIDER": provider}
    result, log = launch(
        trials.home, full, [*WORKER, "--burst"], function, ["a red bicycle"], **more
    )
    record_property(MEASURED, provider)
    assert result.type == Result.Type.SUCCESSFUL, log
    assert result.return_value is not None
    assert list(result.return_value["vectors"]) == ["a red bicycle"]
    assert "MTLCompilerService" not in log


_SPAWN = """
import multiprocessing, sys
from pathlib import Path

def on_torch():
    from apple.open_clip_job import embed
    return len(embed("a"))

def on_coreml():
    from warmclip import Encoder
    bundle, home, provider = sys.argv[2:]
    return len(Encoder.open(bundle, provider=provider, home=Path(home)).encode_texts(["a"])[0])

use = {"torch": on_torch, "coreml": on_coreml}[sys.argv[1]]

if __name__ == "__main__":
    use()
    child = multiprocessing.get_context("spawn").Process(target=use)
    child.start()
    child.join()
    print("exit code", child.exitcode)
"""


@pytest.mark.parametrize("what", ["torch", "coreml"])
def test_spawned_child_computes(
    trials: Trials,
    full: ModelBundle,
    what: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Record,
) -> None:
    """A child that multiprocessing spawns is a new program: it computes as its parent did."""
    if what == "torch":
        request.getfixturevalue("gpu")
    script = tmp_path / "spawning.py"
    script.write_text(_SPAWN)
    provider = trials.best(full)
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, what, str(full.folder), str(trials.home), provider],
        env=os.environ | {"PYTHONPATH": paths, "OPEN_CLIP_DEVICE": GPU},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    record_property(MEASURED, GPU if what == "torch" else provider)
    assert done.stdout.splitlines()[-1:] == ["exit code 0"], done.stdout


@pytest.fixture(scope="module")
def matrix(trials: Trials, full: ModelBundle) -> list[dict[str, Any]]:
    """The doctor's rows on the model of full size."""
    environment = environment_of(trials.home, full.folder, WARMCLIP_PROVIDER=trials.best(full))
    done = subprocess.run(
        [sys.executable, "-m", "warmclip.cli", "doctor", "--json"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["matrix"]
    return rows


def test_doctor_finds_exec_and_horse_green(
    matrix: list[dict[str, Any]], record_property: Record
) -> None:
    """What works in a main process works in one that was exec'd, and in a warm horse."""
    worked = [row for row in matrix if row["cells"]["main"]["status"] == "ok"]
    assert any(row["provider"] for row in worked)
    for row in worked:
        cells = {kind: row["cells"][kind]["status"] for kind in ("fork", "exec", "horse")}
        told = ", ".join(f"{kind} {status}" for kind, status in cells.items())
        record_property(MEASURED, f"{row['name']}: {told}")
        assert (cells["exec"], cells["horse"]) == ("ok", "ok"), row


@pytest.mark.usefixtures("gpu")
def test_doctor_finds_fork_red(matrix: list[dict[str, Any]], record_property: Record) -> None:
    """OpenCLIP on the GPU ends badly in a forked child, and in no other kind of process."""
    (row,) = [row for row in matrix if row["name"] == f"open_clip ViT-B-32 on {GPU}"]
    fork = row["cells"]["fork"]
    record_property(MEASURED, f"{fork['status']}: {fork['reason'] or fork['step']}")
    assert row["cells"]["main"]["status"] == "ok"
    assert fork["status"] in ("signal", "hang", "error")
