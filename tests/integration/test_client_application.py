"""An application on rq 2.12 with warmclip[client] in an environment of its own; workers on rq 3."""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pictures import tiles
from running import PATIENCE_S, environment_of, interpreter, running_worker
from standins.client_application import TEXTS
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings

_SCRIPT = Path(__file__).parents[1] / "standins" / "client_application.py"

pytestmark = pytest.mark.usefixtures("server_binary")


def test_application_on_an_older_rq(tmp_path: Path, demo_bundle: Path) -> None:
    """It gets the model's vectors with nothing of a worker installed, and keeps its own RQ."""
    python = interpreter(".venv-client")
    environment = environment_of(tmp_path / "home", demo_bundle)
    stream = io.BytesIO()
    tiles(7).save(stream, "PNG")
    picture = stream.getvalue()
    with running_worker(Settings.from_env(environment), environment) as worker:
        socket = worker.connection.connection_pool.connection_kwargs["path"]
        done = subprocess.run(
            [str(python), "-I", str(_SCRIPT)],
            input=picture,
            env=os.environ | {"REDIS_URL": f"unix://{socket}"},
            capture_output=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert answer["rq"] == "2.12.0"
    assert set(answer["missing"]) == {"onnxruntime", "qdrant_client", "pydantic", "PIL", "typer"}
    encoder = Encoder.open(demo_bundle, provider="cpu")
    assert answer["dim"] == encoder.dim
    texts = encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(answer["texts"], texts, atol=1e-5)
    np.testing.assert_allclose(answer["together"], texts, atol=1e-5)
    (vector,) = encoder.encode_images([picture])
    np.testing.assert_allclose(answer["picture"], vector, atol=1e-5)
    assert answer["unreadable"]
    assert answer["rq is loaded"] is False
    assert set(answer["own job"]["vectors"]) == {TEXTS[0]}
    assert "pip install 'warmclip[cpu]'" in answer["encoder"]


def test_command_beside_the_client() -> None:
    """`warmclip` says what it needs."""
    python = interpreter(".venv-client")
    done = subprocess.run(
        [str(python), "-I", "-m", "warmclip", "--version"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'warmclip[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
