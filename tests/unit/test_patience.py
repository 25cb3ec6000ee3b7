"""What is done while Redis does not answer, or refuses a command: no server is needed to decide."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from standins.clock import Clock
from warmclip.work.patience import Patience, is_wrong_type, refusal

_IN_PIPELINE = "Command # 1 (SREM rq:workers w) of pipeline caused error: "
_OOM = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            NoPermissionError("this user has no permissions to run the 'zadd' command"),
            "NOPERM this",
        ),
        (NoPermissionError("No permissions to access a key"), "NOPERM No"),
        (NoPermissionError("No permissions to access a channel"), "NOPERM No"),
        (_OOM, "OOM command"),
        (ReadOnlyError("You can't write against a read only replica."), "READONLY You"),
        (MasterDownError("Link with MASTER is down"), "MASTERDOWN Link"),
        (ClusterDownError("CLUSTERDOWN Hash slot not served"), "CLUSTERDOWN Hash"),
        (TryAgainError("TRYAGAIN Multiple keys"), "TRYAGAIN"),
        (ExecAbortError("Transaction discarded because of: BUSY A script runs."), "BUSY A script"),
        (ExecAbortError("Transaction discarded because of previous errors."), "EXECABORT Trans"),
        (ResponseError("MISCONF Errors writing to the AOF file: No space left"), "MISCONF Errors"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS Not"),
        (ResponseError("BUSY Redis is busy running a script."), "BUSY Redis"),
        (ResponseError(f"{_IN_PIPELINE}NOREPLICAS Not enough good replicas."), "NOREPLICAS Not"),
        (OutOfMemoryError(f"{_IN_PIPELINE}command not allowed"), "OOM command"),
        (ResponseError(f"{_IN_PIPELINE}WRONGTYPE Operation against a key"), None),
        (ResponseError("WRONGTYPE Operation against a key"), None),
        (ResponseError("ERR value is not an integer or out of range"), None),
        (ResponseError("invalid expire time in 'expire' command"), None),
        (NoScriptError("No matching script."), None),
        (WatchError("Watched variable changed."), None),
        (RedisConnectionError("Connection refused"), None),  # no refusal: no answer
        (BusyLoadingError("Redis is loading the dataset in memory"), None),
        (OSError("No space left on device"), None),
        (ValueError("OOM"), None),
    ],
)
def test_refusal(error: Exception, told: str | None) -> None:
    """What Redis may take later is told by its code; what it will never take is something else."""
    found = refusal(error)
    assert found is None if told is None else str(found).startswith(told)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WRONGTYPE Operation against a key", True),
        ("Command # 2 (ZADD a 1 b) of pipeline caused error: WRONGTYPE Operation", True),
        ("ERR increment or decrement would overflow", True),
        ("NOPERM", False),
        ("MISCONF WRONGTYPE", False),
    ],
)
def test_wrong_type(text: str, expected: bool) -> None:
    """Only this says that a key is none of RQ's."""
    assert is_wrong_type(ResponseError(text)) is expected


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of the system's."""
    clock = Clock(1000.0)
    monkeypatch.setattr("warmclip.work.patience.time", clock)
    return clock


def failing(*errors: Exception) -> Callable[[], str]:
    """A command that fails so often, then succeeds."""
    left = list(errors)

    def do() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return do


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("Connection refused"),
        RedisTimeoutError("Timeout reading"),
        ConnectionRefusedError(111, "Connection refused"),  # as redis-py below 7.2 lets through
        FileNotFoundError(2, "No such file"),  # a socket that is not there yet
        BusyLoadingError("Redis is loading the dataset in memory"),
        _OOM,
        NoPermissionError("this user has no permissions"),
        ResponseError("MISCONF Errors writing"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_command_is_sent_again(clock: Clock, error: Exception) -> None:
    """Until it succeeds; the connection is closed between two attempts, as redis-py wants it."""
    closed: list[Exception] = []
    patience = Patience(60)
    assert patience.call_with_retry(failing(*[error] * 20), closed.append) == "done"
    assert closed == [error] * 20
    assert len(clock.slept) == 20
    assert max(clock.slept) <= 1


@pytest.mark.parametrize(
    "error", [ResponseError("WRONGTYPE Operation"), ResponseError("ERR syntax"), KeyError("x")]
)
def test_other_errors_are_not_waited_for(clock: Clock, error: Exception) -> None:
    """They are the caller's at once."""
    with pytest.raises(type(error)):
        Patience(60).call_with_retry(failing(error), lambda _: None)
    assert clock.slept == []


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), _OOM])
def test_patience_ends(clock: Clock, error: RedisError) -> None:
    """After so many seconds of the same trouble the last error is raised, as it came."""
    with pytest.raises(type(error)):
        Patience(60).call_with_retry(failing(*[error] * 10_000), lambda _: None)
    assert 60 <= sum(clock.slept) <= 65


def test_patience_ends_for_transactions_that_begin_anew(clock: Clock) -> None:
    """A refused transaction is begun anew by its caller, each time with a command that is taken:
    the trouble is one all the same.
    """
    patience = Patience(60)

    def close(error: Exception) -> None:
        raise WatchError from error

    def attempt() -> bool:
        """One transaction, and whether it is to be begun anew."""
        patience.call_with_retry(failing(), close)  # WATCH
        try:
            patience.call_with_retry(failing(_OOM), close)  # EXEC
        except WatchError:
            return True
        return False

    def attempt_for_ever() -> None:
        while attempt():
            pass

    with pytest.raises(OutOfMemoryError):
        attempt_for_ever()
    assert 60 <= sum(clock.slept) <= 65


def test_trouble_far_apart(clock: Clock) -> None:
    """What was waited for an hour ago does not shorten today's patience."""
    patience = Patience(60)
    for _ in range(5):
        patience.call_with_retry(failing(*[_OOM] * 40), lambda _: None)
        clock.now += 3600


def test_nobody_waits_any_more(clock: Clock) -> None:
    """Then the command is given up at once."""
    with pytest.raises(OutOfMemoryError):
        Patience(60, given_up=lambda: True).call_with_retry(failing(_OOM), lambda _: None)
    assert clock.slept == []


@pytest.mark.usefixtures("clock")
def test_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line says what Redis refuses, however many commands and connections wait for it."""
    patience = Patience(60)
    with caplog.at_level(logging.WARNING):
        for connection in (patience, patience.__deepcopy__({})):
            connection.call_with_retry(failing(*[_OOM] * 9), lambda _: None)
    assert [record.getMessage() for record in caplog.records] == [
        "Redis refuses: OOM command not allowed when used memory > 'maxmemory'; "
        "waiting until it does not"
    ]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("failures", "lines"), [(1, 0), (4, 0), (5, 1), (6, 1), (40, 1)])
def test_absence_is_told_at_the_fifth_attempt(
    caplog: pytest.LogCaptureFixture, failures: int, lines: int
) -> None:
    """A connection that was closed while it was idle is nobody's business."""
    gone = RedisConnectionError("closed")
    with caplog.at_level(logging.WARNING):
        Patience(60).call_with_retry(failing(*[gone] * failures), lambda _: None)
    assert [record.getMessage() for record in caplog.records] == (
        ["no answer from Redis (closed); trying again"] * lines
    )


@pytest.mark.parametrize(("asleep_s", "lines"), [(60.0, 1), (3600.0, 2)])
def test_told_again_after_a_sleep(
    clock: Clock, caplog: pytest.LogCaptureFixture, asleep_s: float, lines: int
) -> None:
    """A machine that slept while Redis was away has another trouble when it wakes."""
    tried = 0

    def attempt() -> str:
        nonlocal tried
        tried += 1
        if tried == 8:
            clock.now += asleep_s
        if tried == 20:
            return "done"
        raise RedisConnectionError("gone")

    with caplog.at_level(logging.WARNING):
        assert Patience(1000).call_with_retry(attempt, lambda _: None) == "done"
    assert len(caplog.records) == lines


def test_pauses_grow_to_a_second(clock: Clock) -> None:
    """A short absence costs a tenth of one, a long one keeps nobody busy, however long it is."""
    Patience(1e9).call_with_retry(failing(*[_OOM] * 1200), lambda _: None)
    assert clock.slept[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert set(clock.slept[4:]) == {1.0}


@pytest.mark.parametrize(
    ("attempt_s", "attempts"),
    [
        (0.0, 104),  # pauses alone: the four shortest make one and a half
        (20.0, 6),
        (64.9, 3),  # one that waited for its time-out, and what else it did
        (65.1, None),  # its process may have been stopped meanwhile: the trouble is a new one
    ],
)
def test_patience_with_attempts_that_take_long(
    clock: Clock, attempt_s: float, attempts: int | None
) -> None:
    """They count as the same trouble for a time-out and five seconds; patience is a hundred."""
    tried = 0

    def attempt() -> str:
        nonlocal tried
        tried += 1
        clock.now += attempt_s if tried > 1 else 0.0
        if tried > 300:
            return "done"
        raise RedisTimeoutError("Timeout reading")

    if attempts is None:
        assert Patience(100).call_with_retry(attempt, lambda _: None) == "done"
    else:
        with pytest.raises(RedisTimeoutError):
            Patience(100).call_with_retry(attempt, lambda _: None)
        assert tried == attempts


@pytest.mark.parametrize(("gap_s", "is_one"), [(0.0, False), (4.9, True), (5.1, False)])
def test_trouble_that_comes_again(clock: Clock, gap_s: float, is_one: bool) -> None:
    """It is the same trouble if it comes within five seconds; here patience is four."""
    patience = Patience(4)
    patience.call_with_retry(failing(_OOM), lambda _: None)
    clock.now += gap_s
    if is_one:
        with pytest.raises(OutOfMemoryError):
            patience.call_with_retry(failing(_OOM), lambda _: None)
    else:
        assert patience.call_with_retry(failing(_OOM), lambda _: None) == "done"


def test_what_redis_py_asks_of_its_retries(clock: Clock) -> None:
    """Which errors may be repeated, and that the closing is told how often it failed."""
    failed: list[tuple[object, ...]] = []

    def fail(*told: Any) -> None:
        failed.append(told)

    patience = Patience(60)
    with pytest.raises(OutOfMemoryError):
        patience.call_with_retry(failing(_OOM), fail, is_retryable=lambda _: False)
    assert (failed, clock.slept) == ([], [])
    errors = [_OOM, _OOM]
    assert patience.call_with_retry(failing(*errors), fail, lambda _: True, True) == "done"
    assert failed == [(_OOM, 1), (_OOM, 2)]
