"""Results of jobs, and what a job may know and do."""

import pytest
from rq.defaults import UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.job import JobStatus
from rq.utils import now

from running import Running, outcome
from standins import user_jobs
from user_worker import enqueue, fresh, queue_of, run, seen, status

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


def test_result(worker: Running) -> None:
    """A result is there, its job is finished and listed as such, and it names its worker."""
    job = enqueue(worker, user_jobs.add, 1, 2)
    assert outcome(job).return_value == 3
    job = fresh(job)
    assert status(job) == JobStatus.FINISHED
    assert job.return_value() == 3
    assert job.id in queue_of(worker).finished_job_registry
    assert job.worker_name == seen(worker).name
    assert queue_of(worker).started_job_registry.get_job_ids() == []
    assert queue_of(worker).intermediate_queue.get_job_ids() == []


def test_result_ttl(worker: Running) -> None:
    """A job and its result live as long as asked: 30 s, for ever, or not at all."""
    for_a_while = enqueue(worker, user_jobs.add, 1, 2, result_ttl=30)
    for_ever = enqueue(worker, user_jobs.add, 1, 2, result_ttl=-1)
    for_no_time = enqueue(worker, user_jobs.add, 1, 2, result_ttl=0)
    last = enqueue(worker, user_jobs.add, 1, 2)
    outcome(last)
    assert 0 < worker.connection.ttl(for_a_while.key) <= 30
    assert worker.connection.ttl(for_ever.key) == -1
    assert not worker.connection.exists(for_no_time.key)


def test_long_job_without_result(worker: Running) -> None:
    """A job that outlives heartbeats and is to leave nothing leaves nothing."""
    job = enqueue(worker, user_jobs.sleep, 6, result_ttl=0)
    outcome(enqueue(worker, user_jobs.add, 1, 2))
    assert list(worker.connection.scan_iter(f"*{job.id}*")) == []


def test_times(worker: Running) -> None:
    """A job's times are in order."""
    before = now()
    job = enqueue(worker, user_jobs.sleep, 0.2)
    outcome(job)
    job = fresh(job)
    assert job.enqueued_at is not None
    assert job.started_at is not None
    assert job.ended_at is not None
    assert before <= job.enqueued_at <= job.started_at <= job.ended_at <= now()
    assert (job.ended_at - job.started_at).total_seconds() >= 0.2


def test_result_that_is_no_json(worker: Running) -> None:
    """Its job is finished, as RQ has it, and says that the result could not be kept."""
    assert run(worker, user_jobs.no_json).return_value == UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
    assert run(worker, user_jobs.add, 1, 2).return_value == 3


def test_coroutine(worker: Running) -> None:
    """A coroutine function is awaited."""
    assert run(worker, user_jobs.add_later, 1, 2).return_value == 3


def test_words_of_all_languages(worker: Running) -> None:
    """Arguments, results and descriptions are Unicode."""
    job = enqueue(worker, user_jobs.echo, "你好 caf\u00e9", description="世界")
    assert outcome(job).return_value == "你好 caf\u00e9"
    job = fresh(job)
    assert job.description == "世界"


def test_arguments_are_not_logged(worker: Running) -> None:
    """What a job was asked may be private."""
    run(worker, user_jobs.echo, "a-secret-search")
    assert "a-secret-search" not in worker.log.read_text()


def test_current_job(worker: Running) -> None:
    """A job can ask which one it is."""
    job = enqueue(worker, user_jobs.who)
    assert outcome(job).return_value == job.id


@pytest.mark.parametrize("fails", [False, True])
def test_meta(worker: Running, fails: bool) -> None:
    """Meta data that a job saves stays, with what was there before, even if the job fails."""
    job = enqueue(worker, user_jobs.mark, {"new": 1, "old": 2}, fails, meta={"old": 1, "kept": 3})
    outcome(job)
    assert job.get_meta() == {"new": 1, "old": 2, "kept": 3}


def test_warm_model(worker: Running) -> None:
    """The user's function has the worker's model."""
    result = run(worker, user_jobs.embed, "a red circle").return_value
    assert isinstance(result, list)
    assert sum(number * number for number in result) == pytest.approx(1, abs=1e-5)


def test_one_process(worker: Running) -> None:
    """Jobs run in the worker's horse, one after the other, and not in the worker."""
    pids = {run(worker, user_jobs.process).return_value for _ in range(3)}
    assert pids == {worker.horse}
