"""A user's own function under plain `rq worker`, whose parent has loaded the model."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from warmclip.settings import Settings
from warmclip.work.broker import open_broker

pytestmark = pytest.mark.usefixtures("server_binary")

_JOBS = """
import os
from warmclip import Encoder

ENCODER = Encoder.open(os.environ["WARMCLIP_BUNDLE"], provider="cpu")
ENCODER.warm()

def embed(text):
    return ENCODER.encode_texts([text]).shape

def embed_anew(text):
    return Encoder.open(os.environ["WARMCLIP_BUNDLE"], provider="cpu").encode_texts([text]).shape
"""


@pytest.mark.parametrize("function", ["embed", "embed_anew"])
def test_model_loaded_before_rq_forks(tmp_path: Path, demo_bundle: Path, function: str) -> None:
    """The job fails at once with the sentence that names the fix; it neither hangs nor aborts."""
    (tmp_path / "myjobs.py").write_text(_JOBS)
    # RQ imports its configuration in the parent, as it does a custom worker or job class.
    (tmp_path / "myconfig.py").write_text("import myjobs\n")
    settings = Settings.from_env({"WARMCLIP_HOME": str(tmp_path / "home")})
    with open_broker(settings) as connection:
        url = f"unix://{connection.connection_pool.connection_kwargs['path']}"
        queue = Queue(connection=connection, serializer=JSONSerializer)
        job = queue.enqueue(f"myjobs.{function}", "a red bicycle", job_timeout=60)
        started = time.monotonic()
        worker = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", url]
        done = subprocess.run(
            [*worker, "--config", "myconfig", "--serializer", "json"],
            cwd=tmp_path,
            env=os.environ | {"WARMCLIP_BUNDLE": str(demo_bundle)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        result = job.latest_result()
        assert result is not None, done.stderr
        assert result.type == Result.Type.FAILED
        last = str(result.exc_string).strip().splitlines()[-1]
    assert "ForkedSessionError" in last
    assert "`warmclip worker`" in last
    assert time.monotonic() - started < 50  # far from the job's own timeout
