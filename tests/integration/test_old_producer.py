"""A producer on rq 2.6.1, in a Python environment of its own, and our worker on rq 3."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from running import PATIENCE_S, Running, interpreter, running_worker
from user_worker import JOBS, user_environment
from warmclip.settings import Settings

_SCRIPT = Path(__file__).parents[1] / "standins" / "old_producer.py"

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture(scope="module")
def producer() -> Path:
    """The interpreter with rq 2.6.1; skipped where it was not made, but never in CI."""
    return interpreter(".venv-producer")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> Iterator[Running]:
    """A worker on today's rq."""
    environment = user_environment(tmp_path_factory.mktemp("old") / "home", demo_bundle)
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


def produce(producer: Path, worker: Running, *jobs: tuple[str, Any]) -> list[dict[str, Any]]:
    """Run the producer; its answers, but for the first, which names its version."""
    path = worker.connection.connection_pool.connection_kwargs["path"]
    rest = [part for function, options in jobs for part in (function, json.dumps(options))]
    done = subprocess.run(
        [str(producer), "-I", str(_SCRIPT), f"unix://{path}", *rest],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert version == {"rq": "2.6.1"}
    return answers


def test_jobs_of_an_old_producer(producer: Path, worker: Running) -> None:
    """They run, it reads their results and failures, and its callbacks are called."""
    texts = ["a red circle"]
    embedded, added, failed, refused = produce(
        producer,
        worker,
        ("warmclip.work.jobs.embed_texts", {"args": [texts]}),
        (f"{JOBS}.add", {"args": [1, 2], "on_success": f"{JOBS}.on_success"}),
        (f"{JOBS}.fail", {"args": ["no such thing"]}),
        ("os.getpid", {"args": []}),
    )
    assert embedded["status"] == "finished"
    assert set(embedded["result"]["vectors"]) == set(texts)
    assert added == {"status": "finished", "result": 3, "failure": None}
    (called,) = worker.connection.keys("callback:*")
    assert worker.connection.hget(called, "success") == b"3"
    assert failed["status"] == "failed"
    assert failed["failure"] == "ValueError: no such thing"
    assert "not on the worker's list" in refused["failure"]


def test_crash_under_a_job_of_an_old_producer(producer: Path, worker: Running) -> None:
    """Its retry is spent, then it learns what happened."""
    (left,) = produce(producer, worker, (f"{JOBS}.leave", {"args": [3]}))
    assert left["status"] == "failed"
    assert "left with exit code 3" in left["failure"]
