"""The page that shows one embedding service for routes and jobs is run as it stands."""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from running import Running, environment_of, outcome, running_worker
from warmclip import Client
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings
from warmclip.testing import FakeBackend

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "service.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n# (.+?)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMAND = re.compile(r"^```sh\nWARMCLIP_JOBS=(\S+) warmclip worker (.+)$", re.MULTILINE)

# A job as applications have them that load pictures themselves and embed them as a batch.
_LOADED = """
from PIL import Image

from embedding import embedding_service


def embed_loaded(paths):
    pictures = [Image.open(path) for path in paths]
    return embedding_service().embed_images_batch(pictures)
"""

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's modules, to be imported; they are forgotten afterwards."""
    for name, code in (BLOCKS | {"loaded.py": _LOADED}).items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [name.removesuffix(".py") for name in (*BLOCKS, "loaded.py")]
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Three, and one that is none."""
    paths = [str(tmp_path / f"{colour}.png") for colour in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (64, 64), Path(path).stem).save(path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    return [*paths[:2], str(tmp_path / "bad.png"), paths[2]]


@pytest.fixture
def worker(
    tmp_path: Path, modules: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    """The page's worker, and this process as its application."""
    ((jobs, arguments),) = COMMAND.findall(TEXT)
    environment = environment_of(
        tmp_path / "home",
        demo_bundle,
        WARMCLIP_JOBS=f"{jobs},loaded:embed_loaded",
        PYTHONPATH=os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")]),
    )
    with running_worker(Settings.from_env(environment), environment, *arguments.split()) as worker:
        monkeypatch.setenv("WARMCLIP_HOME", environment["WARMCLIP_HOME"])
        yield worker


def load(name: str) -> ModuleType:
    """One of the page's modules."""
    return importlib.import_module(name)


def test_routes_and_jobs(worker: Running, pictures: list[str], demo_bundle: Path) -> None:
    """Every route and the job give the model's own vectors; the job, whose worker is the only one,
    does not wait for itself.
    """
    encoder = Encoder.open(demo_bundle, provider="cpu")
    expected = encoder.encode_texts(["a red star"])[0].tolist()
    app: Any = load("app").app
    with TestClient(app) as client:
        for route in ("/sync", "/to-thread", "/async"):
            answer = client.get(route, params={"q": "a red star"})
            assert answer.json() == pytest.approx(expected, abs=1e-5), route
        data = Path(pictures[0]).read_bytes()
        (of_file,) = encoder.encode_images(pictures[:1]).tolist()
        answer = client.post("/upload", files={"file": data})
        assert answer.json() == pytest.approx(of_file, abs=1e-5)
        assert client.post("/upload", files={"file": b"no picture"}).status_code == 422
    result = outcome(worker.enqueue("training.train", pictures), timeout_s=30).return_value
    assert result is not None
    assert list(result) == [path for path in pictures if "bad" not in path]
    assert result[pictures[0]] == pytest.approx(of_file, abs=1e-5)
    load("embedding").embedding_service().client.close()


def test_job_that_has_loaded_its_pictures(
    worker: Running, tmp_path: Path, demo_bundle: Path
) -> None:
    """They go to the model as they are: one that would be too large to be sent as well."""
    large = np.random.default_rng(0).integers(0, 256, (2000, 2500, 3), dtype=np.uint8)
    paths = [str(tmp_path / name) for name in ("large.bmp", "small.png", "bad.png")]
    Image.fromarray(large).save(paths[0])
    Image.fromarray(large[:50, :70]).save(paths[1])
    Path(paths[2]).write_bytes(Path(paths[1]).read_bytes()[:2000])
    vectors: Any = outcome(worker.enqueue("loaded.embed_loaded", paths)).return_value
    expected = Encoder.open(demo_bundle, provider="cpu").encode_images(paths[:2])
    np.testing.assert_allclose(vectors[:2], expected, atol=1e-5)
    assert vectors[2] is None


@pytest.mark.usefixtures("modules")
def test_unit_test_of_the_page() -> None:
    """It passes, and takes no worker."""
    load("test_embedding").test_service()


@pytest.mark.usefixtures("modules")
def test_service_in_place_of_the_real_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Routes are tested with the fake backend, as the page says."""
    monkeypatch.setenv("WARMCLIP_HOME", str(tmp_path / "home"))
    embedding, app = load("embedding"), load("app").app
    fake = embedding.EmbeddingService(Client(FakeBackend(dim=8)))
    app.dependency_overrides[embedding.embedding_service] = lambda: fake
    client = TestClient(app)  # without its lifespan: nothing connects
    assert len(client.get("/to-thread", params={"q": "red"}).json()) == 8
