"""Which scanner searches a folder: on a real Redis, by clocks of the test's own."""

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from simulating import before_next_write
from standins.clock import Clock
from standins.redis_server import restricted
from warmclip.work.replies import warn_once
from warmclip.work.sessions import leases
from warmclip.work.sessions.leases import ScanLeases

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

SCANNERS = "rq:warmclip:sessions:scanners"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of every scanner here."""
    clock = Clock(1000.0)
    monkeypatch.setattr(leases, "time", clock)
    warn_once.cache_clear()
    return clock


def test_one_holder(connection: Redis, clock: Clock) -> None:
    """A lease is its holder's as long as that lives, and of each session apart."""
    del clock
    first, second = ScanLeases(connection), ScanLeases(connection)
    assert first.token != second.token
    for scanner in (first, second):
        scanner.beat()
    assert first.living() == second.living() == {first.token, second.token}
    assert first.acquire("s")
    assert first.acquire("s")
    assert not second.acquire("s")
    assert second.acquire("t")
    assert (first.is_held(connection, "s"), second.is_held(connection, "s")) == (True, False)
    second.release("s")  # which is not its own
    assert first.is_held(connection, "s")
    first.release("s")
    assert not first.is_held(connection, "s")
    assert second.acquire("s")


def test_scanner_that_leaves(connection: Redis, clock: Clock) -> None:
    """Its leases are free at once."""
    del clock
    first, second = ScanLeases(connection), ScanLeases(connection)
    for scanner in (first, second):
        scanner.beat()
    assert first.acquire("s")
    first.leave()
    assert second.living() == {second.token}
    assert second.acquire("s")
    assert not first.is_held(connection, "s")


@pytest.mark.parametrize(("pause_s", "is_dead"), [(15.0, False), (15.5, True)])
@pytest.mark.parametrize("tokens", [("a", "b"), ("b", "a")])
def test_scanner_without_a_beat(
    connection: Redis, clock: Clock, tokens: tuple[str, str], pause_s: float, is_dead: bool
) -> None:
    """It counts as dead after fifteen seconds in which another one looked, and not before."""
    first, second = ScanLeases(connection), ScanLeases(connection)
    first.token, second.token = tokens
    for _ in range(12):
        first.beat()
    assert first.acquire("s")
    clock.now += 3600  # in which nobody looked
    second.beat()
    assert not second.acquire("s")
    clock.now += pause_s
    second.beat()
    assert second.acquire("s") is is_dead
    assert (first.token.encode() in connection.hkeys(SCANNERS)) is not is_dead


def test_scanner_that_beats(connection: Redis, clock: Clock) -> None:
    """It lives however long, as long as its count grows; itself it never takes for dead."""
    first, second = ScanLeases(connection, lost_after_s=5.0), ScanLeases(connection)
    for _ in range(10):
        second.beat()
        first.beat()
        assert first.living() == {first.token, second.token}
        clock.now += 10
    assert first.acquire("s")
    assert not second.acquire("s")
    clock.now += 3600
    connection.hset(SCANNERS, first.token, 9)  # a Redis that was set back: its tenth beat again
    first.beat()
    assert first.token.encode() in connection.hkeys(SCANNERS)


def test_somebody_is_quicker(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scanners ask for a free lease at the same moment: one gets it."""
    first, second = ScanLeases(connection), ScanLeases(connection)
    for scanner in (first, second):
        scanner.beat()
    with before_next_write(monkeypatch, lambda: second.acquire("s")):
        assert not first.acquire("s")
    assert second.is_held(connection, "s")

    def take_over() -> None:
        second.leave()
        assert first.acquire("s")

    with before_next_write(monkeypatch, take_over):
        second.release("s")
    assert first.is_held(connection, "s")


def test_key_of_somebody_else(
    connection: Redis, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is deleted, and said; what Redis refuses otherwise is an error."""
    del clock
    connection.set(SCANNERS, "no hash")
    scanner = ScanLeases(connection)
    scanner.beat()
    assert "is not warmclip's, and is deleted" in caplog.text
    scanner.beat()
    assert scanner.living() == {scanner.token}
    with restricted(connection, "@write") as reader, pytest.raises(ResponseError):
        ScanLeases(reader).beat()
