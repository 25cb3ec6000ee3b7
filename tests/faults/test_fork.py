"""The crash that this project ends: a model in a forked child.

A provider that aborts in a process that was forked and not exec'd stands for Metal, CoreML and XPC,
which do so on macOS. The process that starts the workers has used torch and OpenCLIP.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from faults.conftest import Rig
from running import WORKER
from warmclip.settings import Settings
from warmclip.work.broker import open_broker

pytestmark = pytest.mark.skipif(
    find_spec("open_clip") is None, reason="the service under test needs open_clip in torch"
)

TESTS = Path(__file__).parents[1]
# 500 of both were run by hand; a control job costs a second.
JOBS = int(os.environ.get("FAULT_JOBS", "500"))
CONTROL_JOBS = int(os.environ.get("FAULT_JOBS", "8"))


@contextmanager
def launched(rig: Rig, command: list[str], function: str, texts: list[Any]) -> Iterator[list[Job]]:
    """Jobs, one a text, after a worker that the launcher started has been at all of them."""
    environment = rig.environment(WARMCLIP_PROVIDER="faulty-fork")
    environment["PYTHONPATH"] += os.pathsep + str(TESTS)
    with open_broker(Settings.from_env(environment)) as connection:
        queue = Queue(connection=connection, serializer=JSONSerializer)
        jobs = [queue.enqueue(function, args=(text,)) for text in texts]
        url = f"unix://{connection.connection_pool.connection_kwargs['path']}"
        with (rig.folder / "launcher.log").open("w") as log:
            subprocess.run(
                [
                    *(sys.executable, str(TESTS / "standins" / "launcher.py")),
                    *(part.replace("{url}", url) for part in command),
                ],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                check=True,
                timeout=3600,
            )
        assert queue.count == 0
        yield jobs


def test_plain_rq_worker_loses_every_job(rig: Rig) -> None:
    """The control: RQ forks, the model is loaded in the child, and the child dies by signal 6."""
    rq = [str(Path(sys.executable).with_name("rq")), "worker", "--burst", "--url={url}"]
    rq += ["--serializer=rq.serializers.JSONSerializer"]
    texts = [str(number) for number in range(CONTROL_JOBS)]
    with launched(rig, rq, "rq_jobs.embed", texts) as jobs:
        for job in jobs:
            result = job.latest_result()
            assert result is not None
            assert "signal 6" in str(result.exc_string)
    assert "Unable to reach MTLCompilerService" in (rig.folder / "launcher.log").read_text()


def test_warm_worker_loses_none(rig: Rig) -> None:
    """The same provider, the same launcher: every job has its vector."""
    texts = [[str(number)] for number in range(JOBS)]
    with launched(rig, [*WORKER, "--burst"], "warmclip.work.jobs.embed_texts", texts) as jobs:
        for job, text in zip(jobs, texts, strict=True):
            value = job.return_value()
            assert value is not None
            assert list(value["vectors"]) == text
    assert "MTLCompilerService" not in (rig.folder / "launcher.log").read_text()
