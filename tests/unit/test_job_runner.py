"""How the horse runs one job: real functions, callbacks and time limits, without Redis."""

import base64
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redis import Redis
from rq import Callback
from rq.job import Job
from rq.serializers import JSONSerializer

from warmclip.work.allowlist import find_functions
from warmclip.work.horse import runner as running
from warmclip.work.horse.report import JobReport
from warmclip.work.horse.runner import JobRunner

_CODE = """
import time
from rq.job import Retry
from rq.timeouts import JobTimeoutException
from warmclip.work.horse.models import ModelNeeded

SAID = []

def give(value):
    return value

def give_a_set():
    return {1}

def again(most, intervals):
    retry = Retry(max=most, interval=[0])
    retry.intervals = intervals
    return retry

def fail():
    raise ValueError("no such folder")

def leave():
    raise SystemExit(3)

def need_a_model():
    raise ModelNeeded("the model abc is needed")

def overrun():
    while True:
        time.sleep(0.01)

def overrun_quietly():
    try:
        overrun()
    except JobTimeoutException:
        return "done"

def on_success(job, connection, value):
    SAID.append((job.get_status(refresh=False).value, value))

def on_failure(job, connection, kind, error, trace):
    SAID.append((kind.__name__, str(error), trace is not None))

def on_success_fail(job, connection, value):
    raise KeyError("the callback")

def on_failure_fail(job, connection, kind, error, trace):
    raise KeyError("the callback")
"""
NAME = "jobs_of_the_runners_tests"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A user's module."""
    folder = tmp_path_factory.mktemp("jobs")
    Path(folder / f"{NAME}.py").write_text(_CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module(NAME)


@pytest.fixture
def runner(jobs: ModuleType) -> JobRunner:
    """The horse's; nothing was said yet."""
    jobs.SAID.clear()
    kind = find_functions([f"{NAME}.*"])
    return JobRunner(kind, Redis(), "w", jobs.SAID.append)


def record(function: str, *args: Any, **options: Any) -> dict[str, str]:
    """A job as the worker hands it on."""
    job = Job.create(
        f"{NAME}.{function}",
        args=args,
        connection=Redis(),
        serializer=JSONSerializer,
        origin="default",
        **options,
    )
    fields = job.to_dict() | {"status": "started"}
    raw = {name: it if isinstance(it, bytes) else str(it).encode() for name, it in fields.items()}
    return {name: base64.b64encode(it).decode() for name, it in raw.items()}


def run(runner: JobRunner, function: str, *args: Any, **options: Any) -> JobReport:
    """Run a job that may not wait for a model."""
    return runner.run("e", "j", record(function, *args, **options), may_wait=False)


def callback(name: str, seconds: int) -> Callback:
    """One of the module's, with so much time."""
    return Callback(f"{NAME}.{name}", timeout=seconds)


@pytest.mark.parametrize("value", [3, None, {"a": [1.5]}, "\u00e4"])
def test_value(runner: JobRunner, value: Any) -> None:
    """It is told in JSON, with how long it is kept; the horse may go on."""
    report = run(runner, "give", value, result_ttl=7, failure_ttl=8)
    assert (report.execution, report.outcome, report.tainted) == ("e", "success", "")
    assert json.loads(report.text) == value
    assert (report.result_ttl, report.failure_ttl, report.retries_left) == (7, 8, None)


def test_value_that_json_cannot_carry(runner: JobRunner) -> None:
    """The job has succeeded, and RQ's note says that its value cannot be kept."""
    report = run(runner, "give_a_set")
    assert report.outcome == "success"
    assert "unserializable" in report.text.lower()


@pytest.mark.parametrize(("characters", "is_kept"), [(7, True), (8, True), (9, False)])
def test_largest_value(
    runner: JobRunner, monkeypatch: pytest.MonkeyPatch, characters: int, is_kept: bool
) -> None:
    """One that is larger than whoever asked would read is a failure."""
    monkeypatch.setattr(running, "MOST_BYTES", 10)  # with the quotes
    report = run(runner, "give", "x" * characters)
    assert (report.outcome == "success") is is_kept
    assert is_kept or "the job's result has 11 bytes, at most 10 are kept" in report.text


def test_asking_for_another_run(runner: JobRunner) -> None:
    """What the job has asked for is told; what cannot be computed with is a failure."""
    report = run(runner, "again", 3, [0, 60])
    assert report.outcome == "retry"
    assert json.loads(report.text) == {"max": 3, "intervals": [0, 60], "at_front": False}
    report = run(runner, "again", 3, ["soon"])
    assert report.outcome == "failure"
    assert "no numbers of seconds" in report.text


@pytest.mark.parametrize(
    ("function", "told", "tainted"),
    [
        ("fail", "ValueError: no such folder", ""),
        ("leave", "SystemExit: 3", "a job raised SystemExit in it"),
        ("no_such_function", "no_such_function", ""),
    ],
)
def test_failure(runner: JobRunner, function: str, told: str, tainted: str) -> None:
    """Its traceback is told, and whether the horse may run another job."""
    report = run(runner, function)
    assert report.outcome == "failure"
    assert told in report.text.splitlines()[-1]
    assert report.tainted == tainted


def test_time_limit(runner: JobRunner) -> None:
    """A horse whose job was interrupted runs no other, even if the job has caught that."""
    for function, outcome in (("overrun", "failure"), ("overrun_quietly", "success")):
        report = run(runner, function, timeout=1)
        assert (report.outcome, report.tainted) == (outcome, "a time-out has struck in it")
    assert run(runner, "give", 1, timeout=60).tainted == ""


def test_model_that_is_not_loaded(runner: JobRunner) -> None:
    """The job is queued again, or fails if it has waited for too long; no callback is called."""
    waits = record("need_a_model", on_failure=callback("on_failure", 5))
    report = runner.run("e", "j", waits, may_wait=True)
    assert (report.outcome, report.text) == ("requeue", "the model abc is needed")
    assert report.tainted == ""
    report = run(runner, "need_a_model")
    assert report.outcome == "failure"
    assert "the model abc is needed; but the job was put back for models too often" in report.text


def test_callbacks(runner: JobRunner, jobs: ModuleType) -> None:
    """The one of the outcome is called, with the time that it was given."""
    options = {"on_success": callback("on_success", 5), "on_failure": callback("on_failure", 6)}
    assert run(runner, "give", 3, **options).outcome == "success"
    assert jobs.SAID == [5, ("finished", 3)]
    jobs.SAID.clear()
    report = run(runner, "fail", **options)
    assert jobs.SAID == [6, ("ValueError", "no such folder", True)]
    assert "ValueError: no such folder" in report.text


def test_callbacks_that_fail(runner: JobRunner, jobs: ModuleType) -> None:
    """The job has failed, with the callback's error."""
    said = callback("on_failure", 6)
    report = run(runner, "give", 3, on_success=callback("on_success_fail", 5), on_failure=said)
    assert report.outcome == "failure"
    assert "the callback" in report.text.splitlines()[-1]
    assert [it[0] for it in jobs.SAID if isinstance(it, tuple)] == ["KeyError"]
    report = run(runner, "fail", on_failure=callback("on_failure_fail", 5))
    assert report.outcome == "failure"
    assert "the callback" in report.text.splitlines()[-1]


def test_death_is_told(runner: JobRunner, jobs: ModuleType) -> None:
    """The callback of a job whose process died learns how; if it fails, that is all."""
    told = record("give", 1, on_failure=callback("on_failure", 5))
    runner.tell_of_death("j", told, "its process was killed")
    assert jobs.SAID == [("AbandonedJobError", "its process was killed", False)]
    runner.tell_of_death("j", record("give", 1, on_failure=callback("on_failure_fail", 5)), "x")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("x" * 87, "ValueError: " + "x" * 87 + "\n"),
        ("x" * 88, "ValueError: " + "x" * 38 + "\n... 1 characters ...\n" + "x" * 49 + "\n"),
        ("x" * 1387, "ValueError: " + "x" * 38 + "\n... 1,300 characters ...\n" + "x" * 49 + "\n"),
        ("\udcff", "ValueError: \\udcff\n"),
    ],
)
def test_traceback(monkeypatch: pytest.MonkeyPatch, message: str, expected: str) -> None:
    """It is told from both ends, with how much is left out, in UTF-8."""
    monkeypatch.setattr(running, "_MOST_TOLD_CHARS", 100)
    assert running._told(ValueError(message)) == expected
