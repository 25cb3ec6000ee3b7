"""Who may ask the server: each rule by a table of requests."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from warmclip.errors import SettingsError
from warmclip.serve.admission import (
    AdmissionMiddleware,
    check_host,
    check_origin,
    check_unique,
    needs_token,
)
from warmclip.serve.auth import Token, is_loopback, read_token, require_token
from warmclip.serve.body import MOST_JSON_BYTES, MOST_UPLOAD_BYTES, BodyBudget, bound_body
from warmclip.serve.problems import Problem
from warmclip.serve.rate_limiter import RateLimiter

SECRET = "0123456789abcdef"  # noqa: S105 - of the tests alone
TOKEN = Token.from_secret(SECRET)
UPLOAD = {"content-type": "multipart/form-data"}
NAMES = {"localhost", "127.0.0.1", "::1", "photos.example"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("10.0.0.1", False),  # noqa: S104 - compared only
        ("169.254.1.1", False), ("fe80::1", False), ("2001:db8::1", False), ("", False),
        ("photos.example", False), ("localhost.example", False), ("my-mac.local", False),
        ("128.0.0.1", False), ("::ffff:192.0.2.1", False), ("LOCALHOST", False),
    ],
)  # fmt: skip
def test_address_to_listen_on(host: str, expected: bool) -> None:
    """Only an address that no other machine can reach needs no token."""
    assert is_loopback(host) is expected
    require_token(host, TOKEN)
    if expected:
        require_token(host, None)
    else:
        with pytest.raises(SettingsError, match="--token-file"):
            require_token(host, None)


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (f"Bearer {SECRET}", True), (f"bearer {SECRET}", True), (f"Bearer   {SECRET} ", True),
        (None, False), ("", False), ("Bearer", False), ("Bearer ", False), (SECRET, False),
        (f"Basic {SECRET}", False), (f"Bearer {SECRET}x", False), (f"Bearer {SECRET[:-1]}", False),
        (f"Bearer {SECRET.upper()}", False), ("Bearer \udcff", False), (f"Bearer: {SECRET}", False),
    ],
)  # fmt: skip
def test_token_that_is_shown(authorization: str | None, expected: bool) -> None:
    """It must be the very token, as a bearer's."""
    assert TOKEN.is_shown_by(authorization) is expected


@pytest.mark.parametrize(
    ("mode", "is_told"),
    [(0o600, False), (0o400, False), (0o700, False), (0o640, True), (0o604, True), (0o601, True)],
)
def test_token_in_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_told: bool
) -> None:
    """The file comes before the environment; one that others may read is told."""
    secret = SECRET * 4
    file = tmp_path / "token"
    file.write_text(f"{secret}\n")
    file.chmod(mode)
    token = read_token(file, SECRET)
    assert token is not None
    assert token.is_shown_by(f"Bearer {secret}")
    assert not token.is_shown_by(f"Bearer {SECRET}")
    assert ("chmod 600" in caplog.text) is is_told


def test_token_without_a_file(tmp_path: Path) -> None:
    """The environment's, or none; a file that is not there is an error all the same."""
    assert read_token(None, None) is None
    assert read_token(None, SECRET) == TOKEN
    with pytest.raises(SettingsError, match=r"--token-file .* cannot be read"):
        read_token(tmp_path / "none", SECRET)


def test_token_file_that_is_another_file(tmp_path: Path) -> None:
    """Its beginning is no token: a token that is cut would not be what clients send."""
    file = tmp_path / "token"
    file.write_text("x" * 4096 + "\n")
    with pytest.raises(SettingsError, match="has more than 4096 bytes"):
        read_token(file, SECRET)
    file.write_text("x" * 4095 + "\n")
    assert read_token(file, None) == Token.from_secret("x" * 4095)


@pytest.mark.parametrize("secret", ["", "short", "fifteen-letters", "sixteen letters\n", "ü" * 20])
def test_secret_that_is_no_token(secret: str) -> None:
    """What can be guessed, or no header can carry, is refused; it is not repeated."""
    with pytest.raises(SettingsError) as refused:
        Token.from_secret(secret)
    assert not secret or secret not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/readyz", False), ("HEAD", "/readyz", False), ("OPTIONS", "/", False),
        ("GET", "/", False), ("POST", "/", True), ("POST", "/readyz", True),
        ("GET", "/healthz", True), ("GET", "/metrics", True), ("GET", "/readyz/", True),
        ("get", "/", True), ("GET", "/READYZ", True), ("GET", "", True), ("PURGE", "/", True),
    ],
)  # fmt: skip
def test_what_needs_the_token(method: str, path: str, expected: bool) -> None:
    """All but reading exactly the paths that hold no data."""
    assert needs_token(method, path, {"/", "/readyz"}) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LOCALHOST:99", True), ("localhost.", True), ("[::1]:80", True),
        ("photos.example:8000", True), ("192.0.2.7", True), ("192.0.2.7:8000", True),
        ("192.0.2.8", False), ("10.0.0.1", False), ("evil.example", False),
        ("photos.example.evil.example", False),
        ("", False), ("[::1", False), (":8000", False), ("localhost@evil.example", False),
        ("evil.example#localhost", False), ("localhost/evil", True), ("::1", False),
    ],
)  # fmt: skip
def test_host_of_a_request(host: str, expected: bool) -> None:
    """Names that the server has, and the address at which the connection arrived."""
    if expected:
        check_host(host, NAMES, "192.0.2.7")
        return
    with pytest.raises(Problem, match="--allow-host") as refused:
        check_host(host, NAMES, "192.0.2.7")
    assert refused.value.status == 421


def test_long_names_are_cut() -> None:
    """Of what somebody has sent, two hundred characters are told."""
    name = "x" * 300
    with pytest.raises(Problem) as refused:
        check_host(name, NAMES, None)
    assert f"name {name[:200]!r};" in refused.value.detail
    with pytest.raises(Problem) as refused:
        check_origin({"host": "localhost", "origin": f"http://{name}"})
    assert f"pages of {('http://' + name)[:200]!r} may" in refused.value.detail


def test_host_without_an_address() -> None:
    """A connection without an address, as of a socket file, has names only."""
    check_host("localhost", NAMES, None)
    with pytest.raises(Problem):
        check_host("", NAMES, None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "https://localhost:8000"}, True),  # behind a proxy that speaks TLS
        ({"origin": "http://LOCALHOST:8000"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://localhost"}, False),
        ({"origin": "http://localhost:8001"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://photos.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://["}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": ""}, False),
        ({"origin": "http://localhost:8000", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_origin_of_a_write(headers: dict[str, str], expected: bool) -> None:
    """Our own page's, or no page's."""
    headers = {"host": "localhost:8000", **headers}
    if expected:
        check_origin(headers)
        return
    with pytest.raises(Problem) as refused:
        check_origin(headers)
    assert refused.value.status == 403


def test_origin_without_a_host() -> None:
    """An origin that says nothing does not equal a host that is missing."""
    with pytest.raises(Problem):
        check_origin({"origin": "null"})


@pytest.mark.parametrize("name", ["host", "Origin", "authorization", "Content-Length"])
def test_header_that_stands_twice(name: str) -> None:
    """A proxy may have looked at the other one."""
    pair = (name.encode(), b"1")
    check_unique([pair, (b"accept", b"*/*"), (b"accept", b"text/plain")])
    with pytest.raises(Problem, match="stands twice"):
        check_unique([pair, (name.lower().encode(), b"2")])


@pytest.mark.parametrize(
    ("headers", "most"),
    [
        ({}, MOST_JSON_BYTES),
        ({"content-length": str(MOST_JSON_BYTES)}, MOST_JSON_BYTES),
        ({"content-length": str(MOST_JSON_BYTES + 1)}, None),
        ({"content-type": "application/json", "content-length": "1048577"}, None),
        ({"content-type": "Multipart/Form-Data; boundary=x"}, MOST_UPLOAD_BYTES),
        (UPLOAD | {"content-length": str(MOST_UPLOAD_BYTES)}, MOST_UPLOAD_BYTES),
        (UPLOAD | {"content-length": str(MOST_UPLOAD_BYTES + 1)}, None),
        ({"content-length": "9" * 5000}, None),
        ({"content-length": "9" * 5000, "transfer-encoding": "chunked"}, MOST_JSON_BYTES),
        ({"content-length": "-1"}, MOST_JSON_BYTES),  # h11 refuses it before
    ],
    ids=str,
)  # fmt: skip
def test_size_of_a_body(headers: dict[str, str], most: int | None) -> None:
    """A picture may have ten times as many bytes as JSON; what is not declared is counted."""
    if most is not None:
        assert bound_body(headers) == most
        return
    with pytest.raises(Problem, match=r"10,485,760") as refused:
        bound_body(headers)
    assert refused.value.status == 413


def test_bytes_in_flight() -> None:
    """They are bounded all together, a request without a body always passes, and all are given
    back, whatever became of the request.
    """
    budget = BodyBudget(100)
    with budget.reserve(60), budget.reserve(40):
        with pytest.raises(Problem, match="try again") as refused, budget.reserve(1):
            pass
        assert refused.value.status == 503
        with budget.reserve(0):
            pass
    with pytest.raises(ZeroDivisionError), budget.reserve(100):
        raise ZeroDivisionError
    with budget.reserve(100):
        pass


async def page(_: Scope, receive: Receive, send: Send) -> None:
    """An app that reads a whole body, and answers with a page that has a policy of its own."""
    while (await receive()).get("more_body"):
        pass
    policy = (b"content-security-policy", b"default-src 'self'")
    await send({"type": "http.response.start", "status": 200, "headers": [policy]})
    await send({"type": "http.response.body", "body": b"page"})


async def data(_: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with data, and says nothing of policies."""
    await receive()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"{}"})


def ask(
    gate: AdmissionMiddleware,
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    client: str | None = "192.0.2.1",
    body: bytes = b"",
) -> tuple[int, dict[str, str]]:
    """The status and headers of the answer to one request for the address 192.0.2.7."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    named = {"Host": "192.0.2.7", **(headers or {})}
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "server": ("192.0.2.7", 80),
        "client": None if client is None else (client, 5),
    }
    asyncio.run(gate(scope, receive, send))
    start = sent[0]
    told = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], told


SHOWN = {"Authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),  # an open path
        ("GET", "/livez", {}, 200),
        ("GET", "/readyz", {}, 200),
        ("GET", "/metrics", {}, 401),
        ("GET", "/search", {}, 401),
        ("GET", "/search", SHOWN, 200),
        ("GET", "/search", {"Authorization": "Bearer another"}, 401),
        ("POST", "/", {}, 401),
        ("POST", "/search", SHOWN, 200),
        ("POST", "/search", SHOWN | {"Origin": "http://192.0.2.7"}, 200),
        ("POST", "/search", SHOWN | {"Origin": "http://evil.example"}, 403),
        ("GET", "/search", SHOWN | {"Origin": "http://evil.example"}, 200),
        ("OPTIONS", "/", {"Origin": "http://evil.example"}, 200),
        ("HEAD", "/", {"Origin": "http://evil.example"}, 200),
        ("GET", "/", {"Host": "photos.example"}, 200),
        ("GET", "/", {"Host": "[fd00::7]:80"}, 200),
        ("GET", "/", {"Host": "localhost"}, 200),
        ("GET", "/", {"Host": "evil.example"}, 421),
        ("GET", "/", {"host": "localhost"}, 400),  # stands twice
        ("POST", "/search", SHOWN | {"Content-Length": str(MOST_JSON_BYTES + 1)}, 413),
        ("POST", "/search", {"Content-Length": str(MOST_JSON_BYTES + 1)}, 401),
    ],
)
def test_who_is_admitted(method: str, path: str, headers: dict[str, str], status: int) -> None:
    """Every request passes every check, in an order that tells strangers least."""
    gate = AdmissionMiddleware(
        data, hosts=["Photos.example", "[FD00::7]"], token=TOKEN, open_paths=["/"]
    )
    found, told = ask(gate, method, path, headers)
    assert found == status
    assert told.get("www-authenticate") == ("Bearer" if status == 401 else None)


def test_server_without_a_token() -> None:
    """It asks nobody for one."""
    assert ask(AdmissionMiddleware(data), "POST", "/search")[0] == 200


@pytest.mark.parametrize(
    ("path", "headers", "admitted"),
    [
        ("/search", SHOWN, [200, 200, 429, 429]),
        ("/search", {}, [401, 401, 429, 429]),  # guesses of the token are counted
        ("/readyz", {}, [200] * 4),  # supervisors ask often
        ("/metrics", SHOWN, [200] * 4),
        ("/metrics", {}, [401, 401, 429, 429]),
        ("/search", {"Host": "evil.example"}, [421] * 4),
    ],
)
def test_how_often(path: str, headers: dict[str, str], admitted: list[int]) -> None:
    """Two requests a minute of one address, whatever became of them; another one has its own."""
    rate = RateLimiter(2, lambda: 0.0)
    gate = AdmissionMiddleware(data, token=TOKEN, rate_limiter=rate)
    for client in ("192.0.2.1", None):
        assert [ask(gate, path=path, headers=headers, client=client)[0] for _ in admitted] == (
            admitted
        )


def test_body_that_is_longer_than_it_may_be() -> None:
    """What no header declares is counted as it comes."""
    gate = AdmissionMiddleware(page)
    chunked = {"Transfer-Encoding": "chunked"}
    assert ask(gate, "POST", "/", chunked, body=bytes(MOST_JSON_BYTES))[0] == 200
    with pytest.raises(Exception, match="larger than 1,048,576 bytes"):
        ask(gate, "POST", "/", chunked, body=bytes(MOST_JSON_BYTES + 1))


@pytest.mark.parametrize(
    ("app", "policy"),
    [(page, "default-src 'self'"), (data, "default-src 'none'; frame-ancestors 'none'")],
)
def test_answers_guard_browsers(app: Any, policy: str) -> None:
    """No type is guessed, and data are not shown as a page; a page has its own policy."""
    for method in ("GET", "DELETE"):
        _, told = ask(AdmissionMiddleware(app, token=TOKEN, open_paths=["/"]), method)
        assert told["x-content-type-options"] == "nosniff"
    assert ask(AdmissionMiddleware(app))[1]["content-security-policy"] == policy


@pytest.mark.parametrize("name", ["cache-control", "x-more"])
def test_answer_with_headers_of_its_own(name: str) -> None:
    """They stay, and data are no page all the same."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(name.encode(), b"its own")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    _, told = ask(AdmissionMiddleware(app))
    assert told[name] == "its own"
    assert told["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("length", "closes"), [(None, False), ("0", False), ("1", True), ("9", True)]
)
def test_answer_before_the_body_was_read(length: str | None, closes: bool) -> None:
    """The connection goes on if there is none; else it ends after what may be left of it."""

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"{}"})

    headers = {} if length is None else {"Content-Length": length}
    _, told = ask(AdmissionMiddleware(app), "POST", "/", headers, body=b"x" * int(length or 0))
    assert (told.get("connection") == "close") is closes


def test_other_protocols_pass() -> None:
    """Start and end of the server are no requests."""
    seen: list[str] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope["type"])

    nothing: Any = None
    asyncio.run(AdmissionMiddleware(app, token=TOKEN)({"type": "lifespan"}, nothing, nothing))
    assert seen == ["lifespan"]
