"""The connection to Redis: the one that REDIS_URL names, else the private one."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.connection import ConnectionPool, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from warmclip.errors import QueueUnreachable, SettingsError
from warmclip.settings import Settings, without_password
from warmclip.work.patience import LOST, Patience, PatientPool, refusal
from warmclip.work.private_redis import PrivateRedis

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0  # of one command; RQ's worker raises it where it waits for jobs
QUICK_ANSWER_S = 2.5
"""The same for questions, whose longest command waits for one second."""

_HEALTH_CHECK_S = 30
_LAZY_PATIENCE_S = 600.0  # a user's function has a time-out of its own

# Options of an address that say how to connect. Others are refused: some would change what is read
# from Redis (decode_responses, encoding, protocol), and a misspelt one would be passed over.
_OPTIONS = frozenset(
    {
        *("db", "username", "password", "client_name", "health_check_interval"),
        *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "retry_on_timeout"),
    }
)
_TLS_OPTIONS = frozenset(
    {
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
        *("ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
        *("ssl_validate_ocsp", "ssl_validate_ocsp_stapled"),
    }
)


@contextmanager
def open_broker(
    settings: Settings,
    patience: Patience | None = None,
    *,
    answer_s: float = _ANSWER_TIMEOUT_S,
    retries: int = 3,
) -> Iterator[Redis]:
    """Connect to Redis, starting the private one if no URL is set and none runs yet.

    An answer that fails to come inside the ``with`` block, or a refusal, is translated too.

    Args:
        settings: REDIS_URL, or the home of the private Redis.
        patience: of each command, once Redis has answered; without it, a second or two.
        answer_s: that Redis may take for one command, before it is sent again. Whoever asks
            questions for people takes ``QUICK_ANSWER_S``, and is told of a frozen Redis in time.
        retries: how often a command is sent again, without patience.

    Raises:
        QueueUnreachable: no answer, or Redis refuses what is asked of it; the message has the
            address, without its password.
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
        retry_lost = Retry(ExponentialBackoff(cap=0.5, base=0.05), retries, LOST)
        # A frozen Redis still takes connections and only times out. A time-out that is repeated
        # connects again, with repetitions of its own: 80 s before a person is told.
        retry_refused = Retry(
            ExponentialBackoff(cap=0.5, base=0.05), retries, (RedisConnectionError,)
        )
        # The probe is a connection of its own: RQ lengthens the time-outs of those made later.
        probe_retry = retry_lost if patience is not None else retry_refused
        with _connect(url, path, probe_retry, timeout_s=_CONNECT_TIMEOUT_S) as probe:
            try:
                probe.ping()
            except (RedisError, OSError) as exc:
                raise _unreachable(address, exc) from exc
        connection = stack.enter_context(
            _connect(url, path, patience or retry_lost, timeout_s=answer_s)
        )
        try:
            yield connection
        except RedisError as exc:
            if refusal(exc) is None and not isinstance(exc, LOST):
                raise
            raise _unreachable(address, exc) from exc


@contextmanager
def connect_lazily(settings: Settings, socket: str | None) -> Iterator[Redis]:
    """A connection for a process that may never need it: the first command makes it.

    Args:
        settings: REDIS_URL.
        socket: of the private Redis, which another process keeps running; None: by the URL.
    """
    patience = Patience(_LAZY_PATIENCE_S)
    with _connect(
        settings.redis_url, socket or "", patience, timeout_s=_ANSWER_TIMEOUT_S
    ) as connection:
        yield connection


BROKER_ERRORS: tuple[type[Exception], ...] = (RedisError, ConnectionError)
"""What a connection raises, for those who translate it outside of ``open_broker``.

redis-py below 7.2 lets the system's own error of a refused connection through.
"""


def as_ours(settings: Settings, exc: Exception) -> QueueUnreachable:
    """An error of the connection to Redis, as ``open_broker`` would raise it."""
    if settings.redis_url is None:
        return _unreachable("its socket in WARMCLIP_HOME", exc)
    return _unreachable(without_password(settings.redis_url), exc)


def _connect(url: str | None, path: str, retry: Retry, *, timeout_s: float) -> Redis:
    pool = PatientPool if isinstance(retry, Patience) else ConnectionPool
    if url is None:
        unix: dict[str, Any] = {"connection_class": UnixDomainSocketConnection, "path": path}
        return Redis.from_pool(pool(**unix, socket_timeout=timeout_s, retry=retry))
    _check_options(url)
    try:
        return Redis.from_pool(
            pool.from_url(
                url,
                socket_timeout=timeout_s,
                retry=retry,
                health_check_interval=_HEALTH_CHECK_S,
                **_over_network(url, timeout_s),
            )
        )
    except ValueError:
        # Its text may hold the URL, and so the password: keep the cause out of the traceback.
        raise SettingsError(
            f"REDIS_URL={without_password(url)} is not an address of Redis"
        ) from None


def _check_options(url: str) -> None:
    """Refuse what an address says beyond how to connect.

    Raises:
        SettingsError: naming the option, not its value.
    """
    parts = urlsplit(url)
    known = _OPTIONS | _TLS_OPTIONS if parts.scheme == "rediss" else _OPTIONS
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name in _TLS_OPTIONS - known:
            raise SettingsError(f"REDIS_URL has the option {name!r}, which is for rediss:// only")
        if name not in known:
            raise SettingsError(
                f"REDIS_URL has the option {name!r}, which is not accepted here; use "
                f"{', '.join(sorted(known))}"
            )


def _over_network(url: str, timeout_s: float) -> dict[str, float | bool]:
    if url.startswith("unix:"):
        return {}
    return {"socket_connect_timeout": min(timeout_s, _CONNECT_TIMEOUT_S), "socket_keepalive": True}


def _unreachable(address: str, exc: Exception) -> QueueUnreachable:
    if (refused := refusal(exc)) is not None:
        return QueueUnreachable(
            f"Redis at {address} refuses what is asked of it ({refused}); look at its memory, its "
            "disk, and the rights of its user, then try again. Nothing that is queued is lost"
        )
    if "certificate" in str(exc):
        return QueueUnreachable(
            f"Redis at {address} shows a certificate that is not trusted ({exc}); name the "
            "authority that signed it: REDIS_URL=rediss://...?ssl_ca_certs=/path/to/ca.pem"
        )
    return QueueUnreachable(
        f"no answer from Redis at {address} ({exc}); start it, or correct REDIS_URL "
        "(without it, warmclip runs a private Redis)"
    )
