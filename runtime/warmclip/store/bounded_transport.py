"""HTTP to a Qdrant server, in which a whole answer has a time and a size, not each read alone.

httpx bounds each wait. A server, or whatever is in its place, that sends a byte now and then would
be waited for without end, and one that sends without end would fill the memory.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from warmclip.store.question import current_budget

LARGEST_ANSWER_BYTES = 256 * 1024 * 1024
"""Of one answer, decompressed: a page of 256 points with their vectors has some megabytes."""

_WHOLE = 10  # time-outs for a request and its answer, outside of questions

_ends_at: ContextVar[float] = ContextVar("ends_at")  # the request that this thread sends


class AnswerTooLarge(Exception):
    """What a server sent is larger than any answer of Qdrant to us."""


class BoundedTransport(httpx.BaseTransport):
    """Sends requests and reads their answers whole; one of a question ends with its budget."""

    def __init__(self, *, timeout_s: float, keeps_alive: bool) -> None:
        """Nothing is sent yet.

        Args:
            timeout_s: a request that is part of no question has ten times that.
            keeps_alive: whether connections are used again.
        """
        self._whole_s = _WHOLE * timeout_s
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=None,
            max_keepalive_connections=20 if keeps_alive else 0,
            keepalive_expiry=5.0,
            network_backend=_Network(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, read and decompressed.

        Raises:
            httpcore.TimeoutException: it was not answered in time.
            httpcore.NetworkError, httpcore.ProtocolError: the connection failed.
            AnswerTooLarge: it is.
        """
        with (
            _ending(self._whole_s),
            self._pool.stream(
                request.method,
                str(request.url),
                headers=request.headers.raw,
                content=request.read(),
                extensions=request.extensions,
            ) as answer,
        ):
            codings = httpx.Headers(answer.headers).get("Content-Encoding", "")
            if "," in codings:  # each multiplies: 64 KiB of two may be 69 GB in one piece
                raise AnswerTooLarge
            coded = httpx.Response(
                answer.status, headers=answer.headers, stream=_Coded(answer.iter_stream())
            )
            content = bytearray()
            for piece in coded.iter_bytes():
                content += piece
                if len(content) > LARGEST_ANSWER_BYTES:
                    raise AnswerTooLarge
        headers = httpx.Headers(answer.headers)
        for of_the_coded in ("Content-Encoding", "Content-Length", "Transfer-Encoding"):
            headers.pop(of_the_coded, None)
        return httpx.Response(answer.status, headers=headers, content=bytes(content))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Coded(httpx.SyncByteStream):
    """An answer's body as it comes, in pieces of at most 64 KiB."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


@contextmanager
def _ending(whole_s: float) -> Iterator[None]:
    """Let what this thread sends and reads here take no longer than that, nor than its question."""
    budget = current_budget()
    seconds = whole_s if budget is None else min(whole_s, budget.left_s)
    token = _ends_at.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends_at.reset(token)


def _bounded(timeout_s: float | None) -> float:
    """How long the next wait may be, in seconds.

    Raises:
        httpcore.ReadTimeout: nothing is left.
    """
    left_s = _ends_at.get() - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout("timed out")
    return left_s if timeout_s is None else min(timeout_s, left_s)


class _Network(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection in what is left of the request's time."""
        stream = super().connect_tcp(host, port, _bounded(timeout), local_address, socket_options)
        return _Stream(stream)


class _Stream(httpcore.NetworkStream):
    """A connection, of which each wait is bounded by what is left of its request's time."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _bounded(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _bounded(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _bounded(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
