"""The checks that every request must pass: host, rate, origin, token and size of its body."""

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
_MOST_DISCARDED_BYTES = 2 * MOST_SENT_BYTES

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WITHOUT_TOKEN = frozenset({"/readyz"})
_WITHOUT_RATE = frozenset({"/readyz", "/metrics"})  # supervisors ask these often, from one address
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"


class AdmissionMiddleware:
    """An ASGI middleware that admits or refuses requests to the whole app.

    A web page that somebody visits can send requests to this server, and by DNS rebinding even
    read the answers. So the Host must be one of ours, and a write that tells its origin must come
    from our own page.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str] = (),
        token: Token | None = None,
        open_paths: Iterable[str] = (),
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        """Wrap an app.

        Args:
            app: what answers the requests that are admitted.
            hosts: names by which requests may call the server, besides loopback's and the address
                at which they arrive.
            token: that requests must show.
            open_paths: exact paths that may be read without the token: they hold no data.
            rate_limiter: bounds the requests of one address.
        """
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in (*_LOOPBACK, *hosts))
        self._token = token
        self._open_paths = _WITHOUT_TOKEN.union(open_paths)
        self._rate_limiter = rate_limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_security_headers(send)
        try:
            most_bytes = self._admit(scope)
        except Problem as exc:
            response = ProblemResponse(exc.status, exc.detail, headers=exc.headers)
            await _discard_body(receive)
            await response(scope, receive, send)
            return
        await self._app(scope, _BoundedBody(receive, most_bytes), send)

    def _admit(self, scope: Scope) -> int:
        """How many bytes the request's body may have.

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
        # Before the token is looked at, so that the rate bounds guesses of it as well.
        if scope["path"] not in _WITHOUT_RATE:
            self._check_rate(scope)
        if scope["method"] not in _SAFE:
            _check_origin(headers, host)
        is_open = scope["method"] in _SAFE and scope["path"] in self._open_paths
        if (
            self._token is not None
            and not is_open
            and not self._token.is_shown_by(headers.get("authorization"))
        ):
            if scope["path"] in _WITHOUT_RATE:
                self._check_rate(scope)
            raise Problem(
                401,
                "show the server's token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        is_upload = headers.get("content-type", "").lower().startswith("multipart/form-data")
        most_bytes = MOST_SENT_BYTES + _MULTIPART_BYTES if is_upload else MOST_JSON_BYTES
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 15 or int(length) > most_bytes):
            raise Problem(413, _too_large(most_bytes))
        return most_bytes

    def _check_rate(self, scope: Scope) -> None:
        if self._rate_limiter is not None:
            self._rate_limiter.admit((scope.get("client") or ("",))[0])


class _BoundedBody:
    """Receives a body whose length is not known, up to a bound."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive = receive
        self._left_bytes = self._most_bytes = most_bytes

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left_bytes -= len(message.get("body", b""))
            if self._left_bytes < 0:
                if message.get("more_body"):
                    await _discard_body(self._receive)
                raise HTTPException(413, _too_large(self._most_bytes))
        return message


async def _discard_body(receive: Receive) -> None:
    """Read a refused body, up to a bound: a client that still sends may never see the answer."""
    left_bytes = _MOST_DISCARDED_BYTES
    while left_bytes > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        left_bytes -= len(message.get("body", b""))


def _with_security_headers(send: Send) -> Send:
    """Keep browsers from guessing a type, and from showing data as a page."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            if not any(name == b"content-security-policy" for name, _ in headers):
                headers.append((b"content-security-policy", _NO_PAGE))
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers


def _too_large(most_bytes: int) -> str:
    return (
        f"the body is larger than {most_bytes:,} bytes; pictures may have {MOST_SENT_BYTES:,}: "
        "send a smaller one, or index its file and ask for what is similar to it"
    )


def _headers(scope: Scope) -> Mapping[str, str]:
    """The headers by name.

    Raises:
        Problem: one that must be unique stands twice.
    """
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
    """The address at which this connection arrived: it is no name, so none that was rebound."""
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
