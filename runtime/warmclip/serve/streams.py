"""The open event streams: bounded, counted, and ended when the server ends."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from warmclip.serve.problems import Problem

_MOST = 32  # each holds a connection


class Streams:
    """The event streams of one server, for the event loop; any thread may call ``check``."""

    def __init__(self) -> None:
        self.open = 0
        self._ended = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the bound is reached."""
        return self.open >= _MOST

    def check(self) -> None:
        """Refuse one more stream than the bound.

        Raises:
            Problem: the bound is reached.
        """
        if self.is_full:
            raise Problem(
                503, f"{_MOST} event streams are open already: close one, or ask without a stream"
            )

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one stream while the block runs."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def sleep(self, seconds: float) -> bool:
        """Wait, and return whether the streams are to go on."""
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def end(self) -> None:
        """End all streams, each after the event that it is about to send."""
        self._ended.set()
