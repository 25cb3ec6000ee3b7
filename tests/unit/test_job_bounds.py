"""Records that somebody has written by hand: whatever is in them, one job is refused."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.serializers import JSONSerializer

from warmclip.errors import JobRefused
from warmclip.work.allowlist import AllowedJob
from warmclip.work.crash_policy import is_ours
from warmclip.work.job_bounds import DAY_S, are_intervals, excess

CALLBACKS = [f"{outcome}_callback_timeout" for outcome in ("success", "failure", "stopped")]
COUNTS = ["retries_left", "number_of_retries", "repeats_left"]
OTHERS = ["timeout", "ttl", "result_ttl", "failure_ttl", "retry_intervals", "repeat_intervals",
          "rate_limit_concurrency"]  # fmt: skip

_CALL = json.dumps(["warmclip.work.jobs.embed_texts", None, [["a"]], {}])


def record(fields: dict[str, Any]) -> Any:
    """As much of a job as its bounds are about."""
    return SimpleNamespace(**fields)


def read(**fields: str | bytes) -> AllowedJob:
    """A job as it is read from Redis; no connection is made."""
    job = AllowedJob("a-job", connection=Redis(), serializer=JSONSerializer)
    record = {"data": _CALL, "origin": "default", "status": "queued"} | fields
    job.restore(
        {name.encode(): it if isinstance(it, bytes) else it.encode() for name, it in record.items()}
    )
    return job


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"timeout": "-1", "result_ttl": "-1", "failure_ttl": "-1"},
        {"timeout": str(30 * 24 * 3600), "result_ttl": "0"},
        {"retries_left": "3", "retry_intervals": "[0]"},
        {"retries_left": "3", "retry_intervals": "[1, 60, 3600]"},
        {"retries_left": "0", "number_of_retries": "2"},
        {"repeats_left": "5", "repeat_intervals": "[0, 86400]"},
        {"rate_limit_key": "a", "rate_limit_concurrency": "3"},
        {"dependency_ids": '["one", "two"]'},
    ],
    ids=str,
)
def test_record_within_bounds(fields: dict[str, str]) -> None:
    """What RQ writes for reasonable jobs is taken as it is."""
    job = read(**fields)
    assert job.problem is None
    again = job.to_dict()
    for name in ("timeout", "retries_left", "repeats_left", "rate_limit_concurrency"):
        assert str(again.get(name, "")) == fields.get(name, "")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"retries_left": "1", "retry_intervals": "[1000000000000]"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": "[]"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": '["x"]'}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": "[-5]"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": "[null]"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": "[true]"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": "[0.5]"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": "7"}, "retry_intervals"),
        ({"retries_left": "1", "retry_intervals": '{"a": 1}'}, "retry_intervals"),
        ({"retries_left": "1" * 30}, "retries_left"),
        ({"number_of_retries": "1" * 30}, "number_of_retries"),
        ({"repeats_left": "1", "repeat_intervals": "[]"}, "repeat_intervals"),
        ({"repeats_left": "1", "repeat_intervals": "[1000000000000]"}, "repeat_intervals"),
        ({"result_ttl": "9" * 20}, "result_ttl"),
        ({"failure_ttl": "9" * 20}, "failure_ttl"),
        ({"ttl": "-7"}, "ttl"),
        ({"timeout": "1" * 400}, "time-out is longer"),
        ({"timeout": "soon"}, "malformed"),
        ({"success_callback_timeout": "9" * 12}, "success callback"),
        ({"failure_callback_timeout": "9" * 12}, "failure callback"),
        ({"rate_limit_key": "a", "rate_limit_concurrency": "9" * 12}, "rate limit"),
        ({"created_at": "yesterday"}, "malformed"),
        ({"status": "eaten"}, "malformed"),
        ({"dependency_ids": "5"}, "no job"),
        ({"dependency_ids": "[5]"}, "no job"),
        ({"retry_intervals": "[" * 100_000}, "malformed"),
        ({"origin": b"\xff\xfe"}, "malformed"),
        ({"retries_left": "9" * 5_000}, "malformed"),  # more digits than int takes
    ],
    ids=str,
)
def test_record_out_of_bounds(fields: dict[str, Any], told: str) -> None:
    """The job fails with the reason, and RQ has nothing left to compute with."""
    job = read(**fields)
    assert told in str(job.problem)
    with pytest.raises(JobRefused, match=told):
        job.perform()
    assert not job.should_retry
    for name in ("retry_intervals", "repeat_intervals", "repeats_left", "timeout"):
        assert getattr(job, name) is None
    for name in ("ttl", "result_ttl", "failure_ttl"):
        assert getattr(job, name) is None
    assert not job.has_rate_limit


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        *((name, -1, 30 * DAY_S) for name in ("timeout", *CALLBACKS)),
        *((name, -1, 36_500 * DAY_S) for name in ("ttl", "result_ttl", "failure_ttl")),
        *((name, -1_000_000, 1_000_000) for name in COUNTS),
        ("rate_limit_concurrency", 0, 1_000_000),
    ],
)
def test_bound(field: str, low: int, high: int) -> None:
    """So much is taken, and one more or less is not."""
    names = dict.fromkeys((*CALLBACKS, *COUNTS, *OTHERS))
    for value in (None, low, high):
        assert excess(record(names | {field: value})) is None
    for value in (low - 1, high + 1, True):
        assert excess(record(names | {field: value})) is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, True), ([0], True), ([366 * DAY_S], True), ([1] * 10_000, True),
        ([], False), ([-1], False), ([366 * DAY_S + 1], False), ([1] * 10_001, False),
        ([1, None], False), ([1, 0.5], False), ((1,), False), (1, False),
    ],
    ids=lambda it: str(it)[:20],
)  # fmt: skip
def test_intervals(value: object, expected: bool) -> None:
    """A list of seconds, neither empty nor without end, none of them beyond a year."""
    assert are_intervals(value) is expected


@pytest.mark.parametrize(
    "call",
    [
        [["an", "unhashable", "name"], None, [], {}],
        [{"a": 1}, None, [], {}],
        [None, None, [], {}],
        [7, None, [], {}],
        ["os.system", None, "rm", {}],
        ["os.system", None, [], [1]],
        ["os.system"],
        "os.system",
        None,
        {},
    ],
    ids=str,
)
def test_call_that_is_none(call: Any) -> None:
    """Whoever asks for its function is told that there is none, each time."""
    job = read(data=json.dumps(call))
    for _ in range(2):
        with pytest.raises(DeserializationError):
            _ = job.func_name
    assert not is_ours(job)
    assert job.data == json.dumps(call).encode()  # as it was stored


def test_arguments_beyond_measure() -> None:
    """The reason is their size, not that they were no JSON."""
    job = read(data=b"[" + b" " * (17 * 1024 * 1024) + b"]")
    with pytest.raises(JobRefused, match="unpacks to more than 16,777,216 bytes"):
        job.perform()
    with pytest.raises(DeserializationError, match="unpacks to more than"):
        _ = job.func_name


def test_record_without_a_call() -> None:
    """A hash that is none of RQ's is no job."""
    job = AllowedJob("a-job", connection=Redis(), serializer=JSONSerializer)
    with pytest.raises(NoSuchJobError):
        job.restore({b"last_heartbeat": b"now"})
