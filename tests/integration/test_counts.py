"""Counts in a real Redis, some of which somebody else has written."""

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from standins.redis_server import restricted
from warmclip.work.counters import CounterBuffer, forget_points, increment, read_counters
from warmclip.work.replies import warn_once

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

KEY = "rq:warmclip:totals"


@pytest.fixture(autouse=True)
def _warnings_anew() -> None:
    """What a former test was warned of is said again."""
    warn_once.cache_clear()


def test_counts_of_several_processes(connection: Redis) -> None:
    """They add up, each by what it has counted since it last told; its own totals go on."""
    one, other = CounterBuffer(), CounterBuffer()
    one.add("jobs")
    one.add("jobs", 4)
    one.add("horses")
    other.add("jobs", 10)
    for _ in range(2):
        one.flush(connection)
        other.flush(connection)
    assert read_counters(connection) == {"jobs": 15, "horses": 1}
    one.add("jobs")
    one.flush(connection)
    assert read_counters(connection) == {"jobs": 16, "horses": 1}
    assert one.totals == {"jobs": 6, "horses": 1}


def test_sizes_of_collections(connection: Redis) -> None:
    """The last one counts, until the collection is deleted."""
    buffer = CounterBuffer()
    for collection, points in (("images", 7), ("scans", 2), ("images", 5)):
        buffer.keep_points(collection, points)
    buffer.flush(connection)
    assert read_counters(connection) == {"points:images": 5, "points:scans": 2}
    forget_points(connection, "images")
    buffer.flush(connection)
    assert read_counters(connection) == {"points:scans": 2}


def test_single_count(connection: Redis) -> None:
    """One is added, unless more is said."""
    increment(connection, "recovered")
    increment(connection, "recovered", 3)
    assert read_counters(connection) == {"recovered": 4}


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("7", 7), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("-1", None), ("1.5", None),
        ("many", None), ("", None), ("\xb2", None), ("\u0663", None),
    ],
)  # fmt: skip
def test_count_of_somebody_else(
    connection: Redis, caplog: pytest.LogCaptureFixture, value: str, count: int | None
) -> None:
    """What is no count is passed by, and said; its neighbours are read."""
    connection.hset(KEY, mapping={"odd": value, "jobs": "3"})
    found = {} if count is None else {"odd": count}
    assert read_counters(connection) == {"jobs": 3} | found
    assert ("holds what is no count" in caplog.text) is (count is None)


def test_count_that_cannot_be_added_to(connection: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """It stays as it is, and is said; what Redis refuses otherwise is an error."""
    connection.hset(KEY, "odd", "many")
    increment(connection, "odd")
    assert connection.hget(KEY, "odd") == b"many"
    assert "the count 'odd' in rq:warmclip:totals is not warmclip's" in caplog.text
    connection.delete(KEY)
    connection.set(KEY, "no hash")
    increment(connection, "odd")
    assert read_counters(connection) == {}
    with restricted(connection, "@write") as reader, pytest.raises(ResponseError):
        increment(reader, "odd")
