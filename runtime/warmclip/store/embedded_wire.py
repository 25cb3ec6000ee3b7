"""Messages between the owner of an embedded store and those who ask it, over a Unix socket.

A message is its length in four bytes, big-endian, and that much JSON.
"""

import json
import socket
import struct
import time
from pathlib import Path
from typing import Any

from warmclip.fsutil import socket_path

MOST_QUESTION_BYTES = 4 * 1024 * 1024
"""64 points of 1,024 numbers are 0.5 MB."""

MOST_ANSWER_BYTES = 64 * 1024 * 1024
"""A page of 256 vectors of 1,024 numbers is 2 MB."""

_SOCKET = ".socket"
_LENGTH = struct.Struct(">I")
_AT_ONCE = 256 * 1024  # bytes


def address_of(folder: Path) -> Path:
    """Where the owner of a store's folder listens; every spelling of the folder leads there."""
    return socket_path(folder.resolve(), _SOCKET)


def to_message(content: object, *, most: int) -> bytes:
    """What JSON can carry, as a message.

    Raises:
        ValueError: it is longer than ``most`` bytes.
    """
    body = json.dumps(content).encode("ascii")
    if len(body) > most:
        raise ValueError(f"a message of {len(body)} bytes, where {most} are the most")
    return _LENGTH.pack(len(body)) + body


def send_message(peer: socket.socket, message: bytes, *, ends_at: float) -> None:
    """Send a message over a connected stream, until a time on the monotonic clock.

    Raises:
        TimeoutError: the peer did not take it in time.
        OSError: the peer is gone.
    """
    _wait_at_most_until(peer, ends_at)
    peer.sendall(message)


def receive_message(peer: socket.socket, *, most: int, ends_at: float) -> Any:
    """Receive what a message carries.

    Args:
        peer: a connected stream.
        most: bytes that are taken.
        ends_at: on the monotonic clock, in seconds.

    Raises:
        ValueError: it is longer, or no JSON.
        TimeoutError: it did not come in time.
        OSError: the peer is gone.
    """
    (length,) = _LENGTH.unpack(_receive(peer, _LENGTH.size, ends_at))
    if length > most:
        raise ValueError(f"a message of {length} bytes, where {most} are the most")
    try:
        return json.loads(_receive(peer, length, ends_at))
    except RecursionError as exc:
        raise ValueError("JSON that is nested too deeply") from exc


def _receive(peer: socket.socket, count: int, ends_at: float) -> bytes:
    received = bytearray()  # grows with what has come, not with what was announced
    while len(received) < count:
        _wait_at_most_until(peer, ends_at)
        chunk = peer.recv(min(count - len(received), _AT_ONCE))
        if not chunk:
            raise ConnectionResetError("the other side is gone")
        received += chunk
    return bytes(received)


def _wait_at_most_until(peer: socket.socket, ends_at: float) -> None:
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no more time")
    peer.settimeout(left_s)
