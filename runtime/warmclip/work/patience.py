"""Patience with Redis: what to do while it does not answer, or refuses a command.

Two kinds of trouble pass by themselves. A server is away, or restarts: commands are sent again
when it is back. A server refuses a command for now, as its memory is full, its disk is full, or
an administrator changed the rights of a user: the command is sent again until it is taken. Nothing
is ever concluded from either about the job that was being handled.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from redis.backoff import ExponentialBackoff
from redis.connection import ConnectionPool
from redis.exceptions import ClusterDownError as RedisClusterDownError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    ExecAbortError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

log = logging.getLogger(__name__)

T = TypeVar("T")

LOST: tuple[type[Exception], ...] = (RedisConnectionError, RedisTimeoutError, OSError)
"""No answer. redis-py below 7.2 lets the system's own error of a refused connection through."""

_CODES: dict[type[RedisError], str] = {
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    MasterDownError: "MASTERDOWN",  # before the next, which is its parent
    RedisClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    ExecAbortError: "EXECABORT",
}
_CODES_IN_TEXT = frozenset({"MISCONF", "NOREPLICAS", "BUSY", "LOADING", "UNBLOCKED"})

_TOLD_AT = 5  # attempts without an answer: a second and a half
_ONE_SERIES_S = 5.0  # trouble that comes again within so long is the same trouble


def refusal(error: BaseException) -> str | None:
    """Why Redis refuses a command that it may take later; None if it is not that.

    ``WRONGTYPE`` is none: a key holds something else than RQ's, and will go on to.
    """
    if not isinstance(error, ResponseError):
        return None
    text = _said(error)
    if isinstance(error, ExecAbortError) and (because := text.partition(" because of: ")[2]):
        return because  # the server began to refuse between the last command and EXEC
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return text if text.startswith(code) else f"{code} {text}"
    return text if text.partition(" ")[0] in _CODES_IN_TEXT else None


def is_wrong_type(error: Exception) -> bool:
    """Whether a key holds something else than it should, as opposed to a refusal that passes."""
    said = _said(error)
    return said.startswith("WRONGTYPE") or "is not an integer" in said or "would overflow" in said


def _said(error: Exception) -> str:
    """What Redis has said: redis-py writes before it which command of a transaction it was."""
    return str(error).rpartition("caused error: ")[2].rstrip(".")


@dataclass(slots=True)
class _Trouble:
    """What all connections of a process have met of late: it is told once, and timed as one."""

    since: float = float("-inf")
    last: float = float("-inf")
    told: bool = False


class Patience(Retry):
    """Sends a command again while Redis is away or refuses it, for so long in all."""

    def __init__(self, patience_s: float, given_up: Callable[[], bool] = lambda: False) -> None:
        """Patience of a connection.

        Args:
            patience_s: after which a command that still fails raises.
            given_up: asked between attempts; once it says so, the command raises at once.
        """
        super().__init__(ExponentialBackoff(cap=1.0, base=0.05), -1, (*LOST, ResponseError))
        self._patience_s = patience_s
        self._given_up = given_up
        self._trouble = _Trouble()

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Do it until it succeeds.

        redis-py calls this; ``fail`` closes the connection, and raises WatchError if the command
        belongs to a transaction that watches keys: its caller then begins anew.

        Raises:
            RedisError, OSError: the last error, when patience has ended, or it is of another kind.
        """
        failures = 0
        while True:
            try:
                return do()
            except self._supported_errors as error:
                refused = refusal(error)
                if isinstance(error, ResponseError) and refused is None:
                    raise
                if is_retryable is not None and not is_retryable(error):
                    raise
                failures += 1
                self._wait(error, refused, failures)
                fail(error, failures) if with_failure_count else fail(error)

    def _wait(self, error: Exception, refused: str | None, failures: int) -> None:
        """Pause before the next attempt; raises the error if there shall be none."""
        now = time.monotonic()
        trouble = self._trouble
        if now - trouble.last > _ONE_SERIES_S + self._longest_attempt_s(failures):
            trouble.since, trouble.told = now, False
        trouble.last = now
        if now - trouble.since > self._patience_s or self._given_up():
            raise error
        if not trouble.told and (refused is not None or failures >= _TOLD_AT):
            trouble.told = True
            if refused is not None:
                log.warning("Redis refuses: %s; waiting until it does not", refused)
            else:
                log.warning("no answer from Redis (%s); trying again", error)
        time.sleep(max(0.0, self._backoff.compute(min(failures, 16))))
        trouble.last = time.monotonic()

    @staticmethod
    def _longest_attempt_s(failures: int) -> float:
        """An attempt that is a repetition may have waited for its time-out."""
        return 60.0 if failures > 1 else 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)  # every connection asks the same question, and shares the trouble


class PatientPool(ConnectionPool):
    """Connections that are opened again and again, by the patience of the pool.

    redis-py below 7.2 does not repeat what it sends on a new connection, such as the password: a
    transaction would fail if Redis ended just then.
    """

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """A connection that is ready.

        Raises:
            RedisError, OSError: none could be had, and patience has ended.
        """
        patience: Patience = self.connection_kwargs["retry"]
        return patience.call_with_retry(
            lambda: super(PatientPool, self).get_connection(*args, **options),
            lambda _error: None,  # the pool has taken that connection back
        )
