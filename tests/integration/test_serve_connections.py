"""Connections that are silent, late, broken, or too many: nobody else is locked out by them."""

import asyncio
import json
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from uvicorn.server import ServerState

from running import environment_of
from serving import SESSIONS, running_server
from warmclip.serve.admission import AdmissionMiddleware
from warmclip.serve.auth import Token
from warmclip.serve.connections import ConnectionTable
from warmclip.serve.http_protocol import Timeouts, make_protocol
from warmclip.serve.problems import add_problem_handlers
from warmclip.serve.server import listen
from warmclip.settings import Settings

SECRET = "0123456789abcdef-a-token-of-the-tests"  # noqa: S105 - of the tests alone
SHORT = Timeouts(header_s=0.3, idle_s=60, write_s=0.3)
LONG = Timeouts(header_s=60, idle_s=60, write_s=60)
GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE_S = 20


class Client:
    """One connection to a server in this process."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Read one response that tells its length: status, headers, body."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, body

    async def problem(self) -> dict[str, Any]:
        """Read a response that is a problem document."""
        status, headers, body = await self.response()
        assert headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(body)
        assert found["status"] == status
        return found

    async def end(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


def make_app(body_s: float = 60) -> AdmissionMiddleware:
    """A small app behind the checks of the real one."""
    app = FastAPI()
    add_problem_handlers(app, Settings(bundle=Path("none")))

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield bytes(65_536)
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    token = Token.from_secret(SECRET)
    return AdmissionMiddleware(app, token=token, open_paths=["/hello", "/endless"], body_s=body_s)


@asynccontextmanager
async def serving(
    timeouts: Timeouts, *, most: int = 99, body_s: float = 60
) -> AsyncIterator[tuple[int, ServerState]]:
    """A server in this process: its port, and its state."""
    config = uvicorn.Config(
        make_app(body_s),
        http=make_protocol(ConnectionTable(most, most), timeouts),
        ws="none",
        log_config=None,
    )
    config.load()
    state = ServerState()
    listener = listen("127.0.0.1", 0)
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]  # as uvicorn calls it
        sock=listener,
    )
    async with server:
        yield listener.getsockname()[1], state


def upload(length: int | str, token: str = SECRET) -> bytes:
    """The head of a request with a body."""
    name = "Content-Length" if isinstance(length, int) else "Transfer-Encoding"
    return (
        "POST /upload HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\n{name}: {length}\r\n\r\n"
    ).encode()


SHORT_BODY = upload(10) + b"x" * 5


@pytest.mark.parametrize(
    "sent", [b"", b"GET", GET[:-2]], ids=["nothing", "a word", "all but the last line"]
)
def test_late_header(sent: bytes) -> None:
    """Who connects and sends no whole request is told so, and the connection is closed."""

    async def run() -> None:
        async with serving(SHORT) as (port, _), Client(port) as client:
            await client.send(sent)
            assert (await client.problem())["status"] == 408
            assert await client.end() == b""

    asyncio.run(run())


def test_header_that_drips() -> None:
    """A byte now and then does not prolong it."""

    async def drip(client: Client) -> None:
        await client.send(GET[:-2])
        while True:
            await client.send(b"X: 1\r\n")
            await asyncio.sleep(0.05)

    async def run() -> None:
        async with serving(SHORT) as (port, _), Client(port) as client:
            dripping = asyncio.create_task(drip(client))
            assert (await client.problem())["status"] == 408
            dripping.cancel()

    asyncio.run(run())


def test_late_header_on_a_kept_connection() -> None:
    """The next request must become whole in time as well; until it begins, nothing is late."""

    async def run() -> None:
        async with serving(SHORT) as (port, _), Client(port) as client:
            for _ in range(2):
                await client.send(GET)
                assert (await client.response())[0] == 200
                await asyncio.sleep(2 * SHORT.header_s)
            await client.send(GET[:-2])
            assert (await client.problem())["status"] == 408

    asyncio.run(run())


def test_idle_connection() -> None:
    """A kept connection is closed at last."""

    async def run() -> None:
        idle = Timeouts(header_s=60, idle_s=1)
        async with serving(idle) as (port, state), Client(port) as client:
            await client.send(GET)
            assert (await client.response())[0] == 200
            assert await client.end() == b""
            assert not state.connections

    asyncio.run(run())


def test_refused_request_whose_body_never_comes() -> None:
    """It is answered at once, and the connection is not kept."""

    async def run() -> None:
        async with serving(LONG) as (port, _), Client(port) as client:
            await client.send(upload(1000, token="wrong"))  # noqa: S106 - it is no secret
            status, headers, _ = await client.response()
            assert (status, headers["connection"]) == (401, "close")
        async with serving(LONG) as (port, _), Client(port) as client:
            await client.send(upload(50_000_000))
            assert (await client.problem())["status"] == 413

    asyncio.run(run())


@pytest.mark.parametrize(
    "sent",
    [upload(1000) + b"x" * 999, upload("chunked") + b"3\r\nabc\r\n"],
    ids=["length", "chunks"],
)
def test_body_that_never_ends(sent: bytes) -> None:
    """It is a 408, a problem as everywhere."""

    async def run() -> None:
        async with serving(LONG, body_s=0.3) as (port, _), Client(port) as client:
            await client.send(sent)
            assert (await client.problem())["status"] == 408

    asyncio.run(run())


def test_refused_body_that_is_sent_nevertheless() -> None:
    """Its sender sees the answer, not a connection that is cut."""

    async def run() -> None:
        async with serving(LONG) as (port, _), Client(port) as client:
            await client.send(upload(12_000_000))
            for _ in range(12):
                await client.send(bytes(1_000_000))
            assert (await client.problem())["status"] == 413
            assert await client.end() == b""

    asyncio.run(run())


@pytest.mark.parametrize(
    "sent",
    [
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # who speaks TLS
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
        upload("chunked") + b"no length\r\n",
        SHORT_BODY,
    ],
    ids=["no request", "version", "two hosts", "TLS", "long header", "bad chunk", "short body"],
)
def test_what_is_no_http(sent: bytes) -> None:
    """It is a problem, never a text or a traceback; a body that ends too early is nobody's."""

    async def run() -> None:
        async with serving(LONG) as (port, state), Client(port) as client:
            await client.send(sent)
            if sent == SHORT_BODY:
                client.writer.write_eof()
                assert await client.end() == b""
            else:
                assert (await client.problem())["status"] == 400
                assert await client.end() == b""
            async with asyncio.timeout(PATIENCE_S):
                while state.tasks or state.connections:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_client_that_does_not_read() -> None:
    """A response that nobody reads ends, and what made it as well."""

    async def run() -> None:
        async with serving(SHORT) as (port, state), Client(port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a socket's
            await client.send(GET.replace(b"hello", b"endless"))
            async with asyncio.timeout(PATIENCE_S):
                while not state.tasks:
                    await asyncio.sleep(0.01)
                while state.tasks or state.connections:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_too_many_connections() -> None:
    """A silent one makes room; if all are busy, the next is told so."""

    async def run() -> None:
        async with (
            serving(LONG, most=2) as (port, state),
            Client(port) as silent,
            Client(port) as busy,
            Client(port) as other,
        ):
            await busy.send(upload(10) + b"x" * 9)
            await other.send(GET)
            assert (await other.response())[0] == 200
            assert await silent.end() == b""
            await other.send(upload(10) + b"x" * 9)
            while len(state.tasks) < 2:
                await asyncio.sleep(0.01)
            async with Client(port) as late:
                assert (await late.problem())["status"] == 503
            await busy.send(b"x")
            assert (await busy.response())[2] == b"10"

    asyncio.run(run())


def test_connections_send_at_once() -> None:
    """Nagle's algorithm is off: a body would wait 40 ms for its headers' acknowledgement."""

    async def run() -> None:
        async with serving(LONG) as (port, state), Client(port) as client:
            await client.send(GET)
            await client.response()
            (connection,) = state.connections
            its_socket = connection.transport.get_extra_info("socket")
            assert its_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(run())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> dict[str, str]:
    """What a server is told."""
    return environment_of(tmp_path_factory.mktemp("connections") / "home", demo_bundle)


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many descriptors as the test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("server_binary", "many_files")
def test_many_silent_connections(environment: dict[str, str]) -> None:
    """However many somebody opens without a token, everybody else is answered."""
    with running_server(environment | {"WARMCLIP_TOKEN": SECRET}) as served, ExitStack() as stack:
        port = served.client.base_url.port
        assert port is not None
        for _ in range(520):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        headers = {"Authorization": f"Bearer {SECRET}"}
        for _ in range(3):
            assert served.client.get("/readyz").status_code == 200
            assert served.client.get(SESSIONS, headers=headers).status_code == 200


@pytest.mark.usefixtures("server_binary")
def test_body_comes_with_its_headers(environment: dict[str, str]) -> None:
    """Half of 50 on a kept connection do not wait for a delayed acknowledgement, which takes 40 ms;
    only the first few would be spared it anyway.
    """
    with running_server(environment) as served:
        address = ("127.0.0.1", served.client.base_url.port)
        with socket.create_connection(address) as connection:
            connection.settimeout(PATIENCE_S)
            gaps = [body_gap_s(connection) for _ in range(50)]
    assert statistics.median(gaps) < 0.02


def body_gap_s(connection: socket.socket) -> float:
    """The time between the headers of a response and the end of its body."""
    connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = b""
    while b"\r\n\r\n" not in response:
        response += connection.recv(65_536)
    began = time.perf_counter()
    while not response.endswith(b"}"):
        response += connection.recv(65_536)
    return time.perf_counter() - began


def test_limit_of_descriptors() -> None:
    """A process that may open few files, as on macOS, raises the limit for its connections."""
    code = (
        "import resource\n"
        "from warmclip.serve.server import raise_file_limit\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        "for needed in (700, 300):\n"
        "    raise_file_limit(needed)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "700\n"
