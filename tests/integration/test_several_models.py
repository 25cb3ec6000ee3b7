"""Several models in one service: jobs, clients and requests name one, and two are compared."""

import gc
import json
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from running import environment_of, run, running_worker
from serving import Served, draw, running_server
from tiny_models import rewritten
from warmclip import Client, Encoder, ThroughQueue
from warmclip.cli import app
from warmclip.errors import ModelUnknown, NotStored
from warmclip.inference.bundle import Logits, ModelBundle
from warmclip.settings import Settings
from warmclip.store.embedded_lock import lock_store
from warmclip.work.call import call
from warmclip.work.horse.context import JobContext, open_context
from warmclip.work.horse.models import ModelNeeded
from warmclip.work.jobs import index_images
from warmclip.work.workers import read_workers

pytestmark = pytest.mark.usefixtures("server_binary")


@pytest.fixture
def models(tmp_path: Path, demo_bundle: Path) -> dict[str, ModelBundle]:
    """Three spaces beside each other; the model `siglip` says how sure it is."""
    (tmp_path / "models").mkdir()
    plain = ModelBundle.open(demo_bundle)
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "converts": {"rgb_conversion": "before_resize"},
        "siglip": {"fill": 7},
    }
    return {
        name: rewritten(
            plain,
            tmp_path / "models" / name,
            image=plain.manifest.image.model_copy(update=change),
            logits=Logits(scale=10.0, bias=-3.0) if name == "siglip" else None,
        )
        for name, change in changes.items()
    }


def test_jobs_clients_and_requests_name_a_model(
    tmp_path: Path, models: dict[str, ModelBundle]
) -> None:
    """A worker has two models at once; for a third, the one that was used least lately leaves."""
    plain, converts, siglip = (it.manifest.fingerprint for it in models.values())
    environment = environment_of(tmp_path / "home", models["plain"].folder)
    settings = Settings.from_env(environment)
    with running_worker(settings, environment) as worker:

        def ask(**model: str) -> object:
            return call(worker.connection, "embed_texts", {"texts": ["red"], **model})[
                "fingerprint"
            ]

        assert ask() == plain
        with Client(ThroughQueue(settings, model="converts")) as client:
            assert client.embed_text("red").shape == (models["plain"].manifest.dim,)
            assert client.space().fingerprint == converts
        horse = worker.horse
        assert ask() == plain
        assert worker.horse == horse  # it has both
        with running_server(environment) as served:
            body = {"texts": ["red"]}
            answer = served.client.post(f"/api/v1/embed/text?model={siglip[:16]}", json=body)
            assert answer.json()["fingerprint"] == siglip
            refused = served.client.post("/api/v1/embed/text?model=nothing", json=body)
            assert refused.status_code == 404
            assert "there is no model 'nothing'" in refused.text
            _name_models_in_bodies(served, siglip, draw(tmp_path / "pictures", 1)[0])
        (state,) = read_workers(worker.connection)
        assert set(state.models) == {siglip, plain}
        with pytest.raises(ModelUnknown, match="`warmclip models`"):
            ask(model="../plain")


def _name_models_in_bodies(served: Served, fingerprint: str, picture: Path) -> None:
    """Every route with a body takes the model there as well; it is told if two are named."""
    terms = {"terms": [{"text": "red"}]}

    def post(path: str, **body: Any) -> httpx.Response:
        return served.client.post(f"/api/v1/{path}", **body)

    def upload() -> dict[str, Any]:
        return {"files": {"file": picture.read_bytes()}}

    for answer in (
        post("embed/text", json={"texts": ["red"], "model": fingerprint}),
        post(f"embed/text?model={fingerprint}", json={"texts": ["red"], "model": fingerprint}),
        post("embed/image", **upload(), data={"model": fingerprint}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["fingerprint"] == fingerprint
    for route, body in (
        ("embed/text", {"json": {"texts": ["red"], "model": "nothing"}}),
        ("embed/image", upload() | {"data": {"model": "nothing"}}),
        ("search", {"json": terms | {"model": "nothing"}}),
        ("search/image", upload() | {"data": {"model": "nothing"}}),
    ):
        answer = post(route, **body)
        assert answer.status_code == 404, answer.text
        assert "no model 'nothing'" in answer.text
        both = post(f"{route}?model=another", **body)
        assert both.status_code == 422, both.text
        assert "'another', and the body 'nothing': name one" in both.text
    wrong = post("embed/image", **upload(), data={"modle": "nothing"})
    assert wrong.status_code == 422
    assert "body.modle" in wrong.text


@pytest.fixture
def context(tmp_path: Path, models: dict[str, ModelBundle]) -> Iterator[JobContext]:
    """A horse's, with the model ``plain`` and a store of its own."""
    settings = Settings(home=tmp_path / "home", bundle=models["plain"].folder)
    lock = lock_store(settings.embedded_store)
    with open_context(settings, store_owner=lock) as context:
        yield context
    os.close(lock)


def test_model_without_vectors_is_not_loaded(context: JobContext, tmp_path: Path) -> None:
    """Whether it is loaded or not, the answer names the collection and the model as the job did."""
    with pytest.raises(NotStored, match="no collection 'images' yet"):
        context.searcher("images", "converts")
    index_images([str(path) for path in draw(tmp_path / "pictures", 1)], "images")
    context.searcher("images", "plain")

    with pytest.raises(NotStored, match="'images' has no vectors of the model 'converts'"):
        context.searcher("images", "converts")
    assert context.take_missed().fingerprint == ""


def test_model_that_is_exported_again(context: JobContext, models: dict[str, ModelBundle]) -> None:
    """A name means what lies in the folder now."""
    with pytest.raises(ModelNeeded):
        context.encoder_of("converts")
    shutil.rmtree(models["converts"].folder)
    exported = rewritten(
        models["plain"],
        models["converts"].folder,
        image=models["plain"].manifest.image.model_copy(update={"fill": 9}),
    )
    with pytest.raises(ModelNeeded):
        context.encoder_of("converts")
    assert context.take_missed().fingerprint == exported.manifest.fingerprint


def test_a_job_that_needs_three_models(tmp_path: Path, models: dict[str, ModelBundle]) -> None:
    """It is not queued again without end: it fails and says why, and the next job is done."""
    (tmp_path / "greedy.py").write_text(
        "from warmclip.work.jobs import embed_texts\n"
        "def embed(names):\n"
        "    return [embed_texts(['red'], model=name)['dim'] for name in names]\n"
    )
    environment = environment_of(
        tmp_path / "home",
        models["plain"].folder,
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        WARMCLIP_JOBS="greedy:embed",
    )
    with running_worker(Settings.from_env(environment), environment) as worker:
        assert worker.run("greedy.embed", list(models)[:2]).return_value == [128, 128]
        failed = worker.run("greedy.embed", list(models))
        assert "it needs more than the 2 that a worker holds" in str(failed.exc_string)
        assert worker.run("greedy.embed", list(models)[:2]).return_value == [128, 128]


def test_two_models_are_compared_on_one_folder(
    tmp_path: Path, models: dict[str, ModelBundle]
) -> None:
    """One command indexes with both, searches with both, and counts the hits in common."""
    few = draw(tmp_path / "elsewhere", 3)[0].parent
    folder = draw(tmp_path / "pictures", 12)[0].parent
    home = {"WARMCLIP_HOME": str(tmp_path / "home")}
    chosen = [models["plain"].folder, models["siglip"].folder]
    compare = ("compare", folder, "--bundle", chosen[0], "--bundle", chosen[1], "-q", "red")

    told = run(*compare, "-q", "a blue circle", **home)
    again = run(*compare, "--json", "-n", "5", **home)

    assert told.returncode == again.returncode == 0, told.stderr + again.stderr
    assert told.stdout.count(": 12 indexed\n") == 2
    assert "10 of 10 in common" in told.stdout  # they differ in the fill of panoramas only
    found = json.loads(again.stdout)
    assert [it["index"]["unchanged"] for it in found["models"]] == [12, 12]
    assert found["mean_common"] == 5
    (query,) = found["queries"]
    theirs, sure = query["hits"]
    assert [hit["probability"] for hit in theirs] == [None] * 5
    assert [hit["probability"] for hit in sure] == sorted(
        (hit["probability"] for hit in sure), reverse=True
    )
    all_of_few = run("compare", few, *compare[2:], **home)
    assert "3 of 3 in common" in all_of_few.stdout
    assert "on average: 3.0 of 3" in all_of_few.stdout
    nothing = run("compare", tmp_path / "gone", *compare[2:], **home)
    assert nothing.returncode == 1
    assert "no such file or folder" in nothing.stdout
    one = run("compare", folder, "--bundle", chosen[0], "-q", "red", **home)
    assert one.returncode == 2
    assert "name two models" in one.stderr


def test_one_model_at_a_time_is_compared(
    tmp_path: Path, models: dict[str, ModelBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is let go of before the second is loaded, however seldom garbage is collected."""
    loaded: list[weakref.ref[Encoder]] = []

    def open_encoder(settings: Settings, _terminal: object) -> Encoder:
        assert [it() for it in loaded] == [None] * len(loaded)
        encoder = Encoder.from_settings(settings)
        loaded.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr("warmclip.cli.commands.compare.open_encoder", open_encoder)
    monkeypatch.setenv("WARMCLIP_HOME", str(tmp_path / "home"))
    folder = draw(tmp_path / "pictures", 2)[0].parent
    chosen = [str(models[name].folder) for name in ("plain", "siglip")]
    arguments = ["compare", str(folder), "--bundle", chosen[0], "--bundle", chosen[1], "-q", "red"]
    usual = gc.get_threshold()
    gc.set_threshold(10**9)
    try:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    finally:
        gc.set_threshold(*usual)
    assert (done.exit_code, len(loaded)) == (0, 2), done.output
