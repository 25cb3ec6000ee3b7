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


def test_questions_of_several_models() -> None:
    """A horse may not hold them all, and would load one after another without end."""
    asked = [{"text": "a", "model": "x"}, {"text": "b", "model": "x"}]
    job_arguments.check_questions(asked, make_settings())
    for other in ({"text": "c", "model": "y"}, {"text": "c"}):
        with pytest.raises(JobRefused, match="name several models"):
            job_arguments.check_questions([*asked, other], make_settings())


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


@pytest.mark.parametrize(
    ("data", "expected"),
    [("cG5n", b"png"), ("", b""), ("cG5", None), ("c G5n", None), ("cG5n!", None), (7, None),
     (None, None), (["cG5n"], None), ("\xfc", None)],
)  # fmt: skip
def test_picture_in_a_job(data: Any, expected: bytes | None) -> None:
    """Its bytes are in base64, and nothing is left out of it in silence."""
    if expected is not None:
        assert job_arguments.decode_picture(data) == expected
        return
    with pytest.raises(JobRefused, match="in base64"):
        job_arguments.decode_picture(data)


NAMES = ("text", "image", "data", "like", "terms")
TERM = {"text": "a star", "weight": -1}


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        *(({name: "it"}, True) for name in NAMES[:4]),
        ({"terms": [TERM]}, True),
        ({}, False),
        ({"terms": "it"}, False),
        *(({name: 7}, False) for name in NAMES),
        *(({name: "it", NAMES[number - 1]: "more"}, False) for number, name in enumerate(NAMES)),
        *(({name: "it", "terms": [TERM]}, False) for name in NAMES[:4]),
    ],
    ids=str,
)
def test_what_a_search_looks_for(given: dict[str, Any], is_one: bool) -> None:
    """Exactly one of a text, a file, bytes, a stored picture and several of them."""
    arguments = [given.get(name) for name in NAMES]
    if not is_one:
        with pytest.raises(JobRefused, match="exactly one of"):
            job_arguments.read_query(*arguments)
        return
    (term,) = job_arguments.read_query(*arguments).terms
    if "terms" in given:
        assert (term.text, term.weight) == ("a star", -1)
    else:
        found = {name: getattr(term, name) for name in NAMES[:4]}
        assert found == {name: given.get(name) for name in NAMES[:4]}


@pytest.mark.parametrize(
    ("id_", "expected"),
    [
        ("5a6b4c3d-0000-4000-8000-00000000000A", "5a6b4c3d-0000-4000-8000-00000000000a"),
        ("5a6b4c3d000040008000000000000001", "5a6b4c3d-0000-4000-8000-000000000001"),
        ("a.jpg", None), ("", None), (7, None), (None, None), ([], None),
    ],
)  # fmt: skip
def test_id_of_a_picture(id_: Any, expected: str | None) -> None:
    """A UUID, in the one way in which the store writes it."""
    if expected is not None:
        assert job_arguments.point_id(id_) == expected
        return
    with pytest.raises(JobRefused, match="it is a UUID"):
        job_arguments.point_id(id_)


@pytest.mark.parametrize(
    ("redis_url", "has_roots"), [("redis://host", True), (None, True), (None, False)]
)
def test_files_may_be_opened(redis_url: str | None, has_roots: bool) -> None:
    """Where roots are set, or Redis is private."""
    roots = (Root(name="p", folder=Path("/photos")),) if has_roots else ()
    job_arguments.check_roots(make_settings(redis_url=redis_url, roots=roots))


def test_questions() -> None:
    """As many as a job may have."""
    job_arguments.check_questions([{"text": "a"}] * 2, make_settings(job_items=2))


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

with open_context(Settings(home=Path(sys.argv[2]), bundle=Path(sys.argv[1]), provider="cpu")):
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
        ("from glob import glob\nfrom tokenize import tokenize\ndef one(): ...\n", {"one"}),
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


def test_named_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone is listed, beside warmclip's own, and may be a callback as well; another may not."""
    (tmp_path / "named_jobs.py").write_text("def one(): return 1\ndef two(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    kind = find_functions(["named_jobs.one"])
    assert kind.allowed == FUNCTIONS | {"named_jobs.one"}
    for name, told in (("named_jobs.one", None), ("named_jobs.two", "not on the worker's list")):
        record = {"success_callback_name": name, "failure_callback_name": name}
        job = kind("a-job", connection=Redis(), serializer=JSONSerializer)
        fields = {name.encode(): value.encode() for name, value in record.items()}
        job.restore({b"data": call_of("named_jobs.one"), b"origin": b"default", **fields})
        saved = job.to_dict()
        for callback in record:
            assert saved[callback] == name  # it may run elsewhere
        if told is None:
            assert job.perform() == 1
            assert job.success_callback
            continue
        assert not job.success_callback
        assert not job.failure_callback
        with pytest.raises(JobRefused, match=told):
            job.perform()


def test_nothing_is_named() -> None:
    """Then nothing is imported, and the folder of the moment is no place for modules."""
    before = list(sys.path)
    kind = find_functions([])
    assert (kind.allowed, kind.allowed_callbacks) == (FUNCTIONS, frozenset())
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("named_jobs_x.three", "named_jobs_x has no function three"),
        ("named_jobs_x.", "named_jobs_x has no function"),
        ("named_jobs_x.NUMBER", "named_jobs_x has no function NUMBER"),
        ("no_such_module.one", "cannot import no_such_module"),
        ("one", "cannot import"),
    ],
)
def test_name_that_is_no_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    """A worker that could not run a job says so before it takes one."""
    (tmp_path / "named_jobs_x.py").write_text("NUMBER = 3\ndef one(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=told):
        find_functions([name])


def test_first_reason_is_told() -> None:
    """Of several that a job has."""
    record = {"success_callback_name": "os.system", "failure_callback_name": "os.remove"}
    job = read_job(call_of("warmclip.work.jobs.embed_texts", []), **record)
    with pytest.raises(JobRefused, match=r"os\.system"):
        job.perform()
    job = read_job(call_of("os.system"), result_ttl="soon", success_callback_name="os.system")
    with pytest.raises(JobRefused, match="malformed"):
        job.perform()


def test_error_that_may_pass_is_retried() -> None:
    """As RQ was told; what is wrong for good is not."""
    job = read_job(call_of("warmclip.work.jobs.embed_texts", ["a"]), retries_left="5")
    with pytest.raises(JobRefused):  # it runs outside a worker here, which is for good
        job.perform()
    assert job.retries_left == 0


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
