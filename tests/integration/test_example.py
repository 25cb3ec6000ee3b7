"""The application of examples/ does all that it is for, with real processes."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from application import LONG_S, draw_album, picture, running_application
from application_checks import find_faults
from running import eventually
from standins import qdrant
from standins.redis_server import redis_server
from warmclip.inference.encoder import Encoder

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("server_binary")


def test_embedding_is_that_of_the_guide() -> None:
    """What the guide shows is what the application uses, word for word."""
    code = (ROOT / "examples" / "photoservice" / "embedding.py").read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "guides" / "service.md").read_text(encoding="utf-8")
    assert f"```python\n# embedding.py\n{code}```" in guide


def test_application(tmp_path: Path, demo_bundle: Path) -> None:
    """An album and an upload go through every job; searches find them; nothing is left over."""
    with (
        redis_server(tmp_path) as redis,
        qdrant.serve(tmp_path / "qdrant") as store,
        running_application(tmp_path, demo_bundle, redis.url(), store.url) as app,
    ):
        paths = draw_album(app.pictures / "first", 40, seed=1)
        for _ in range(2):  # the second time, nothing happens
            assert app.client.put("/albums/first", params={"folder": "first"}).status_code == 202
        sent = io.BytesIO()
        picture(7).save(sent, "PNG")
        files = {"file": sent.getvalue()}
        answer = app.client.post("/albums/sent/pictures", files=files)
        assert answer.status_code == 202
        album = {"indexed": 40, "unreadable": 1}
        eventually(lambda: app.client.get("/albums/first").json() == album, LONG_S)
        eventually(app.are_tasks_final, LONG_S)
        cpu = Encoder.open(demo_bundle, provider="cpu")
        assert find_faults(app, redis.admin, store.engine, cpu) == []
        (best, *_) = answered(partial(app.client.post, "/search/image", files=files)).json()
        assert best["score"] == pytest.approx(1, abs=1e-4)
        words: dict[str, str | int] = {"q": "a red star", "limit": 41}
        found = answered(partial(app.client.get, "/search", params=words)).json()
        assert set(map(str, paths)) < {hit["path"] for hit in found}
        small = app.client.get(f"/pictures/{answer.json()['id']}/thumbnail")
        assert small.headers["content-type"] == "image/jpeg"
        no_picture = partial(app.client.post, "/search/image", files={"file": b"none"})
        assert answered(no_picture).status_code == 422
        assert app.client.put("/albums/x", params={"folder": "../.."}).status_code == 404


def answered(request: Callable[[], httpx.Response]) -> httpx.Response:
    """An answer, repeated while it is that no worker had time: the machine may be busy."""
    answers = [request()]
    while answers[-1].status_code == 503 and len(answers) < 12:
        answers.append(request())
    return answers[-1]
