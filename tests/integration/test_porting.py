"""The page that tells how to port a job is run as it stands."""

import os
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import rq.serializers
from PIL import Image
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from running import environment_of, outcome, running_worker
from standins import qdrant
from standins.redis_server import redis_server
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "porting.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n# (.+?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMAND = re.compile(r"^```sh\nWARMCLIP_JOBS=(\S+) warmclip worker (.+)$", re.MULTILINE)

pytestmark = pytest.mark.usefixtures("server_binary")


def test_before_is_python() -> None:
    """The code that is shown as the former one can at least be compiled."""
    assert {"embedding.py, before", "training.py, before"} < BLOCKS.keys()
    for name, code in BLOCKS.items():
        compile(code, name, "exec")


def test_ported_job(tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Module, producer and worker of the page, as it has them, put the right vectors into Qdrant;
    a second run changes nothing; its callback is called.
    """
    (tmp_path / "training.py").write_text(BLOCKS["training.py"], encoding="utf-8")
    ((jobs, arguments),) = COMMAND.findall(PAGE)
    paths = [str(tmp_path / f"{colour}.png") for colour in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (64, 64), Path(path).stem).save(path)
    bad = str(tmp_path / "bad.png")
    Path(bad).write_bytes(b"no picture")
    encoder = Encoder.open(demo_bundle, provider="cpu")
    with qdrant.serve(tmp_path / "server") as server:
        server.engine.create("training", {"vectors": {"size": encoder.dim, "distance": "Cosine"}})
        path_for_python = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = environment_of(
            tmp_path / "home",
            demo_bundle,
            WARMCLIP_JOBS=jobs,
            QDRANT_URL=server.url,
            PYTHONPATH=path_for_python,
        )
        settings = Settings.from_env(environment)
        with running_worker(settings, environment, *arguments.split()) as worker:
            socket = worker.connection.connection_pool.connection_kwargs["path"]
            monkeypatch.setenv("REDIS_URL", f"unix://{socket}")
            api: dict[str, Any] = {}
            exec(compile(BLOCKS["api.py"], "api.py", "exec"), api)  # noqa: S102 - the page's code
            listener = worker.connection.pubsub()  # type: ignore[no-untyped-call]  # redis-py's
            listener.subscribe("training")
            for _ in range(2):
                result = outcome(api["start_training"]("s1", [*paths, bad])).return_value
                assert result is not None
                assert result["indexed"] == 3
                assert list(result["unreadable"]) == [bad]
            heard = [listener.get_message(timeout=5) for _ in range(3)]  # the first: subscribed
            assert [it and it["data"] for it in heard[1:]] == [b"s1: 3 pictures"] * 2
            listener.close()
            api["queue"].connection.close()
        ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"s1/{path}")) for path in paths]
        found = server.engine.retrieve("training", {"ids": ids, "with_vector": True})
        assert len(server.engine.scroll("training", {"limit": 10})["points"]) == 3
    vectors = {it["payload"]["path"]: it["vector"] for it in found}
    for path, expected in zip(paths, encoder.encode_images(paths), strict=True):
        assert vectors[path] == pytest.approx(expected.tolist(), abs=1e-5)


def test_json_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the page's one statement, queues and jobs that name no serializer use JSON."""
    monkeypatch.setattr(rq.serializers, "PickleSerializer", rq.serializers.PickleSerializer)
    (statement,) = re.findall(r"`(rq\.serializers\.PickleSerializer = \S+)`", PAGE)
    exec(statement, {"rq": rq})  # noqa: S102 - the page's code
    with redis_server(tmp_path) as server:
        job = Queue(connection=server.admin).enqueue("training.train", ["a.jpg"])
        assert Job.fetch(job.id, server.admin).args == [["a.jpg"]]
        assert Job.fetch(job.id, server.admin, JSONSerializer).func_name == "training.train"
        worker = Worker("default", connection=server.admin)
        worker.register_birth()  # type: ignore[no-untyped-call]  # rq's is not annotated
        assert [it.serializer for it in Worker.all(server.admin)] == [JSONSerializer]
