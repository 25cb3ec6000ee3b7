"""The page that tells how to come from a torch service is run as it stands."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from running import PATIENCE_S, Running, environment_of, eventually, running_worker
from standins import qdrant
from warmclip.inference.bundle import Manifest
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "migration.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n# (.+?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(
    r"^warmclip (?!worker)(.+)$",
    "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)),
    re.MULTILINE,
)
COLOURS = ("red", "green", "blue", "yellow")

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules, beside some pictures."""
    folder = tmp_path_factory.mktemp("migration")
    for name in ("app.py", "compare.py"):
        (folder / name).write_text(BLOCKS[name], encoding="utf-8")
    (folder / "photos").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (64, 64), colour).save(folder / "photos" / f"{colour}.png")
    return folder


@pytest.fixture(scope="module")
def encoder(demo_bundle: Path) -> Encoder:
    """What filled the collection."""
    return Encoder.open(demo_bundle, provider="cpu")


@pytest.fixture(scope="module")
def store(folder: Path, encoder: Encoder) -> Iterator[qdrant.QdrantStandIn]:
    """A server with the user's own collection: other ids than ours, another payload."""
    paths = [str(folder / "photos" / f"{colour}.png") for colour in COLOURS]
    with qdrant.serve(folder / "server") as server:
        server.engine.create("photos", {"vectors": {"size": encoder.dim, "distance": "Cosine"}})
        vectors = encoder.encode_images(paths).tolist()
        points = [
            {"id": number, "vector": vector, "payload": {"path": path, "album": "mine"}}
            for number, (path, vector) in enumerate(zip(paths, vectors, strict=True), 1)
        ]
        server.engine.upsert("photos", points)
        yield server


@pytest.fixture(scope="module")
def environment(folder: Path, demo_bundle: Path, store: qdrant.QdrantStandIn) -> dict[str, str]:
    """What the app, the worker and the commands are told."""
    return environment_of(folder / "home", demo_bundle, QDRANT_URL=store.url)


@pytest.fixture(scope="module")
def worker(environment: dict[str, str]) -> Iterator[Running]:
    """The page's worker."""
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


@contextmanager
def running_app(folder: Path, environment: dict[str, str], **more: str) -> Iterator[httpx.Client]:
    """Serve the page's app, as it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app:app", f"--port={port}", "--log-level=warning"]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment | more)
    try:
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=PATIENCE_S, trust_env=False) as client:

            def answers() -> bool:
                assert process.poll() is None
                try:
                    return client.get("/openapi.json").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(answers)
            yield client
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) in (0, -15)


def command(
    arguments: str, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """One of the page's commands, on what is here: the demo model, and its other space."""
    here = arguments.replace("/mnt/photos", str(folder / "photos"))
    here = here.replace("--bundle models/ViT-B-32-openai-gelu", "--decode full")
    here = here.replace("--bundle models/ViT-B-32-openai", "--decode scaled")
    words = [word.strip('"') for word in re.findall(r'".*?"|\S+', here)]
    return subprocess.run(
        [sys.executable, "-m", "warmclip.cli", *words, "--json"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_blocks_are_python() -> None:
    """The code that is shown as the former one can at least be compiled."""
    assert BLOCKS.keys() == {"app.py, before", "app.py", "compare.py"}
    for name, code in BLOCKS.items():
        compile(code, name, "exec")


@pytest.mark.parametrize("form", ["queue", "in-process"])
def test_app(form: str, folder: Path, environment: dict[str, str], worker: Running) -> None:
    """Both forms answer the old routes out of the old collection, and say what is wrong."""
    with running_app(folder, environment, EMBED=form) as client:
        picture = (folder / "photos" / "green.png").read_bytes()
        found = client.post("/api/v1/search/image", files={"file": picture}).json()
        assert Path(found[0]["path"]).name == "green.png"
        assert found[0]["score"] == pytest.approx(1, abs=1e-5)
        assert len(client.get("/api/v1/search", params={"q": "a red circle"}).json()) == 4
        refused = client.post("/api/v1/search/image", files={"file": b"no picture"})
        assert refused.status_code == 422
        assert "is no picture" in refused.json()["detail"]
    assert worker.process.poll() is None


def test_app_without_a_worker(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """It starts, and says what to run."""
    alone = environment | {"WARMCLIP_HOME": str(tmp_path / "home")}
    with running_app(folder, alone) as client:
        answer = client.get("/api/v1/search", params={"q": "red"})
        assert answer.status_code == 503
        assert "run `warmclip worker`" in answer.json()["detail"]


def compare(folder: Path, environment: dict[str, str], collection: str, bundle: Path) -> str:
    """What the page's script says."""
    done = subprocess.run(
        [sys.executable, "compare.py", collection, str(bundle)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout


def test_comparison_of_stored_vectors(
    folder: Path,
    environment: dict[str, str],
    store: qdrant.QdrantStandIn,
    demo_bundle: Path,
    encoder: Encoder,
) -> None:
    """Vectors of the bundle are within rounding; of a model that is slightly another, they are not;
    files that are gone are counted.
    """
    told = compare(folder, environment, "photos", demo_bundle)
    assert "4 compared, 0 unreadable" in told
    (median,) = re.findall(r"median (\S+),", told)
    assert abs(float(median)) < 1e-6
    store.engine.create("others", {"vectors": {"size": encoder.dim, "distance": "Cosine"}})
    paths = [str(folder / "photos" / name) for name in ("red.png", "gone.png")]
    vector = encoder.encode_images(paths[:1])[0]
    vector[0] += np.float32(0.05)
    points = [
        {"id": number, "vector": vector.tolist(), "payload": {"path": path}}
        for number, path in enumerate(paths)
    ]
    store.engine.upsert("others", points)
    told = compare(folder, environment, "others", demo_bundle)
    assert "1 compared, 1 unreadable" in told
    (median,) = re.findall(r"median (\S+),", told)
    assert float(median) > 1e-4


def test_comparison_of_pictures_that_were_converted_first(
    folder: Path,
    environment: dict[str, str],
    store: qdrant.QdrantStandIn,
    demo_bundle: Path,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    """The distances are told by mode, and which order of conversion fits the stored vectors."""
    drawn = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    drawn.paste((0, 0, 255, 255), (40, 40, 220, 180))
    paths = [tmp_path / f"{name}.png" for name in ("RGB", "RGBA", "1")]
    for path in paths:
        drawn.convert(path.stem).save(path)
    vectors = encoder.encode_images([Image.open(path).convert("RGB") for path in paths])
    store.engine.create("converted", {"vectors": {"size": encoder.dim, "distance": "Cosine"}})
    store.engine.upsert(
        "converted",
        [
            {"id": number, "vector": vector.tolist(), "payload": {"path": str(path)}}
            for number, (path, vector) in enumerate(zip(paths, vectors, strict=True))
        ],
    )
    told = compare(folder, environment, "converted", demo_bundle)
    assert "3 compared, 0 unreadable" in told
    assert re.search(r"^  RGB: 1 pictures, half of them up to \S+e-0[789]", told, re.MULTILINE)
    assert re.search(r"^  RGBA: 1 pictures, half of them up to \S+e-0[1234]", told, re.MULTILINE)
    assert told.endswith("fits is before_resize: a bundle exported with --rgb-first\n")
    told = compare(folder, environment, "converted", rgb_first(demo_bundle, tmp_path / "bundle"))
    assert re.search(r"^  RGBA: 1 pictures, half of them up to \S+e-0[789]", told, re.MULTILINE)
    assert told.endswith("exported with --rgb-first, as this one is\n")


def rgb_first(bundle: Path, copy: Path) -> Path:
    """The bundle as ``--rgb-first`` would have exported it."""
    shutil.copytree(bundle, copy)
    path = copy / "manifest.json"
    manifest = Manifest.parse(path.read_text("utf-8"), path)
    image = manifest.image.model_copy(update={"rgb_conversion": "before_resize"})
    fingerprint = manifest.derive_fingerprint(image)
    changed = manifest.model_copy(update={"image": image, "fingerprint": fingerprint})
    path.write_text(changed.model_dump_json(), encoding="utf-8")
    return copy


def test_collection_of_somebody_else(
    folder: Path, environment: dict[str, str], store: qdrant.QdrantStandIn
) -> None:
    """It is refused in the words of the page, and stays as it was."""
    (words,) = re.findall(r"^`(the store has a collection 'photos'.+?)`", PAGE, re.MULTILINE)
    before = store.engine.scroll("photos", {"limit": 10, "with_vector": True})
    done = command("index /mnt/photos --collection photos", folder, environment)
    assert done.returncode == 2
    assert words in done.stderr + done.stdout
    assert store.engine.scroll("photos", {"limit": 10, "with_vector": True}) == before


def test_there_and_back(
    folder: Path, environment: dict[str, str], store: qdrant.QdrantStandIn
) -> None:
    """The page's commands index, search, migrate, and go back to vectors that were kept: each is
    run in its order, and the alias leads where the page says.
    """

    def run(arguments: str) -> dict[str, Any]:
        done = command(arguments, folder, environment)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def target() -> str:
        (alias,) = store.engine.list_aliases()["aliases"]
        assert alias["alias_name"] == "gallery"
        return str(alias["collection_name"])

    index, search, there, back = COMMANDS
    assert run(index)["indexed"] == 4
    first = target()
    assert len(run(search)["queries"][0]["hits"]) == 4
    assert run(there)["indexed"] == 4
    assert target() != first
    returned = run(back)
    assert (returned["indexed"], returned["unchanged"]) == (0, 4)
    assert target() == first
    assert len(run(search)["queries"][0]["hits"]) == 4
    assert len(store.engine.scroll("photos", {"limit": 10})["points"]) == 4
