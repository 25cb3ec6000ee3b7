"""Several workers under one supervisor: real processes, and a stand-in for the Qdrant server."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis
from rq.command import send_stop_job_command
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import Worker

from running import PATIENCE_S, children, eventually, outcome, start_worker
from standins import qdrant, user_jobs
from user_worker import JOBS, lines, user_environment
from warmclip.process_table import is_running
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.liveness import STARTING
from warmclip.work.producer import submit_index, watch

pytestmark = pytest.mark.usefixtures("server_binary")


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """Workers that listen, their supervisor, and their Redis."""

    process: subprocess.Popen[str]
    connection: Redis
    settings: Settings
    log: Path

    @property
    def workers(self) -> set[int]:
        """The processes of the workers that are listed and have started."""
        listed = Worker.all(connection=self.connection, serializer=JSONSerializer)
        ready = [worker for worker in listed if worker.get_state() != STARTING]
        return {worker.pid for worker in ready if worker.pid and is_running(worker.pid)}

    def enqueue(self, function: str, *arguments: object) -> Job:
        """Enqueue one of the user's jobs."""
        queue = Queue(connection=self.connection, serializer=JSONSerializer)
        return queue.enqueue(f"{JOBS}.{function}", args=arguments)


@contextmanager
def supervised(environment: dict[str, str], *arguments: str, log: Path) -> Iterator[Supervised]:
    """`warmclip worker` with two workers; they are stopped at the end."""
    settings = Settings.from_env(environment)
    with open_broker(settings) as connection:
        process = start_worker(environment, *arguments, log=log)
        two = Supervised(process=process, connection=connection, settings=settings, log=log)
        try:
            eventually(lambda: len(two.workers) == 2)
            yield two
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            eventually(lambda: not two.workers)


@pytest.fixture
def two(tmp_path: Path, demo_bundle: Path) -> Iterator[Supervised]:
    """`warmclip worker --workers 2`, with a store that more than one may use."""
    with qdrant.serve(tmp_path / "server") as server:
        environment = user_environment(tmp_path / "home", demo_bundle, QDRANT_URL=server.url)
        with supervised(environment, "--workers", "2", log=tmp_path / "log") as two:
            yield two


@pytest.fixture(params=["server", "embedded"])
def reserved(
    request: pytest.FixtureRequest, tmp_path: Path, demo_bundle: Path
) -> Iterator[Supervised]:
    """`warmclip worker --reserve high`, with a Qdrant server and with the embedded store."""
    environment = user_environment(tmp_path / "home", demo_bundle)
    del environment["QDRANT_URL"]
    with ExitStack() as stack:
        if request.param == "server":
            server = stack.enter_context(qdrant.serve(tmp_path / "server"))
            environment["QDRANT_URL"] = server.url
        two = supervised(environment, "--reserve", "high", log=tmp_path / "log")
        yield stack.enter_context(two)


def test_both_work(two: Supervised, tmp_path: Path) -> None:
    """Two jobs run at once, in the horses of both; both write into one store."""
    traces = [tmp_path / name for name in ("one", "another")]
    jobs = [two.enqueue("sleep", 3, str(trace)) for trace in traces]
    eventually(lambda: [lines(trace) for trace in traces] == [["begin"], ["begin"]])
    assert {job.get_status() for job in jobs} == {JobStatus.STARTED}
    for job in jobs:
        outcome(job)
    ran_in = {outcome(two.enqueue("process")).return_value for _ in range(20)}
    horses = {horse for worker in two.workers for horse in children(worker)}
    assert len(horses) == 2
    assert ran_in <= horses

    folder = tmp_path / "pictures"
    folder.mkdir()
    for shade in range(8):
        Image.new("RGB", (64, 64), (shade * 30, 0, 0)).save(folder / f"{shade}.png")
    run = submit_index(two.connection, two.settings, [folder], chunk=2)
    assert watch(two.connection, run).indexed == 8
    found = call(two.connection, "search", {"collection": "images", "text": "red", "limit": 20})
    assert len(found["hits"]) == 8


def test_search_beside_a_long_job(reserved: Supervised, tmp_path: Path) -> None:
    """With a worker that is reserved for `high`, a search is answered while a long job runs."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    run = submit_index(reserved.connection, reserved.settings, [folder])
    assert watch(reserved.connection, run).indexed == 1
    traces = [tmp_path / name for name in ("one", "another")]
    jobs = [reserved.enqueue("sleep", 600, str(trace)) for trace in traces]
    eventually(lambda: any(map(lines, traces)))
    found = call(reserved.connection, "search", {"collection": "images", "text": "red"})
    assert [Path(hit["path"]).name for hit in found["hits"]] == ["red.png"]
    # The reserved worker takes nothing else, so one of the two jobs still waits.
    assert sorted(map(str, map(lines, traces))) == ["['begin']", "[]"]
    asked = {"paths": [str(folder)], "collection": "images"}
    assert call(reserved.connection, "forget_images", asked)["pictures"] == 1
    for job in jobs:
        job.cancel()
        if lines(traces[jobs.index(job)]):
            send_stop_job_command(reserved.connection, job.id, JSONSerializer)


def test_killed_worker(two: Supervised, tmp_path: Path) -> None:
    """It is replaced; the other one works on meanwhile."""
    before = two.workers
    killed, other = before
    os.kill(killed, signal.SIGKILL)
    assert outcome(two.enqueue("add", 1, 2)).return_value == 3
    eventually(lambda: len(two.workers) == 2)
    assert killed not in two.workers
    assert other in two.workers
    traces = [tmp_path / name for name in ("one", "another")]
    for trace in traces:
        two.enqueue("sleep", 1, str(trace))
    eventually(lambda: [lines(trace) for trace in traces] == [["begin"], ["begin"]])
    assert f"worker {killed} ended with -9" in two.log.read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopped(two: Supervised, tmp_path: Path, signum: int) -> None:
    """Every worker finishes its job and leaves; what waits stays queued; the exit code is 0."""
    traces = [tmp_path / name for name in ("one", "another")]
    jobs = [two.enqueue("sleep", 2, str(trace)) for trace in traces]
    eventually(lambda: [lines(trace) for trace in traces] == [["begin"], ["begin"]])
    waiting = two.enqueue("add", 1, 2)
    two.process.send_signal(signum)
    assert two.process.wait(PATIENCE_S) == 0
    assert [lines(trace) for trace in traces] == [["begin", "end"]] * 2
    assert {job.get_status() for job in jobs} == {JobStatus.FINISHED}
    assert waiting.get_status() == JobStatus.QUEUED
    assert two.workers == set()


def test_killed_supervisor(two: Supervised, tmp_path: Path) -> None:
    """Its workers finish their jobs and leave; no process is left over."""
    trace = tmp_path / "trace"
    job = two.enqueue("sleep", 2, str(trace))
    eventually(lambda: lines(trace) == ["begin"])
    workers = two.workers
    horses = {horse for worker in workers for horse in children(worker)}
    two.process.kill()
    eventually(lambda: not any(map(is_running, workers | horses)))
    assert job.get_status() == JobStatus.FINISHED
    assert lines(trace) == ["begin", "end"]


def test_embedded_store(tmp_path: Path, demo_bundle: Path) -> None:
    """Several workers on a store that has one owner are refused, naming what they need."""
    environment = user_environment(tmp_path / "home", demo_bundle)
    del environment["QDRANT_URL"]
    log = tmp_path / "log"
    process = start_worker(environment, "--workers", "2", log=log)
    assert process.wait(PATIENCE_S) == 2
    told = " ".join(log.read_text().split())
    assert "the embedded store has one owner" in told
    assert "QDRANT_URL" in told
    assert "Traceback" not in told


def test_missing_model(tmp_path: Path) -> None:
    """What no new start would mend ends the whole, with the reason, and not in a loop."""
    environment = user_environment(tmp_path / "home", tmp_path / "no-model")
    log = tmp_path / "log"
    process = start_worker(environment, "--workers", "2", log=log)
    assert process.wait(PATIENCE_S) == 2
    assert "no-model" in log.read_text()


def test_burst(tmp_path: Path, demo_bundle: Path) -> None:
    """With --burst they leave when the queues are empty, and so does the supervisor."""
    environment = user_environment(tmp_path / "home", demo_bundle)
    log = tmp_path / "log"
    with open_broker(Settings.from_env(environment)) as connection:
        queue = Queue(connection=connection, serializer=JSONSerializer)
        jobs = [queue.enqueue(f"{user_jobs.__name__}.add", number, 1) for number in range(10)]
        process = start_worker(environment, "--workers", "2", "--burst", log=log)
        assert process.wait(PATIENCE_S) == 0
        assert {job.get_status() for job in jobs} == {JobStatus.FINISHED}
