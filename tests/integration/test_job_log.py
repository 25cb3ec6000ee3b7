"""The log of a real worker as machines read it."""

import json
from pathlib import Path

import pytest
from rq.job import JobStatus, Retry

from running import eventually, outcome, running_worker
from standins import user_jobs
from user_worker import enqueue, user_environment
from warmclip.settings import Settings
from warmclip.work.status import read_status

pytestmark = pytest.mark.usefixtures("server_binary")


def test_outcomes_in_the_log(tmp_path: Path, demo_bundle: Path) -> None:
    """As JSON a job's end has fields of its own: which job, how long it took, how it failed."""
    environment = user_environment(tmp_path / "home", demo_bundle)
    with running_worker(Settings.from_env(environment), environment, "--log-json") as worker:
        done = enqueue(worker, user_jobs.add, 1, 2)
        failed = enqueue(worker, user_jobs.fail, "no reason")
        again = enqueue(worker, user_jobs.fail_until, str(tmp_path / "runs"), 2, retry=Retry(max=1))
        for job in (done, failed, again):
            outcome(job)
        eventually(lambda: again.get_status() == JobStatus.FINISHED)
        name = next(iter(read_status(worker.connection).workers)).name
    told = [json.loads(line) for line in worker.log.read_text().splitlines()]
    ends = [it for it in told if it.get("action", "").startswith("job_")]
    assert [(it["job"], it["action"], it.get("error")) for it in ends] == [
        (done.id, "job_done", None),
        (failed.id, "job_failed", "ValueError"),
        (again.id, "job_retried", "ValueError"),
        (again.id, "job_done", None),
    ]
    assert {(it["queue"], it["worker"]) for it in ends} == {("default", name)}
    assert [it["function"].rpartition(".")[2] for it in ends] == [
        *("add", "fail", "fail_until", "fail_until")
    ]
    assert all(it["seconds"] >= 0 for it in ends)
