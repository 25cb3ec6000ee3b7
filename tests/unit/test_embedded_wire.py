"""Messages between the owner of an embedded store and those who ask it."""

import fcntl
import json
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from warmclip.store.embedded_wire import (
    MOST_ANSWER_BYTES,
    MOST_QUESTION_BYTES,
    address_of,
    receive_message,
    send_message,
    to_message,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a stream."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def soon() -> float:
    """A moment that a test does not reach."""
    return time.monotonic() + 60


@pytest.mark.parametrize(
    "content", [None, [], {"a": [1, 2.5, "\u00e9\ud800"]}, ["x" * 3_000_000]], ids=range(4)
)
def test_message(pair: Pair, content: object) -> None:
    """What is sent is received, however many pieces it comes in; two of them one by one."""
    ours, theirs = pair
    message = to_message(content, most=1 << 22)

    def send_both() -> None:
        for _ in range(2):
            send_message(ours, message, ends_at=soon())

    sending = threading.Thread(target=send_both)
    sending.start()
    for _ in range(2):
        assert receive_message(theirs, most=len(message) - 4, ends_at=soon()) == content
    sending.join()


def test_message_that_is_too_long(pair: Pair) -> None:
    """It is neither made nor taken."""
    ours, theirs = pair
    assert to_message("abc", most=5) == struct.pack(">I", 5) + b'"abc"'
    with pytest.raises(ValueError, match="a message of 5 bytes, where 4 are the most"):
        to_message("abc", most=4)
    ours.sendall(struct.pack(">I", 6))
    with pytest.raises(ValueError, match="a message of 6 bytes, where 5 are the most"):
        receive_message(theirs, most=5, ends_at=soon())


def test_what_a_message_may_hold() -> None:
    """64 points that are written, a page of 256 that is read, of 1,024 numbers each; not all memory
    that there is. The other side may be of another release: these are the same for all.
    """
    row_bytes = len(json.dumps(np.random.default_rng(0).standard_normal(1024).tolist()))
    assert 64 * row_bytes < MOST_QUESTION_BYTES == 4_194_304
    assert 256 * row_bytes < MOST_ANSWER_BYTES == 67_108_864


def test_message_in_pieces_before_another(pair: Pair) -> None:
    """What follows it is left for the next call."""
    ours, theirs = pair
    one, two = (to_message(text, most=100) for text in ("one", "two"))
    received = []

    def receive() -> None:
        received.append(receive_message(theirs, most=100, ends_at=time.monotonic() + 5))

    receiving = threading.Thread(target=receive)
    receiving.start()
    ours.sendall(one[:-2])
    while any(fcntl.ioctl(theirs, termios.FIONREAD, bytes(4))):
        time.sleep(0.001)
    ours.sendall(one[-2:] + two)
    receiving.join()
    receive()
    assert received == ["one", "two"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff"], ids=range(4))
def test_message_that_is_no_json(pair: Pair, body: bytes) -> None:
    """It is one kind of error, whatever it is."""
    ours, theirs = pair
    ours.sendall(struct.pack(">I", len(body)) + body)
    with pytest.raises(ValueError):  # noqa: PT011 - what JSON says of it is Python's
        receive_message(theirs, most=1 << 20, ends_at=soon())


@pytest.mark.parametrize("begun", [b"", b"\0\0", struct.pack(">I", 5) + b"tr"])
def test_other_side_that_is_gone(pair: Pair, begun: bytes) -> None:
    """A half of a message is none."""
    ours, theirs = pair
    ours.sendall(begun)
    ours.close()
    with pytest.raises(ConnectionResetError):
        receive_message(theirs, most=100, ends_at=soon())


@pytest.mark.parametrize("begun", [b"", b"\0\0", struct.pack(">I", 5) + b"tr"])
def test_other_side_that_is_silent(pair: Pair, begun: bytes) -> None:
    """It is waited for until a moment, which may have passed."""
    ours, theirs = pair
    ours.sendall(begun)
    for left_s in (0.05, -1):
        with pytest.raises(TimeoutError):
            receive_message(theirs, most=100, ends_at=time.monotonic() + left_s)


def test_other_side_that_drips(pair: Pair) -> None:
    """The moment stays the same, however many pieces come before it."""
    ours, theirs = pair
    ours.sendall(struct.pack(">I", 1000))
    is_over = threading.Event()

    def drip() -> None:
        for _ in range(999):
            if is_over.wait(0.02):
                return
            ours.sendall(b"1")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        with pytest.raises(TimeoutError):
            receive_message(theirs, most=1000, ends_at=time.monotonic() + 0.2)
    finally:
        is_over.set()
        dripping.join()


def test_other_side_that_takes_nothing(pair: Pair) -> None:
    """Sending ends as well."""
    ours, _ = pair
    with pytest.raises(TimeoutError):
        send_message(ours, bytes(1 << 24), ends_at=time.monotonic() + 0.05)


def test_last_moment(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """At it there is no more time: nothing is sent."""
    ours, theirs = pair
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    with pytest.raises(TimeoutError):
        send_message(ours, b"a", ends_at=5.0)
    ours.close()
    assert theirs.recv(1) == b""


def test_address(tmp_path: Path) -> None:
    """Every spelling of a store's folder leads to it."""
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store")
    assert address_of(tmp_path / "link") == address_of(tmp_path / "store")
    assert address_of(tmp_path / "store") != address_of(tmp_path)
