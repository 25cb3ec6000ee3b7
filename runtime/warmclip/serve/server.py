"""The server: a listening socket, the app, and the scheduler of sessions."""

import logging
import re
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from warmclip.doctor.dependencies import find_qdrant_outage
from warmclip.errors import SettingsError
from warmclip.indexing.roots import Roots
from warmclip.serve import DEFAULT_RATE
from warmclip.serve.admission import read_hostname
from warmclip.serve.app import create_app
from warmclip.serve.auth import is_loopback, read_token, require_token
from warmclip.serve.connections import MOST_CONNECTIONS, ConnectionTable
from warmclip.serve.context import AppContext
from warmclip.serve.http_protocol import Timeouts, make_protocol
from warmclip.serve.rate_limiter import RateLimiter
from warmclip.serve.streams import Streams
from warmclip.serve.workers import WorkerClient
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.call import send_call
from warmclip.work.counters import read_counters
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.scheduler import SessionScheduler
from warmclip.work.status import read_status

log = logging.getLogger(__name__)

_MOST_OTHER_FILES = 256  # besides connections: of Redis, threads, uploads on disk
_REDIS_ANSWER_S = 2.0  # for one command of a request; it is sent twice
_QDRANT_S = 1.5  # for one answer, when a search waits
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]+")  # of a name with other letters, browsers send xn--...
_GRACE_S = 5  # for requests that are being answered when the server stops


def run_server(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    hosts: Sequence[str] = (),
    rate: int = DEFAULT_RATE,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: where Redis is, the roots, the collection, and the token.
        host: the address to listen on.
        port: 0 for any that is free.
        token_file: with the token, instead of the environment's.
        hosts: names by which requests may call the server, besides loopback's.
        rate: requests that one address may make in a minute; 0: any number.

    Raises:
        SettingsError: the address or a name cannot be used, or other machines can reach it
            without a token.
        QueueUnreachable: no Redis answers.
    """
    token = read_token(token_file, settings.token)
    require_token(host, token)
    names = _host_names(host, hosts)
    raise_file_limit(MOST_CONNECTIONS + _MOST_OTHER_FILES)
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises the signal again once it has stopped
    with (
        listen(host, port) as listener,
        open_broker(settings) as patient,
        open_broker(settings, answer_s=_REDIS_ANSWER_S, retries=1) as connection,
    ):
        scheduler, streams = SessionScheduler(patient, settings), Streams()
        context = AppContext(
            settings=settings,
            roots=Roots(settings.roots),
            sessions=SessionCommands(connection),
            scheduler=scheduler,
            workers=WorkerClient(
                partial(send_call, connection),
                partial(find_qdrant_outage, settings, _QDRANT_S),
            ),
            read_status=partial(read_status, connection),
            read_counters=partial(read_counters, connection),
            streams=streams,
            hosts=names,
        )
        config = uvicorn.Config(
            create_app(context, token, RateLimiter(rate) if rate else None),
            loop="asyncio",
            http=make_protocol(ConnectionTable(), Timeouts()),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # it would show what people search for
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        _announce(settings, listener, has_token=token is not None)
        scheduler.start()
        try:
            _Server(config, streams).run(sockets=[listener])
        finally:
            scheduler.stop()


class _Server(uvicorn.Server):
    """Ends the event streams before it waits for requests that are being answered."""

    def __init__(self, config: uvicorn.Config, streams: Streams) -> None:
        super().__init__(config)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the server."""
        self._streams.end()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        SettingsError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as exc:
        raise SettingsError(
            f"cannot listen on {host} port {port}: {exc.strerror}; choose another --port, or the "
            "--host of an address that is this machine's"
        ) from exc
    # asyncio sets TCP_NODELAY on connections of the protocol TCP only, and create_server leaves
    # it at 0. Without it, a body waits 40 ms for the acknowledgement of its headers.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, listener.detach())


def raise_file_limit(needed: int) -> None:
    """Allow as many descriptors as there may be connections: macOS gives a process 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _host_names(host: str, hosts: Sequence[str]) -> tuple[str, ...]:
    """The names of the server; for a host that means every address, the machine's own name.

    Raises:
        SettingsError: one of those that were allowed is no name that a request could have.
    """
    own = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only
    names = [read_hostname(it) or read_hostname(f"[{it}]") for it in hosts]
    for told, name in zip(hosts, names, strict=True):
        if not name or not _HOST.fullmatch(told):
            raise SettingsError(
                f"--allow-host {told!r}: use a name or an address as it stands between https:// "
                "and the next slash, such as photos.example"
            )
    return (own, *names)


def _announce(settings: Settings, listener: socket.socket, *, has_token: bool) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info(
        "serving at http://%s:%d, described in /openapi.json%s",
        shown,
        port,
        "" if has_token else "; no token: whoever can log in to this machine may use it",
        extra={"action": "server_ready", "port": port},
    )
    if not settings.roots:
        log.warning("no WARMCLIP_ROOTS are set: training sessions will be refused")
    elif not is_loopback(host):
        log.info("requests are not encrypted: put a proxy with TLS before this server")
    settings.warn_of_missing_roots()


def _exit(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls with
    sys.exit(0)
