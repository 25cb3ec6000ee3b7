"""The store refuses, is slow, or full: the job waits, or fails with a reason; nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import Rig
from running import run as run_command
from small_disk import small_disk
from standins import qdrant as stand_in
from standins.qdrant import Fault, QdrantStandIn
from warmclip.work.producer import submit_index, watch


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantStandIn]:
    """A stand-in that behaves until it is told otherwise."""
    with stand_in.serve(tmp_path / "server") as server:
        yield server


PASSING = {
    "refusing": (Fault(status=503), 6),
    "overloaded": (Fault(status=429, headers={"Retry-After": "1"}), 3),
    "slow": (Fault(delay_s=8.0), 1),
    "cutting connections": (Fault(reset=True), 5),
    "losing answers": (Fault(reset=True, done_before=True), 5),
}


@pytest.mark.parametrize(("fault", "times"), PASSING.values(), ids=PASSING)
def test_store_that_recovers(rig: Rig, server: QdrantStandIn, fault: Fault, times: int) -> None:
    """The job waits for it, longer than a horse may be silent if need be, and ends well."""
    pictures = rig.pictures(12)
    with rig.worker(QDRANT_URL=server.url, WARMCLIP_HANG_SECONDS="5") as worker:
        first = submit_index(worker.connection, worker.settings, pictures[:1])
        assert watch(worker.connection, first).indexed == 1
        horse = worker.horse
        server.fail(fault, times=times)
        run = submit_index(worker.connection, worker.settings, pictures)
        report = watch(worker.connection, run)
        assert (report.indexed, report.unchanged, report.skipped) == (11, 1, {})
        assert server.faults_to_come == 0
        assert worker.horse == horse


def test_store_that_refuses_for_good(rig: Rig, server: QdrantStandIn) -> None:
    """The pictures count as skipped, with the store's own words; the next job runs."""
    pictures = rig.pictures(3)
    with rig.worker(QDRANT_URL=server.url) as worker:
        server.fail(Fault(status=403), times=1000)
        run = submit_index(worker.connection, worker.settings, pictures)
        report = watch(worker.connection, run)
        assert set(report.skipped) == set(pictures)
        assert "answers 403" in report.skipped[pictures[0]]
        assert "check QDRANT_API_KEY" in report.skipped[pictures[0]]
        assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value


def test_disk_full(rig: Rig) -> None:
    """A job that meets a full disk fails, naming it, and the worker goes on; with space again the
    same command completes what is missing.
    """
    pictures = rig.pictures(200)
    with small_disk(rig.folder / "home", 1000) as disk, rig.worker() as worker:
        run = submit_index(worker.connection, worker.settings, pictures[:50])
        assert watch(worker.connection, run).indexed == 50
        disk.fill(50 * 1024 * 1024)
        run = submit_index(worker.connection, worker.settings, pictures)
        report = watch(worker.connection, run)
        assert report.skipped
        assert "free space" in next(iter(report.skipped.values()))
        assert worker.process.poll() is None
        disk.empty()
        run = submit_index(worker.connection, worker.settings, pictures)
        report = watch(worker.connection, run)
        assert report.indexed + report.unchanged == 200
        assert report.unchanged >= 50


def test_search_while_the_store_is_away(rig: Rig, server: QdrantStandIn) -> None:
    """A search by a worker says that it is Qdrant, and does not wait for the job's own time."""
    pictures = rig.pictures(1)
    with rig.worker(QDRANT_URL=server.url) as worker:
        first = submit_index(worker.connection, worker.settings, pictures)
        assert watch(worker.connection, first).indexed == 1
        server.close()
        done = run_command("search", "red", "--queue", **rig.environment(QDRANT_URL=server.url))
        assert done.returncode == 3
        assert f"no answer from Qdrant at {server.url}" in done.stderr
        assert "no worker answered" not in done.stderr
