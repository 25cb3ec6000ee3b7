"""A provider that is wrong, crashes, hangs or is slow: the CPU goes on, no bad vector is kept."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faults.conftest import Rig
from running import PATIENCE_S, Running, eventually, run, start_worker
from warmclip.errors import QueueUnreachable
from warmclip.indexing.audit_report import find_unverified
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.encoder import Encoder
from warmclip.inference.selection.provider_selection import read_selection
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings
from warmclip.store.open import open_store
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.liveness import STARTING
from warmclip.work.producer import submit_index, watch
from warmclip.work.status import read_status
from warmclip.work.worker_watch import WorkerWatch

TRIED = {"WARMCLIP_PROVIDER": "auto", "WARMCLIP_BATCH_SIZE": "2"}


def check_vectors(settings: Settings, pictures: list[str]) -> None:
    """Every picture is in the store once, with the CPU's vector, unless it is marked suspect."""
    encoder = Encoder.open(settings.bundle, provider="cpu")
    with open_store(settings) as store:
        suspects = {suspect.path for suspect in find_unverified(store, "images")}
        points = list(store.scroll("images", with_vectors=True))
    assert len(points) == len(pictures)
    for point in points:
        assert point.vector is not None
        if point.payload.path not in suspects:
            expected = encoder.encode_images([point.payload.path])[0]
            np.testing.assert_allclose(point.vector, expected, atol=1e-5)


def index(worker: Running, pictures: list[str]) -> None:
    """Index in one job, to the end."""
    run = submit_index(worker.connection, worker.settings, pictures, chunk=1024)
    report = watch(worker.connection, run)
    assert report.indexed + report.unchanged + report.reused == len(pictures)
    assert report.skipped == {}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong", "cosine"),
        ("nan", "NaN"),
        ("zeros", "zero length"),
        ("load", "SIGSEGV"),
        ("hang", "15 s"),
        ("slow", ""),
    ],
)
def test_found_out_by_the_trial(rig: Rig, fault: str, reason: str) -> None:
    """It is never used in service; the verdict, which the doctor shows, says why."""
    pictures = rig.pictures(6)
    faulty = {"FAULTY_AUTO": f"faulty-{fault}", "FAULTY_SECONDS": "0.3"}
    if fault == "hang":  # the others may take as long as a busy machine needs
        faulty["WARMCLIP_TRIAL_SECONDS"] = "15"
    with rig.worker(**faulty, **TRIED) as worker:
        assert "on cpu, queues" in worker.log.read_text()
        index(worker, pictures)
        settings = worker.settings
    (trial,) = [
        found
        for found in trials(settings.home)
        if found["provider"] == f"faulty-{fault}" and found["tower"] == "image"
    ]
    assert trial["passed"] == (fault == "slow")
    assert reason in str(trial["reason"])
    check_vectors(settings, pictures)


def trials(home: Path) -> list[dict[str, object]]:
    """What was found of every provider, as the doctor reads it."""
    import json

    return [json.loads(file.read_text()) for file in (home / "verdicts").glob("*.json")]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nth", "signal 6 (SIGABRT)"),
        ("hangnth", "no sign of life"),
        ("sleepnth", "no sign of life"),
        ("failnth", "Error executing model"),
        ("nannth", "NaN"),
        ("drift", "wrong image vectors"),
    ],
)
def test_found_out_in_service(rig: Rig, fault: str, reason: str) -> None:
    """Right in the trial, it fails later: it is quarantined with the reason, the job goes on on the
    CPU, and what it stored since its last good check is marked.
    """
    pictures = rig.pictures(512)  # so many that a crash comes twice in one job
    faulty = {"FAULTY_AUTO": f"faulty-{fault}", "FAULTY_N": "90", "WARMCLIP_CANARY_EVERY": "8"}
    if fault in ("hangnth", "sleepnth"):  # in the trial of the text tower, which has more runs
        faulty["WARMCLIP_TRIAL_SECONDS"] = "30"
    with rig.worker(**faulty, **TRIED) as worker:
        assert f"on faulty-{fault}, queues" in worker.log.read_text()
        index(worker, pictures)
        settings = worker.settings
        (record,) = Quarantine(settings.home).active().values()
        assert reason in record.reason
        assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value
    check_vectors(settings, pictures)
    known = read_selection(ModelBundle.open(settings.bundle), "auto", home=settings.home)
    assert known is None or set(known.chosen.values()) == {"cpu"}


def test_first_start_that_compiles(rig: Rig) -> None:
    """The worker is known meanwhile and tells what it tries; a search waits for it."""
    compiled = rig.folder / "compiled"
    environment = rig.environment(
        FAULTY_AUTO="faulty-compiler", FAULTY_COMPILE_UNTIL=str(compiled), **TRIED
    )
    log = rig.folder / "worker.log"
    with open_broker(Settings.from_env(environment)) as connection:
        process = start_worker(environment, log=log)
        try:
            eventually(lambda: any(worker.at for worker in read_status(connection).workers))
            (worker,) = read_status(connection).workers
            assert (worker.state, worker.at) == (
                STARTING,
                (0, 4, "trying faulty-compiler on images"),
            )
            stage = "trying faulty-compiler on images, 1 of 4"
            assert stage in run("status", **environment).stdout
            assert stage in log.read_text()
            stalls = WorkerWatch(connection, "default", 60.0)
            eventually(lambda: started_far(stalls))
            with pytest.raises(QueueUnreachable, match="starting: trying faulty-compiler on im"):
                call(connection, "canary", {}, timeout_s=2)
            said = rig.folder / "search.log"
            command = [sys.executable, "-m", "warmclip.cli", "search", "a red circle", "--queue"]
            with (
                said.open("w") as stream,
                subprocess.Popen(command, env=os.environ | environment, stderr=stream) as search,
            ):
                eventually(lambda: f"waiting: a worker is starting: {stage}" in said.read_text())
                compiled.touch()
                search.wait(PATIENCE_S)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    assert "there is no collection 'images' yet" in said.read_text()


def started_far(stalls: WorkerWatch) -> str | None:
    """What somebody who follows jobs learns of a start."""
    stalls.check()
    return stalls.start
