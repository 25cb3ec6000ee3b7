"""A collection goes to another model and back while workers serve it: no question is lost."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from running import (
    PATIENCE_S,
    environment_of,
    eventually,
    outcome,
    reason,
    running_worker,
)
from serving import draw
from standins import qdrant
from standins.redis_server import RedisServer, redis_server
from tiny_models import rewritten
from warmclip.errors import SpaceMismatch, WarmclipError
from warmclip.inference.bundle import ModelBundle
from warmclip.settings import Settings
from warmclip.store.protocol import Space
from warmclip.store.qdrant import QdrantStore
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.workers import read_workers

WORKERS = int(os.environ.get("UPGRADE_WORKERS", "2"))
"""`make model-switch` runs this with four, and more questions at once."""

THREADS = int(os.environ.get("UPGRADE_THREADS", "2"))
SETTLED = int(os.environ.get("UPGRADE_ANSWERS", "20"))  # answers before the next step

pytestmark = pytest.mark.usefixtures("server_binary")


@dataclass
class Searching:
    """Threads that ask one question after another, as people do, and what they were told."""

    PAUSE_S = 0.05  # of each thread, so that the commands beside them get a processor too

    settings: Settings
    answers: Counter[str] = field(default_factory=Counter)  # by the fingerprint of the space
    failures: list[str] = field(default_factory=list)

    def ask(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        with open_broker(self.settings) as connection:
            while not stop.wait(self.PAUSE_S):
                try:
                    answer = call(connection, "search", {"collection": "images", "text": "red"})
                except WarmclipError as exc:
                    self.failures.append(repr(exc))
                else:
                    assert len(answer["hits"]) == 10
                    self.answers[answer["fingerprint"]] += 1


@contextmanager
def searching(settings: Settings, threads: int = THREADS) -> Iterator[Searching]:
    """Constant load while the block runs."""
    found, stop = Searching(settings), threading.Event()
    askers = [threading.Thread(target=found.ask, args=(stop,)) for _ in range(threads)]
    for asker in askers:
        asker.start()
    try:
        yield found
    finally:
        stop.set()
        for asker in askers:
            asker.join(PATIENCE_S)


@pytest.fixture
def models(tmp_path: Path, demo_bundle: Path) -> tuple[ModelBundle, ModelBundle]:
    """Two models beside each other: the latter converts pictures to RGB first."""
    folder = tmp_path / "models"
    folder.mkdir()
    old = rewritten(ModelBundle.open(demo_bundle), folder / "old")
    recipe = old.manifest.image.model_copy(update={"rgb_conversion": "before_resize"})
    return old, rewritten(old, folder / "new", image=recipe)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis:
        yield redis


def loaded(connection: Redis) -> list[str]:
    """The model of each worker: one that has two names that of its collection first."""
    return [it.models[0] if it.models else "" for it in read_workers(connection)]


def command(environment: dict[str, str], *arguments: str) -> str:
    """Run a command, which must succeed; what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "warmclip.cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def count(environment: dict[str, str]) -> int:
    """The pictures that the collection in use has."""
    told = json.loads(command(environment, "collections", "info", "images", "--json"))
    return int(told["generations"][0]["points"])


def test_switch_under_load(
    tmp_path: Path, models: tuple[ModelBundle, ModelBundle], redis: RedisServer
) -> None:
    """Constant searches, pictures indexed meanwhile, there and back: no search fails, each is
    answered from one space, the pictures are in the new one, and no worker is started again.
    """
    old, new = (it.manifest.fingerprint for it in models)
    pictures = tmp_path / "pictures"
    draw(pictures, 60)
    with qdrant.serve(tmp_path / "server") as store:
        environment = environment_of(
            tmp_path / "home",
            models[0].folder,
            WARMCLIP_ROOTS=str(pictures),
            REDIS_URL=redis.url(),
            QDRANT_URL=store.url,
        )
        settings = Settings.from_env(environment)
        command(environment, "index", str(pictures))
        with running_worker(settings, environment, "--workers", str(WORKERS)) as worker:
            eventually(lambda: loaded(worker.connection) == [old] * WORKERS)
            pids = {it.pid for it in read_workers(worker.connection)}
            with searching(settings) as found:
                eventually(lambda: found.answers[old] > SETTLED)
                migrate = ("migrate", "images", "--bundle", str(models[1].folder))
                command(environment, *migrate, "--no-switch")
                assert loaded(worker.connection) == [old] * WORKERS
                late = [str(path) for path in draw(pictures, 10, start=60)]
                job = worker.enqueue("warmclip.work.jobs.index_images", late, "images")
                told = command(environment, *migrate)
                assert "still has the former model" not in told
                assert loaded(worker.connection) == [new] * WORKERS
                before = found.answers[old]
                eventually(lambda: found.answers[new] > SETTLED)
                report: Any = outcome(job).return_value
                assert (report["indexed"] + report["unchanged"], report["skipped"]) == (10, {})
                assert count(environment) == 70
                assert not found.failures
                assert found.answers[old] - before <= THREADS
                command(environment, "migrate", "images", "--switch-back")
                assert loaded(worker.connection) == [old] * WORKERS
            answers = sum(found.answers.values())
            print(f"\n{answers} answers, {len(found.failures)} failed")  # noqa: T201 - the figures
            assert found.failures == []
            assert set(found.answers) == {old, new}
            assert {it.pid for it in read_workers(worker.connection)} == pids


def test_worker_without_the_bundle(tmp_path: Path, models: tuple[ModelBundle, ModelBundle]) -> None:
    """It answers from the former vectors, says what it lacks, and follows once that is there;
    the job that had to wait for it is done.
    """
    old, new = (it.manifest.fingerprint for it in models)
    elsewhere = models[1].folder.rename(tmp_path / "elsewhere")
    environment = environment_of(tmp_path / "home", models[0].folder)
    settings = Settings.from_env(environment)
    paths = [str(path) for path in draw(tmp_path / "pictures", 3)]
    index, search = "warmclip.work.jobs.index_images", {"collection": "images", "text": "red"}
    with running_worker(settings, environment) as worker:
        assert worker.run(index, paths, "images").return_value
        with QdrantStore.remote(settings.embedded_store) as store:
            store.create_collection("images", Space(fingerprint=new, dim=models[1].manifest.dim))
            store.switch_alias("images", new)
        answer = call(worker.connection, "search", search)
        assert (answer["fingerprint"], len(answer["hits"])) == (old, 3)
        refused = reason(worker.run(index, paths, "images", retry=None))
        assert f"no bundle of it: copy that bundle beside {models[0].folder}" in refused
        assert "migrate" not in refused
        told = command(environment, "status")
        assert f"has the model {old[:12]}: there is no bundle of the model {new[:12]}" in told
        elsewhere.rename(models[1].folder)
        report: Any = worker.run(index, paths, "images").return_value
        assert report["indexed"] == 3
        answer = call(worker.connection, "search", search)
        assert (answer["fingerprint"], len(answer["hits"])) == (new, 3)
        assert "there is no bundle" not in command(environment, "status")


def test_worker_of_a_model_that_is_being_filled(
    tmp_path: Path, models: tuple[ModelBundle, ModelBundle]
) -> None:
    """It has no bundle of the model in use, and says so: a search of the few pictures that the
    migration has reached so far would find nearly nothing.
    """
    old, new = models
    environment = environment_of(tmp_path / "home", old.folder)
    paths = [str(path) for path in draw(tmp_path / "pictures", 3)]
    with running_worker(Settings.from_env(environment), environment) as worker:
        assert worker.run("warmclip.work.jobs.index_images", paths, "images").return_value
    old.folder.rename(tmp_path / "elsewhere")
    environment = environment_of(tmp_path / "home", new.folder)
    settings = Settings.from_env(environment)
    with QdrantStore.embedded(settings.embedded_store) as store:
        space = Space(fingerprint=new.manifest.fingerprint, dim=new.manifest.dim)
        store.create_collection("images", space)
    with running_worker(settings, environment) as worker, pytest.raises(SpaceMismatch) as told:
        call(worker.connection, "search", {"collection": "images", "text": "red"})
    assert "finds no bundle of it" in str(told.value)


def test_bundle_that_cannot_be_loaded(
    tmp_path: Path, models: tuple[ModelBundle, ModelBundle]
) -> None:
    """The worker stays with the model that it has, and says so; a job that writes fails."""
    old, new = (it.manifest.fingerprint for it in models)
    golden = models[1].golden()
    golden.write_bytes(bytes(golden.stat().st_size))
    environment = environment_of(tmp_path / "home", models[0].folder)
    settings = Settings.from_env(environment)
    paths = [str(path) for path in draw(tmp_path / "pictures", 3)]
    index, search = "warmclip.work.jobs.index_images", {"collection": "images", "text": "red"}
    with running_worker(settings, environment) as worker:
        assert worker.run(index, paths, "images").return_value
        with QdrantStore.remote(settings.embedded_store) as store:
            store.create_collection("images", Space(fingerprint=new, dim=models[1].manifest.dim))
            store.switch_alias("images", new)
        assert call(worker.connection, "search", search)["fingerprint"] == old
        assert "could not load" in reason(worker.run(index, paths, "images"))
        assert call(worker.connection, "search", search)["fingerprint"] == old
        assert "cannot be loaded" in command(environment, "status")
