"""The checks that every request must pass: host, rate, origin, token and size of its body."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmclip.serve.auth import Token
from warmclip.serve.body import BODY_S, BodyBudget, BoundedBody, bound_body, declared_bytes
from warmclip.serve.problems import Problem, ProblemResponse
from warmclip.serve.rate_limiter import RateLimiter

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WITHOUT_TOKEN = frozenset({"/livez", "/readyz"})
_WITHOUT_RATE = frozenset(
    {"/livez", "/readyz", "/metrics"}
)  # supervisors ask these often, from one address
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_UNIQUE = frozenset({"host", "origin", "authorization", "content-length"})
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
        body_s: float = BODY_S,
    ) -> None:
        """Wrap an app.

        Args:
            app: what answers the requests that are admitted.
            hosts: names by which requests may call the server, besides loopback's and the address
                at which they arrive.
            token: that requests must show.
            open_paths: exact paths that may be read without the token: they hold no data.
            rate_limiter: bounds the requests of one address.
            body_s: how long a body may take to arrive.
        """
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in (*_LOOPBACK, *hosts))
        self._token = token
        self._open_paths = _WITHOUT_TOKEN.union(open_paths)
        self._rate_limiter = rate_limiter
        self._body_s = body_s
        self._budget = BodyBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _read_headers(scope)
        length = declared_bytes(headers)
        body = BoundedBody(
            receive, _with_security_headers(send), is_empty=length == 0, body_s=self._body_s
        )
        with ExitStack() as reserved:
            try:
                body.most_bytes = self._admit(scope, headers)
                count = body.most_bytes if length is None else length
                reserved.enter_context(self._budget.reserve(count))
            except Problem as exc:
                answer: ASGIApp = ProblemResponse(exc.status, exc.detail, headers=exc.headers)
            else:
                answer = self._app
            await answer(scope, body.receive, body.send)

    def _admit(self, scope: Scope, headers: Mapping[str, str]) -> int:
        """How many bytes the request's body may have.

        Raises:
            Problem: the request is refused.
        """
        method, path = scope["method"], scope["path"]
        check_unique(scope["headers"])
        server = scope.get("server")
        check_host(headers.get("host", ""), self._hosts, server[0] if server else None)
        # Before the token is looked at, so that the rate bounds guesses of it as well.
        if path not in _WITHOUT_RATE:
            self._count(scope)
        if method not in _SAFE:
            check_origin(headers)
        if (
            self._token is not None
            and needs_token(method, path, self._open_paths)
            and not self._token.is_shown_by(headers.get("authorization"))
        ):
            if path in _WITHOUT_RATE:
                self._count(scope)
            raise Problem(
                401,
                "show the server's token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        return bound_body(headers)

    def _count(self, scope: Scope) -> None:
        if self._rate_limiter is not None:
            self._rate_limiter.admit((scope.get("client") or ("",))[0])


def check_unique(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a header that decides something and stands twice: proxies differ in which counts.

    Raises:
        Problem: naming it.
    """
    seen = set[str]()
    for name, _ in headers:
        key = name.decode("latin-1").lower()
        if key in seen and key in _UNIQUE:
            raise Problem(400, f"the header {key!r} stands twice")
        seen.add(key)


def check_host(host: str, names: Collection[str], address: str | None) -> None:
    """Refuse a Host header that is not this server's.

    Args:
        host: the header, with or without a port.
        names: of the server, in lower case, without brackets.
        address: at which the connection arrived: it is no name, so none that was rebound.

    Raises:
        Problem: saying how to allow the name.
    """
    hostname = read_hostname(host)
    if not hostname or (hostname not in names and hostname != address):
        raise Problem(
            421,
            f"this server does not go by the name {host[:200]!r}; start it with "
            "--allow-host NAME to let it",
        )


def read_hostname(host: str) -> str:
    """The name in a Host header, in lower case, without a port; empty if there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse a write that a page of another site makes; one that tells no origin is no page's.

    Raises:
        Problem: the request comes from another site.
    """
    if headers.get("sec-fetch-site") not in (None, "same-origin", "none"):
        raise Problem(403, "this came from a page of another site: only our own may write")
    origin = headers.get("origin")
    if origin is None:
        return
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:
        netloc = ""
    if not netloc or netloc != headers.get("host", "").lower():
        raise Problem(403, f"pages of {origin[:200]!r} may not write here: only our own may")


def needs_token(method: str, path: str, open_paths: Collection[str]) -> bool:
    """Whether a request must show the token: all but reading what holds no data."""
    return method not in _SAFE or path not in open_paths


def _read_headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


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
