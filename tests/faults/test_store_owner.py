"""The embedded store is used by commands while another process has it, and when that one dies."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rq.job import JobStatus

from faults.conftest import Rig
from running import PATIENCE_S, eventually, run, start_python, start_worker, wait_for_worker
from warmclip.process_table import is_running
from warmclip.settings import Settings
from warmclip.store.embedded_lock import lock_store
from warmclip.store.embedded_wire import address_of
from warmclip.work.broker import open_broker

SLEEP = "faulty_jobs.sleep"


def answer(rig: Rig, *arguments: str) -> Any:
    """What a command says in JSON."""
    done = run(*arguments, "--json", **rig.environment())
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def found(rig: Rig) -> int:
    """How many pictures a search finds."""
    (query,) = answer(rig, "search", "a red star", "--limit", "500")["queries"]
    return len(query["hits"])


def test_commands_while_index_runs(rig: Rig) -> None:
    """A search, a list, duplicates, an audit, and another `index` are served while a long `index`
    has the store; when it is killed, whoever comes next goes on. What would stop it is refused.
    """
    pictures = rig.pictures(300)
    assert answer(rig, "index", *pictures[:5])["indexed"] == 5
    slow = {"WARMCLIP_PROVIDER": "faulty-slow", "FAULTY_SECONDS": "1", "WARMCLIP_BATCH_SIZE": "1"}
    environment = rig.environment(**slow)
    store = Settings.from_env(environment).embedded_store
    command = [sys.executable, "-m", "warmclip.cli", "index", str(Path(pictures[0]).parent)]
    with subprocess.Popen(command, env=os.environ | environment) as index:
        try:
            eventually(address_of(store).is_socket)
            assert found(rig) >= 5
            (listed,) = answer(rig, "collections", "list")["collections"]
            assert listed["points"] >= 5
            assert answer(rig, "duplicates", "images")["pictures"] >= 5
            audited = answer(rig, "audit", "images", str(Path(pictures[0]).parent))
            assert audited["files"] == 300
            assert answer(rig, "index", pictures[-1])["indexed"] == 1
            assert answer(rig, "forget", pictures[0], "--yes")["pictures"] == 1
            refused = run("collections", "optimize", "images", **rig.environment())
            assert refused.returncode == 3
            assert f"in use by process {index.pid}" in " ".join(refused.stderr.split())
            assert index.poll() is None
        finally:
            index.kill()
    assert 5 <= found(rig) < 300
    assert answer(rig, "index", *pictures)["indexed"] > 0
    assert found(rig) == 300


def test_worker_that_starts_during_a_search(rig: Rig) -> None:
    """A command has the store open for a moment only: the worker waits for it, and starts."""
    environment = rig.environment()
    settings = Settings.from_env(environment)
    log = rig.folder / "log"
    with open_broker(settings) as connection:
        lock = lock_store(settings.embedded_store)
        worker = start_worker(environment, log=log)
        try:
            eventually(lambda: "waiting for a command" in log.read_text())
            os.close(lock)
            wait_for_worker(worker, connection, log)
        finally:
            worker.terminate()
            worker.wait(PATIENCE_S)


def test_commands_beside_a_worker(rig: Rig) -> None:
    """A worker's horse answers before its first job, during a long one, and after it was killed."""
    pictures = rig.pictures(5)
    assert answer(rig, "index", *pictures)["indexed"] == 5
    with rig.worker() as worker:
        assert found(rig) == 5
        job = worker.enqueue(SLEEP, 600)
        eventually(lambda: job.get_status() == JobStatus.STARTED)
        assert found(rig) == 5
        worker.kill_horse()
        assert found(rig) == 5
        worker.process.kill()  # it would wait for the job, which is tried again
        assert found(rig) == 5


_COMPACTS = """
import os
import signal
import subprocess
import sys
from pathlib import Path

from warmclip.errors import StoreError
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
found = []

def kill(*_):
    if not found:
        told = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "embedded_compactor"],
                              capture_output=True, text=True)
        found.append(int(told.stdout))
        print(found[0], flush=True)
        os.kill(found[0] if sys.argv[2] == "child" else os.getpid(), signal.SIGKILL)

try:
    store.optimize_collection("images", progress=kill)
except StoreError as exc:
    print(exc, flush=True)
print(store.count_points("images"), flush=True)
"""


@pytest.mark.parametrize("killed", ["child", "owner"])
def test_compaction_is_killed(rig: Rig, killed: str) -> None:
    """All pictures are found afterwards; the one process does not outlive the other, says what
    happened, and the next compaction ends well.
    """
    pictures = rig.pictures(20)
    assert answer(rig, "index", *pictures)["indexed"] == 20
    store = Settings.from_env(rig.environment()).embedded_store
    with start_python(_COMPACTS, store, killed) as owner:
        said = owner.communicate(timeout=PATIENCE_S)[0].splitlines()
    if killed == "child":
        assert "killed by SIGKILL" in said[1]
        assert "nothing is lost" in said[1]
        assert said[2] == "20"
    if sys.platform == "linux":  # elsewhere it ends its work, to which nobody looks
        eventually(lambda: not is_running(int(said[0])))
    assert found(rig) == 20
    optimized = answer(rig, "collections", "optimize", "images")
    assert (optimized["optimized"], optimized["points"]) == (True, 20)
    assert found(rig) == 20
    assert not list((store / "shards").glob(".*"))


def test_search_beside_a_compaction(rig: Rig) -> None:
    """It is answered, whether it comes before the compaction's end or after."""
    pictures = rig.pictures(20)
    assert answer(rig, "index", *pictures)["indexed"] == 20
    store = Settings.from_env(rig.environment()).embedded_store
    command = [sys.executable, "-m", "warmclip.cli", "collections", "optimize", "images"]
    with subprocess.Popen(command, env=os.environ | rig.environment()) as compaction:
        eventually(lambda: list((store / "shards").glob(".copy-*")) or compaction.poll() == 0)
        assert found(rig) == 20
        assert compaction.wait(PATIENCE_S) == 0
    assert found(rig) == 20
