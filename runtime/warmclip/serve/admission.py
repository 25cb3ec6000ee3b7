"""What every request must pass before anything is done for it: host, rate, origin, token, size."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmclip.serve.auth import Token
from warmclip.serve.problems import Problem, ProblemResponse
from warmclip.serve.rate_limiter import RateLimiter
from warmclip.work.call import MOST_SENT_BYTES

MOST_JSON_BYTES = 1024 * 1024
_MULTIPART_BYTES = 64 * 1024  # around a picture
_MOST_DRAINED_BYTES = 2 * MOST_SENT_BYTES

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WITHOUT_TOKEN = frozenset({"/readyz"})
_AT_ANY_RATE = frozenset({"/readyz", "/metrics"})  # what supervisors ask, from one address
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"


class AdmissionMiddleware:
    """An ASGI middleware in front of the whole app.

    A web page that somebody visits can send requests to this server, and by rebinding its name to
    our address even read the answers. So the Host must be one of ours, and a write that says where
    it comes from must come from us.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str] = (),
        token: Token | None = None,
        open_paths: Iterable[str] = (),
        rate: RateLimiter | None = None,
    ) -> None:
        """A gate.

        Args:
            app: what is behind it.
            hosts: names by which it may be called, besides loopback's and its own address.
            token: that requests must show.
            open_paths: exact paths that may be read without it: they hold no data.
            rate: how often one address may ask.
        """
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in (*_LOOPBACK, *hosts))
        self._token = token
        self._open_paths = _WITHOUT_TOKEN.union(open_paths)
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _marked(send)
        try:
            most = self._admit(scope)
        except Problem as exc:
            response = ProblemResponse(exc.status, exc.detail, headers=exc.headers)
            await _drain(receive)
            await response(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive, most), send)

    def _admit(self, scope: Scope) -> int:
        """How many bytes of a body may be read.

        Raises:
            Problem: the request is refused.
        """
        headers = _headers(scope)
        host = headers.get("host", "")
        if _hostname(host) not in self._hosts | _own_address(scope):
            raise Problem(
                421,
                f"this server does not go by the name {host[:200]!r}; start it with "
                "--allow-host NAME to let it",
            )
        # Before the token, which so cannot be guessed any faster.
        if scope["path"] not in _AT_ANY_RATE:
            self._check_rate(scope)
        if scope["method"] not in _SAFE:
            _check_origin(headers, host)
        is_open = scope["method"] in _SAFE and scope["path"] in self._open_paths
        if (
            self._token is not None
            and not is_open
            and not self._token.admits(headers.get("authorization"))
        ):
            if scope["path"] in _AT_ANY_RATE:
                self._check_rate(scope)
            raise Problem(
                401,
                "show the server's token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        is_upload = headers.get("content-type", "").lower().startswith("multipart/form-data")
        most = MOST_SENT_BYTES + _MULTIPART_BYTES if is_upload else MOST_JSON_BYTES
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 15 or int(length) > most):
            raise Problem(413, _too_large(most))
        return most

    def _check_rate(self, scope: Scope) -> None:
        if self._rate is not None:
            self._rate.admit((scope.get("client") or ("",))[0])


class _Bounded:
    """Receives a body of unknown length, as far as it may go."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._left = self._most = most

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                if message.get("more_body"):
                    await _drain(self._receive)
                raise HTTPException(413, _too_large(self._most))
        return message


async def _drain(receive: Receive) -> None:
    """Let a refused body pass by, within bounds: who still sends may never see the answer."""
    left = _MOST_DRAINED_BYTES
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        left -= len(message.get("body", b""))


def _marked(send: Send) -> Send:
    """A browser shall take an answer for what it says it is, and data for no page at all."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            if not any(name == b"content-security-policy" for name, _ in headers):
                headers.append((b"content-security-policy", _NO_PAGE))
            message = {**message, "headers": headers}
        await send(message)

    return marked


def _too_large(most: int) -> str:
    return (
        f"the body is larger than {most:,} bytes; pictures may have {MOST_SENT_BYTES:,}: "
        "send a smaller one, or index its file and ask for what is similar to it"
    )


def _headers(scope: Scope) -> Mapping[str, str]:
    """The headers; one that stands twice and must be unique counts as wrong."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "authorization"):
            raise Problem(400, f"the header {key!r} stands twice")
        headers[key] = value.decode("latin-1")
    return headers


def _hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _own_address(scope: Scope) -> frozenset[str]:
    """The address at which this very connection arrived: no name, and so never a rebound one."""
    server = scope.get("server")
    return frozenset([server[0]] if server else [])


def _check_origin(headers: Mapping[str, str], host: str) -> None:
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") not in (None, "same-origin", "none"):
        raise Problem(403, "this came from a page of another site: only our own may write")
    if origin is None:
        return
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:
        netloc = ""
    if netloc != host.lower():
        raise Problem(403, f"pages of {origin[:200]!r} may not write here: only our own may")
