"""Results of jobs as others may have written them."""

import json
import zlib
from base64 import b64encode

import pytest

from warmclip.work.job_result import FailureReason, JobResult, check_size, unpacks_to_more

SUCCESS, FAILURE = b"1", b"2"
MANY = 64 * 1024 * 1024
MUCH = 1024 * 1024


def packed(text: str) -> bytes:
    """A traceback as RQ writes it."""
    return b64encode(zlib.compress(text.encode()))


@pytest.mark.parametrize(
    ("record", "value"),
    [
        ({b"type": SUCCESS, b"return_value": b64encode(json.dumps([1, "a"]).encode())}, [1, "a"]),
        ({b"type": SUCCESS}, None),
        ({b"type": SUCCESS, b"exc_string": packed("of no account")}, None),
    ],
)
def test_success(record: dict[bytes, bytes], value: object) -> None:
    """A job that has returned has a value, if it is None."""
    assert JobResult.of(record) == JobResult(value)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({b"type": FAILURE, b"exc_string": packed("a.ValueError: \u00fc")}, "ValueError: \u00fc"),
        ({b"type": FAILURE, b"return_value": b64encode(b"1")}, "no reason was recorded"),
        ({b"type": b"7"}, "no reason was recorded"),
        ({}, "its result in Redis cannot be used: b'type'"),
        ({b"type": SUCCESS, b"return_value": b64encode(b"{")}, "cannot be used"),
        ({b"type": SUCCESS, b"return_value": b"x"}, "cannot be used"),
        ({b"type": SUCCESS, b"return_value": b64encode(b"[" * 100_000)}, "cannot be used"),
        ({b"type": FAILURE, b"exc_string": b64encode(b"as it is")}, "cannot be used"),
        ({b"type": FAILURE, b"exc_string": b64encode(zlib.compress(b"\xff"))}, "cannot be used"),
        ({b"type": SUCCESS, b"return_value": bytes(MANY + 1)}, "more than 67,108,864 bytes"),
        ({b"type": FAILURE, b"exc_string": packed("x" * 2 * MUCH)}, "more than 1,048,576 bytes"),
    ],
)
def test_failure(record: dict[bytes, bytes], told: str) -> None:
    """It has a reason, and so has what cannot be used."""
    result = JobResult.of(record)
    assert result.value is None
    assert told in str(result.failure)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("Traceback ...\nwarmclip.errors.JobRefused: 3 texts: too many\n",
         "warmclip.errors.JobRefused", "3 texts: too many"),
        ('Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n    ^^^\n'
         "ValueError: two\nlines: of it\n  and an indented one\n",
         "ValueError", "two lines: of it   and an indented one"),
        ('ValueError: first\n\nThe above ...\n\nTraceback (most recent call last):\n'
         '  File "a.py", line 1, in f\n    g()\nKeyError: second\n', "KeyError", "second"),
        ("warmclip.errors.HorseDied: the horse died", "warmclip.errors.HorseDied",
         "the horse died"),
        ("Moved to FailedJobRegistry, due to AbandonedJobError, at 2026", "", "its worker died"),
        ("it said: no", "", "it said: no"),
        ("MemoryError", "", "MemoryError"),
        ("", "", "no reason was recorded"),
        (None, "", "no reason was recorded"),
    ],
)  # fmt: skip
def test_reason_of_a_failure(text: str | None, kind: str, message: str) -> None:
    """The end of a traceback says what and why, in one line or several."""
    reason = FailureReason.of(text)
    assert (reason.kind, reason.message) == (kind, message)
    name = kind.rpartition(".")[2]
    assert str(reason) == (f"{name}: {message}" if kind else message)


def test_size() -> None:
    """So much is read, and no more; nothing is unpacked to find that out."""
    check_size({b"return_value": bytes(MANY)})
    check_size({b"exc_string": packed("x" * MUCH)})
    check_size({})
    for record in (
        {b"return_value": bytes(MANY + 1)},
        {b"exc_string": packed("x" * (MUCH + 1000))},
        {b"exc_string": b64encode(b"x" * (MUCH + 1))},
    ):
        with pytest.raises(ValueError, match="more than"):
            check_size(record)


@pytest.mark.parametrize(
    ("packed", "is_more"),
    [
        (zlib.compress(b"x" * 100), False),
        (zlib.compress(b"x" * 10_000), True),
        (b"y" * 100, False),
        (b"y" * 101, True),
        (b"", False),
    ],
)
def test_what_rq_would_unpack(packed: bytes, is_more: bool) -> None:
    """What is not compressed is as large as it is."""
    assert unpacks_to_more(packed, 100) is is_more
