"""The connection to Redis: the one that REDIS_URL names, else the private one."""

import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from warmclip.errors import QueueUnreachable, SettingsError
from warmclip.settings import Settings, without_password
from warmclip.work.private_redis import PrivateRedis

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0  # of one command; RQ's worker raises it where it waits for jobs
_HEALTH_CHECK_S = 30
_TOLD_AT = 5  # attempts: a second and a half


class Patience(ExponentialBackoff):
    """Waits between the attempts of one command, for so long in all."""

    def __init__(self, patience_s: float, given_up: Callable[[], bool] = lambda: False) -> None:
        """Patience of a connection.

        Args:
            patience_s: after which a command that still fails raises.
            given_up: asked between attempts; once it says so, the command raises at once.
        """
        super().__init__(cap=1.0, base=0.05)
        self._patience_s = patience_s
        self._given_up = given_up
        self._deadline = 0.0

    def reset(self) -> None:
        """A command begins."""
        self._deadline = time.monotonic() + self._patience_s

    def compute(self, failures: int) -> float:
        """Seconds until the next attempt; called while the error of the last is handled."""
        error = sys.exception()
        if error is not None and (time.monotonic() > self._deadline or self._given_up()):
            raise error
        if failures == _TOLD_AT:
            log.warning("no answer from Redis (%s); trying again", error)
        return super().compute(failures)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)  # each connection counts for itself, and asks the same question


@contextmanager
def open_broker(
    settings: Settings,
    patience: Patience | None = None,
    *,
    answer_s: float = _ANSWER_TIMEOUT_S,
    retries: int = 3,
) -> Iterator[Redis]:
    """Connect to Redis, starting the private one if no URL is set and none runs yet.

    An answer that fails to come inside the ``with`` block is translated too.

    Args:
        settings: REDIS_URL, or the home of the private Redis.
        patience: of each command, once Redis has answered; without it, a second or two.
        answer_s: that one command may take.
        retries: how often a command is sent again, without patience.

    Raises:
        QueueUnreachable: no answer; the message has the address, without its password.
        SettingsError: REDIS_URL or WARMCLIP_HOME cannot be used.
    """
    with ExitStack() as stack:
        if settings.redis_url is None:
            private = PrivateRedis(settings.home)
            stack.callback(private.close)
            url, address = None, f"the private Redis at {private.socket}"
            path = os.fspath(private.socket)
        else:
            url, address = settings.redis_url, without_password(settings.redis_url)
            path = ""
        # The probe is a connection of its own: RQ lengthens the time-outs of those made later.
        soon = Retry(ExponentialBackoff(cap=0.5, base=0.05), retries)
        with _connect(url, path, soon, timeout_s=_CONNECT_TIMEOUT_S) as probe:
            try:
                probe.ping()
            except RedisError as exc:
                raise _unreachable(address, exc) from exc
        retry = Retry(patience, -1) if patience is not None else soon
        connection = stack.enter_context(_connect(url, path, retry, timeout_s=answer_s))
        try:
            yield connection
        except (RedisConnectionError, RedisTimeoutError) as exc:
            raise _unreachable(address, exc) from exc


BROKER_ERRORS: tuple[type[Exception], ...] = (RedisError,)
"""What a connection raises: for those who translate it outside of ``open_broker``."""


def as_ours(settings: Settings, exc: Exception) -> QueueUnreachable:
    """An error of the connection to Redis, as ``open_broker`` would raise it."""
    if settings.redis_url is None:
        return _unreachable("its socket in WARMCLIP_HOME", exc)
    return _unreachable(without_password(settings.redis_url), exc)


def _connect(url: str | None, path: str, retry: Retry, *, timeout_s: float) -> Redis:
    if url is None:
        return Redis(unix_socket_path=path, socket_timeout=timeout_s, retry=retry)
    try:
        return Redis.from_url(
            url,
            socket_timeout=timeout_s,
            retry=retry,
            health_check_interval=_HEALTH_CHECK_S,
            **_over_network(url, timeout_s),
        )
    except ValueError:
        # Its text may hold the URL, and so the password: keep the cause out of the traceback.
        raise SettingsError(
            f"REDIS_URL={without_password(url)} is not an address of Redis"
        ) from None


def _over_network(url: str, timeout_s: float) -> dict[str, float | bool]:
    if url.startswith("unix:"):
        return {}
    return {"socket_connect_timeout": min(timeout_s, _CONNECT_TIMEOUT_S), "socket_keepalive": True}


def _unreachable(address: str, exc: Exception) -> QueueUnreachable:
    if "certificate" in str(exc):
        return QueueUnreachable(
            f"Redis at {address} shows a certificate that is not trusted ({exc}); name the "
            "authority that signed it: REDIS_URL=rediss://...?ssl_ca_certs=/path/to/ca.pem"
        )
    return QueueUnreachable(
        f"no answer from Redis at {address} ({exc}); start it, or correct REDIS_URL "
        "(without it, warmclip runs a private Redis)"
    )
