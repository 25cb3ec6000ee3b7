"""What a job may ask for, without a Redis: bounds, roots, the allow-list, ids."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.serializers import JSONSerializer

from warmclip.errors import JobRefused, SettingsError
from warmclip.settings import Limits, Root, Settings
from warmclip.work import job_arguments, jobs
from warmclip.work.allowlist import FUNCTIONS, AllowedJob, find_functions
from warmclip.work.job_result import FailureReason
from warmclip.work.producer import job_id


def make_settings(
    *, redis_url: str | None = None, roots: tuple[Root, ...] = (), job_items: int = 8
) -> Settings:
    """Settings that read nothing."""
    return Settings(
        home=Path("/nonexistent"),
        bundle=Path("/nonexistent"),
        redis_url=redis_url,
        roots=roots,
        limits=Limits(job_items=job_items),
    )


def read_job(data: bytes, **record: str) -> AllowedJob:
    """A job as a worker reads it from Redis; no connection is made."""
    job = AllowedJob("a-job", connection=Redis(), serializer=JSONSerializer)
    fields = {name.encode(): value.encode() for name, value in record.items()}
    job.restore({b"data": data, b"origin": b"default", **fields})
    return job


def call_of(function: str, *args: Any) -> bytes:
    """What a producer writes."""
    return json.dumps([function, None, args, {}]).encode()


@pytest.mark.parametrize("items", [None, "a.jpg", {"a": 1}, ["a.jpg", 7], ["a.jpg", None], 3])
def test_items_that_are_no_list_of_str(items: Any) -> None:
    """Anything but a list of strings is refused before it is used."""
    with pytest.raises(JobRefused, match="texts must be a list of strings"):
        job_arguments.check_items(items, "texts", make_settings())


@pytest.mark.parametrize("questions", [None, {"text": "a"}, ["a"], [{"text": "a"}, 7], 3])
def test_questions_that_are_no_list_of_dicts(questions: Any) -> None:
    """They are refused before any of them is answered."""
    with pytest.raises(JobRefused, match="questions must be a list of dicts"):
        job_arguments.check_questions(questions, make_settings())


def test_too_many_questions() -> None:
    """They are bounded as all items of jobs are."""
    with pytest.raises(JobRefused, match=r"3 questions.*at most 2"):
        job_arguments.check_questions([{"text": "a"}] * 3, make_settings(job_items=2))


def test_oversized_job() -> None:
    """One item more than the bound is refused, naming the bound's variable."""
    settings = make_settings(job_items=2)
    job_arguments.check_items(["a", "b"], "texts", settings)
    with pytest.raises(JobRefused, match=r"3 texts.*at most 2.*WARMCLIP_MAX_JOB_ITEMS"):
        job_arguments.check_items(["a", "b", "c"], "texts", settings)


def test_shared_redis_without_roots() -> None:
    """Whoever can write to a shared Redis may name no file until roots are set."""
    with pytest.raises(JobRefused, match="WARMCLIP_ROOTS"):
        job_arguments.check_paths(["/etc/passwd"], make_settings(redis_url="redis://host"))


def test_private_redis_without_roots() -> None:
    """The private Redis has one user, who may name any file."""
    job_arguments.check_paths(["/somewhere/a.jpg"], make_settings())


@pytest.mark.parametrize(
    "path", ["a.jpg", "", "../a.jpg", "/photos/../b.jpg", "/a\0b", "/\ud800.jpg"]
)
def test_path_that_nobody_could_mean(path: str) -> None:
    """A relative path, one with "..", or one that no file can have makes the whole job fail."""
    with pytest.raises(JobRefused, match=r"is not an absolute path without '\.\.'"):
        job_arguments.check_paths(["/photos/a.jpg", path], make_settings())


def test_path_with_a_strange_name() -> None:
    """A name that is not UTF-8 is a name."""
    job_arguments.check_paths(["/photos/" + os.fsdecode(b"caf\xe9.jpg")], make_settings())


def test_no_worker_in_this_process() -> None:
    """A job function outside a worker says where it belongs."""
    with pytest.raises(JobRefused, match="warmclip worker"):
        jobs.embed_texts(["a"])


_FORKED = """
import os, sys
from pathlib import Path
from warmclip.errors import ForkedSessionError
from warmclip.settings import Settings
from warmclip.work import jobs
from warmclip.work.horse.context import open_context

with open_context(Settings(home=Path(sys.argv[2]), bundle=Path(sys.argv[1]))):
    assert jobs.embed_texts(["a"])["vectors"]
    if os.fork() == 0:
        try:
            jobs.embed_texts(["a"])
        except ForkedSessionError as exc:
            print(exc, flush=True)
        os._exit(0)
    os.wait()
"""


def test_forked_child_of_a_horse(demo_bundle: Path, tmp_path: Path) -> None:
    """A model of another process is not used: the message says where it is to be used."""
    command = [sys.executable, "-c", _FORKED, str(demo_bundle), str(tmp_path / "home")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "was forked from the horse" in said
    assert "use the model where it was loaded" in said


def test_listed_functions_exist() -> None:
    """Each name on the allow-list is a function of jobs.py."""
    for name in FUNCTIONS:
        module, _, function = name.rpartition(".")
        assert module == "warmclip.work.jobs"
        assert callable(getattr(jobs, function))


@pytest.mark.parametrize(
    "function", ["os.system", "warmclip.work.jobs.horse.open_context", "eval", ""]
)
def test_unlisted_function(function: str) -> None:
    """A function that is not listed is refused before it is imported."""
    with pytest.raises(JobRefused, match="not on the worker's list"):
        read_job(call_of(function, "x")).perform()


def test_method_of_an_instance() -> None:
    """An instance in the record does not lead around the list."""
    data = json.dumps(["warmclip.work.jobs.embed_texts", {"a": 1}, [], {}]).encode()
    with pytest.raises(JobRefused, match="not on the worker's list"):
        read_job(data).perform()


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_callback(kind: str) -> None:
    """A callback makes a job fail, and is gone from whoever reads the job."""
    record = {f"{kind}_callback_name": "os.system"}
    job = read_job(call_of("warmclip.work.jobs.embed_texts", []), **record)
    assert getattr(job, f"{kind}_callback") is None
    with pytest.raises(JobRefused, match=r"callback 'os\.system'"):
        job.perform()


def test_webhook() -> None:
    """A webhook makes a job fail, and is gone: nobody makes the worker send requests."""
    hook = {"url": "http://10.0.0.1/", "job_status": "failed", "method": "GET", "timeout": 1}
    job = read_job(
        call_of("warmclip.work.jobs.embed_texts", []),
        webhooks=json.dumps([hook | {"headers": None}]),
    )
    assert job.webhooks == []
    with pytest.raises(JobRefused, match="webhooks"):
        job.perform()


@pytest.mark.parametrize(
    "record", [{"status": "odd"}, {"result_ttl": "soon"}, {"created_at": "now"}]
)
def test_malformed_record(record: dict[str, str]) -> None:
    """A record that RQ cannot read becomes a job that is refused, in its own queue."""
    job = read_job(call_of("warmclip.work.jobs.embed_texts", []), **record)
    assert job.origin == "default"
    with pytest.raises(JobRefused, match="malformed"):
        job.perform()


def test_refusal_is_not_retried() -> None:
    """What is refused once is refused for good."""
    job = read_job(call_of("os.system", "x"), retries_left="5")
    with pytest.raises(JobRefused):
        job.perform()
    assert not job.should_retry


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def one(): ...\ndef two(): ...\ndef _private(): ...\nfrom os import system\nX = 3\n",
         {"one", "two"}),
        ("__all__ = ['one', 'X']\ndef one(): ...\ndef two(): ...\nX = 3\n", {"one"}),
        ("async def later(): ...\nclass Kind: ...\n", {"later"}),
    ],
)  # fmt: skip
def test_all_functions_of_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: set[str]
) -> None:
    """``module:*`` lists what the module defines and offers, not what it has imported."""
    name = f"jobs_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    kind = find_functions([f"{name}.*"])
    assert kind.allowed - FUNCTIONS == {f"{name}.{function}" for function in expected}
    assert kind.allowed_callbacks == kind.allowed - FUNCTIONS


def test_module_without_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``module:*`` that lists nothing is a mistake."""
    (tmp_path / "no_jobs_here.py").write_text("X = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="no_jobs_here defines no public function"):
        find_functions(["no_jobs_here.*"])


def test_job_ids_follow_from_the_work() -> None:
    """The same paths in any order are one job; another collection or path is another."""
    paths = ["/a.jpg", "/b.jpg", os.fsdecode(b"/caf\xe9.jpg")]
    id_ = job_id("my.photos", paths)
    assert id_ == job_id("my.photos", reversed(paths))
    assert id_ != job_id("my_photos", paths)
    assert id_ != job_id("my.photos", paths[:2])
    AllowedJob(id_, connection=Redis())  # RQ checks its characters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Traceback ...\nwarmclip.errors.JobRefused: 3 texts: too many\n",
         "JobRefused: 3 texts: too many"),
        ('Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n    ^^^\n'
         "ValueError: two\nlines: of it\n  and an indented one\n",
         "ValueError: two lines: of it   and an indented one"),
        ('ValueError: first\n\nThe above ...\n\nTraceback (most recent call last):\n'
         '  File "a.py", line 1, in f\n    g()\nKeyError: second\n', "KeyError: second"),
        ("warmclip.errors.HorseDied: the horse died", "HorseDied: the horse died"),
        ("Moved to FailedJobRegistry, due to AbandonedJobError, at 2026", "its worker died"),
        ("MemoryError", "MemoryError"),
        ("", "no reason was recorded"),
        (None, "no reason was recorded"),
    ],
)  # fmt: skip
def test_reason_of_a_failure(text: str | None, expected: str) -> None:
    """The end of a traceback says what and why, in one line or several."""
    assert str(FailureReason.of(text)) == expected
