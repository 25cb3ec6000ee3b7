"""A listening socket whose thread ends with the test, on every system.

Shutting down a socket that listens wakes ``accept`` on Linux; macOS refuses it (ENOTCONN), and
``close`` may wait there until ``accept`` returns.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOKS_EVERY_S = 0.05


@contextmanager
def answering(listener: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Hand each visitor to ``serve``, on one thread, until the block ends."""
    is_over = threading.Event()
    listener.settimeout(_LOOKS_EVERY_S)

    def accept() -> None:
        while not is_over.is_set():
            try:
                visitor, _ = listener.accept()
            except TimeoutError:
                continue
            serve(visitor)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=5)
