"""The worker's own process is killed, asked to stop, or started twice."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from faults.conftest import Rig
from running import (
    PATIENCE_S,
    Running,
    children,
    eventually,
    outcome,
    start_worker,
    wait_for_worker,
)
from warmclip.errors import StoreHeld
from warmclip.process_table import is_running
from warmclip.settings import Settings
from warmclip.store.embedded_lock import lock_store
from warmclip.store.open import open_store
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.producer import submit_index, watch
from warmclip.work.queues import open_queue
from warmclip.work.status import read_status

SLOW = {"WARMCLIP_PROVIDER": "faulty-slow", "FAULTY_SECONDS": "0.2", "WARMCLIP_BATCH_SIZE": "8"}
EMBED = "warmclip.work.jobs.embed_texts"


def is_busy(worker: Running) -> None:
    """Wait until a job runs."""
    eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
    time.sleep(0.3)


def is_free(settings: Settings) -> bool:
    """Whether nobody has the embedded store open."""
    try:
        os.close(lock_store(settings.embedded_store))
    except StoreHeld:
        return False
    return True


def stored(settings: Settings) -> list[str]:
    """The pictures in the store, with repetitions if there were any.

    The horse of a worker that was killed may still be leaving.
    """
    eventually(lambda: is_free(settings))
    with open_store(settings) as store:
        return sorted(point.payload.path for point in store.scroll("images"))


def test_killed_parent(rig: Rig) -> None:
    """Its horse leaves at its next step; the next worker waits for that, and runs the job."""
    pictures = rig.pictures(24)
    with rig.worker(**SLOW) as worker:
        run = submit_index(worker.connection, worker.settings, pictures)
        is_busy(worker)
        horse = worker.horse
        worker.process.kill()
        worker.process.wait()
        with rig.worker(**SLOW) as second:
            assert not is_running(horse)
            report = watch(second.connection, run)
            assert report.indexed + report.unchanged == 24
            assert report.skipped == {}
            assert second.run(EMBED, ["still here"]).return_value


@pytest.mark.parametrize("function", ["sleep", "hold"])
def test_killed_parent_of_a_long_job(rig: Rig, function: str) -> None:
    """A function of one's own knows no steps: its horse is ended within seconds, by itself or, if
    it lets no Python run, by the next worker; that has the store then.
    """
    with rig.worker() as worker:
        job = worker.enqueue(f"faulty_jobs.{function}", 500, job_timeout=1000)
        is_busy(worker)
        horse = worker.horse
        worker.process.kill()
        worker.process.wait()
        with rig.worker() as second:
            assert not is_running(horse)
            assert second.run(EMBED, ["still here"]).return_value
            assert "its worker died" in str(outcome(job, 60).exc_string)


def test_killed_parent_and_horse(rig: Rig) -> None:
    """The job that ran is found by the next worker within seconds, and is run again."""
    pictures = rig.pictures(24)
    with rig.worker(**SLOW) as worker:
        run = submit_index(worker.connection, worker.settings, pictures)
        is_busy(worker)
        horse = worker.horse
        worker.process.kill()
        os.kill(horse, signal.SIGKILL)
        worker.process.wait()
        with rig.worker(**SLOW) as second:
            report = watch(second.connection, run)
            assert report.indexed + report.unchanged == 24
            assert report.skipped == {}


@pytest.mark.parametrize("queues", ["default", "high,default"], ids=["one queue", "two queues"])
def test_killed_between_taking_a_job_and_starting_it(rig: Rig, queues: str) -> None:
    """Such a job is in no queue, and not recorded as started; it is not lost."""
    with rig.worker(f"--queues={queues}", FAULTY_DIES_AFTER_TAKING="1") as worker:
        job = worker.enqueue(EMBED, ["a"])
        assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL
        queue = open_queue(worker.connection)
        assert queue.job_ids == []
        assert queue.started_job_registry.get_job_ids() == []
        with rig.worker(f"--queues={queues}"):
            assert outcome(job, 60).return_value
            assert queue.intermediate_queue.get_job_ids() == []


def test_asked_to_stop(rig: Rig) -> None:
    """SIGTERM: the job is finished, no other is begun, the worker and its horse leave well."""
    with rig.worker() as worker:
        first = worker.enqueue("faulty_jobs.sleep", 2)
        second = worker.enqueue("faulty_jobs.sleep", 2)
        is_busy(worker)
        horse = worker.horse
        os.kill(horse, signal.SIGTERM)  # as a service manager does that signals every process
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_S) == 0
        assert not is_running(horse)
        assert outcome(first).return_value == 2
        assert open_queue(worker.connection).job_ids == [second.id]


def test_asked_to_stop_twice(rig: Rig) -> None:
    """It stops at once, and the job is where it was, without having lost an attempt."""
    with rig.worker() as worker:
        job = worker.enqueue("faulty_jobs.sleep", 100)
        is_busy(worker)
        horse = worker.horse
        worker.process.terminate()
        time.sleep(1.2)
        assert worker.process.poll() is None
        worker.process.terminate()
        assert worker.process.wait(10) == 0
        assert not is_running(horse)
        queue = open_queue(worker.connection)
        assert queue.job_ids == [job.id]
        assert queue.started_job_registry.get_job_ids() == []
        assert queue.failed_job_registry.get_job_ids() == []


def test_asked_to_stop_while_loading(rig: Rig) -> None:
    """It leaves at once: a horse that loads for ever is not waited for."""
    environment = rig.environment()
    with open_broker(Settings.from_env(environment)) as connection:
        process = start_worker(environment, log=rig.folder / "worker.log")
        eventually(lambda: children(process.pid))
        (horse,) = children(process.pid)
        os.kill(horse, signal.SIGSTOP)
        try:
            eventually(lambda: read_status(connection).workers)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            assert not is_running(horse)
        finally:
            process.kill()
            process.wait()


def test_thirty_kills(rig: Rig) -> None:
    """Horses, workers and both are killed at random moments while 300 pictures are indexed; then
    each is in the store once, no job is lost, and no picture is blamed.

    Three kills in a row may be in vain, then a job must end: one that is killed a dozen times is
    given up, and on a slow machine all would hit the same.
    """
    pictures = rig.pictures(300)
    environment = rig.environment(WARMCLIP_BATCH_SIZE="4", WARMCLIP_MAX_CRASHES="1000")
    settings = Settings.from_env(environment)
    log = rig.folder / "worker.log"
    chance = random.Random(0)
    victims = ["horse"] * 26 + ["worker"] * 2 + ["both"] * 2
    chance.shuffle(victims)
    with open_broker(settings) as connection:
        run = submit_index(connection, settings, pictures)
        finished = open_queue(connection).finished_job_registry
        ended = in_vain = 0
        process = start_worker(environment, log=log)
        try:
            for victim in victims:
                if in_vain == 3 and ended < len(run.job_ids):
                    eventually(lambda: len(finished.get_job_ids()) > ended)  # noqa: B023 - at once
                before, ended = ended, len(finished.get_job_ids())
                in_vain = 0 if ended > before else in_vain + 1
                wait_for_worker(process, connection, log)
                time.sleep(chance.uniform(0, 1.5))
                horses = children(process.pid)
                if victim != "worker":
                    for horse in horses:
                        os.kill(horse, signal.SIGKILL)
                if victim != "horse":
                    process.kill()
                    process.wait()
                    process = start_worker(environment, log=log)
            report = watch(connection, run)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
        assert report.skipped == {}, log.read_text()
        assert PoisonedFiles(connection).all() == []
        queue = open_queue(connection)
        assert queue.job_ids == queue.intermediate_queue.get_job_ids() == []
        assert len(queue.finished_job_registry.get_job_ids()) == len(run.job_ids)
    assert stored(settings) == sorted(os.path.realpath(path) for path in pictures)


def test_two_workers_at_once(rig: Rig) -> None:
    """Of two that start at the same moment on one embedded store, one works; the other says why
    it does not.
    """
    environment = rig.environment()
    with open_broker(Settings.from_env(environment)) as connection:
        logs = [rig.folder / "a.log", rig.folder / "b.log"]
        both = [start_worker(environment, log=log) for log in logs]
        try:
            eventually(lambda: any(process.poll() is not None for process in both))
            (loser,) = [it for it in both if it.poll() is not None]
            (winner,) = [it for it in both if it is not loser]
            assert loser.returncode == 3
            assert "QDRANT_URL" in logs[both.index(loser)].read_text()
            wait_for_worker(winner, connection, logs[both.index(winner)])
            job = open_queue(connection).enqueue(EMBED, ["a"])
            assert outcome(job).return_value
        finally:
            for process in both:
                process.terminate()
                process.wait(PATIENCE_S)


def test_question_behind_a_long_job(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks while the only worker is busy is told that, and answered before the jobs that
    were queued earlier.
    """
    with rig.worker(WARMCLIP_PROVIDER="faulty-slow", FAULTY_SECONDS="3") as worker:
        jobs = [worker.enqueue(EMBED, [text]) for text in ("running", "queued")]
        is_busy(worker)
        answer = call(worker.connection, "embed_texts", {"texts": ["asked"]})
        assert set(answer["vectors"]) == {"asked"}
        assert jobs[1].get_status() != "finished"
    assert "every worker is busy" in caplog.text


@pytest.mark.parametrize("kind", ["with a space", "read-only", "missing"])
def test_temporary_folder(rig: Rig, kind: str) -> None:
    """Whatever TMPDIR is, a worker works."""
    folder = rig.folder / "tmp dir"
    if kind == "with a space":
        folder.mkdir()
    elif kind == "read-only":  # for root as well, where the system has such a place
        folder = Path("/proc") if Path("/proc").exists() else rig.folder / "closed"
        folder.mkdir(mode=0o500, exist_ok=True)
    with rig.worker(TMPDIR=str(folder)) as worker:
        run = submit_index(worker.connection, worker.settings, rig.pictures(3))
        assert watch(worker.connection, run).indexed == 3


def test_nothing_is_left_running(rig: Rig) -> None:
    """When the last worker has left, so have its horse and its Redis."""
    with rig.worker() as worker:
        horse, folder = worker.horse, worker.settings.home
    assert not is_running(horse)
    found = subprocess.run(
        ["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
