"""The body of a request: bounded in size, in time, and with all others together in memory."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Send

from warmclip.serve.problems import Problem
from warmclip.work.call import MOST_SENT_BYTES

MOST_JSON_BYTES = 1024 * 1024
MOST_UPLOAD_BYTES = MOST_SENT_BYTES + 64 * 1024  # a picture, and what multipart puts around it
MOST_IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""Of all bodies that are being received or answered: a picture costs some five times its size."""

BODY_S = 60.0
"""How long a body may take to arrive: 10 MiB at 1.4 Mbit/s."""

_DISCARD_S = 5.0  # for the rest of a body after the response
_MOST_DISCARDED_BYTES = 2 * MOST_SENT_BYTES


def bound_body(headers: Mapping[str, str]) -> int:
    """How many bytes a request's body may have, by its headers.

    Raises:
        Problem: it says that it has more.
    """
    is_upload = headers.get("content-type", "").lower().startswith("multipart/form-data")
    most = MOST_UPLOAD_BYTES if is_upload else MOST_JSON_BYTES
    declared = declared_bytes(headers)
    if declared is not None and declared > most:
        raise Problem(413, _too_large(most))
    return most


def declared_bytes(headers: Mapping[str, str]) -> int | None:
    """How many bytes a request's body has by its headers; None if they do not say it."""
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isascii() and length.isdigit() else None


class BodyBudget:
    """The bytes of bodies that are in flight, for the event loop."""

    def __init__(self, most_bytes: int = MOST_IN_FLIGHT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._used_bytes = 0

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Keep so many bytes for one request while the block runs.

        Raises:
            Problem: other requests have too many.
        """
        if count and self._used_bytes + count > self._most_bytes:
            raise Problem(
                503,
                f"bodies of {self._used_bytes:,} bytes are being worked on, and with this one of "
                f"{count:,} there were more than {self._most_bytes:,}: try again, or start more "
                "workers",
            )
        self._used_bytes += count
        try:
            yield
        finally:
            self._used_bytes -= count


class BoundedBody:
    """Receives one request's body within its bounds, and discards what is left of it at the end.

    The response is sent before the rest of the body is read: a client that sends slowly, or
    nothing, gets it at once. Then the rest is read for a while, as a client that still sends would
    see a closed connection instead of the response.
    """

    def __init__(
        self, receive: Receive, send: Send, *, is_empty: bool, body_s: float = BODY_S
    ) -> None:
        """Wrap the two sides of a request.

        Args:
            receive: the server's.
            send: the server's.
            is_empty: whether there is no body.
            body_s: how long it may take to arrive.
        """
        self.most_bytes = 0  # that the body may have; set before the body is received
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self._body_s = body_s
        self._ends_at = time.monotonic() + body_s
        self._is_complete = is_empty

    async def receive(self) -> Message:
        """Receive the next part of the body, or wait for the client to disconnect.

        Raises:
            HTTPException: the body is too large, or too late.
        """
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._ends_at - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {self._body_s:g} s") from None
        self._note(message)
        self._received_bytes += len(message.get("body", b""))
        if self._received_bytes > self.most_bytes:
            raise HTTPException(413, _too_large(self.most_bytes))
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response; after the last, discard what is left of the body."""
        if self._is_complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            await self._send({**message, "headers": headers})
        elif message.get("more_body"):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._discard()
            await self._send({"type": "http.response.body"})

    async def _discard(self) -> None:
        left_bytes = _MOST_DISCARDED_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._is_complete and left_bytes > 0:
                    message = await self._receive()
                    self._note(message)
                    left_bytes -= len(message.get("body", b""))

    def _note(self, message: Message) -> None:
        if message["type"] != "http.request" or not message.get("more_body"):
            self._is_complete = True


def _too_large(most_bytes: int) -> str:
    return (
        f"the body is larger than {most_bytes:,} bytes; pictures may have {MOST_SENT_BYTES:,}: "
        "send a smaller one, or index its file and ask for what is similar to it"
    )
