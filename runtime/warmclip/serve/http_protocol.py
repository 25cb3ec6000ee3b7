"""uvicorn's HTTP protocol, with time-outs, bounds on connections, and problem documents."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle

from warmclip.serve.connections import ConnectionTable, TooManyConnections
from warmclip.serve.problems import ProblemResponse
from warmclip.serve.rate_limiter import client_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a client may take, s."""

    header_s: float = 10.0  # from its first byte, or the connection, to the last header
    idle_s: int = 75  # between two requests: a proxy, whose time-out is usually 60, closes first
    write_s: float = 30.0  # to read the next part of a response


def make_protocol(table: ConnectionTable, timeouts: Timeouts) -> type[H11Protocol]:
    """A protocol class for ``uvicorn.Config``, whose connections are in this table."""
    return type("ServerProtocol", (_BoundedProtocol,), {"table": table, "timeouts": timeouts})


class _BoundedProtocol(H11Protocol):
    table: ConnectionTable
    timeouts: Timeouts

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.timeouts.idle_s
        self.peer = ""
        self._idle_since = self.loop.time()
        self._header_timer = _Timer(self.loop, self.timeouts.header_s, self._on_late_header)
        self._write_timer = _Timer(self.loop, self.timeouts.write_s, self._on_late_reader)

    @property
    def idle_since(self) -> float | None:
        """Since when no request is being answered; see ``Connection``."""
        return None if self._is_answering else self._idle_since

    @property
    def was_used(self) -> bool:
        """Whether a request was answered on it; see ``Connection``."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Count the connection, and wait for a request."""
        super().connection_made(transport)
        self.peer = client_of(self.client[0] if self.client else "")
        try:
            self.table.add(self)
        except TooManyConnections:
            self._refuse(503, "the server is answering as many requests as it can: try again")
        else:
            self._header_timer.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.table.remove(self)
        self._header_timer.stop()
        self._write_timer.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a request that has begun must become whole in time."""
        super().data_received(data)
        if self._is_answering or self.transport.is_closing():
            self._header_timer.stop()
        else:
            self._header_timer.start()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        """Go on with a client that reads again."""
        self._write_timer.stop()
        super().resume_writing()

    def close_idle(self) -> None:
        """Close the connection, to make room for another one."""
        self._header_timer.stop()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _on_late_header(self) -> None:
        self._refuse(408, f"no whole request came within {self.timeouts.header_s:g} s")

    def _on_late_reader(self) -> None:
        self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """Close the connection, after a problem document unless a response has begun."""
        self._header_timer.stop()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self._is_answering:  # of a request whose body is no HTTP
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            problem = ProblemResponse(status, detail, headers={"Connection": "close"})
            response = h11.Response(
                status_code=status, headers=problem.raw_headers, reason=STATUS_PHRASES[status]
            )
            for event in (response, h11.Data(data=bytes(problem.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Timer:
    """Calls a function after so long, unless it is stopped before."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, unless it runs already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._run)

    def stop(self) -> None:
        """Stop, if it runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run(self) -> None:
        self._handle = None
        self._call()
