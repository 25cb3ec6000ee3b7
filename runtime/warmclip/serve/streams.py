"""Event streams that are open: bounded, counted, and ended when the server is."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from warmclip.serve.problems import Problem

_MOST = 32  # each holds a connection


class Streams:
    """All of one server's. It belongs to the event loop, but for ``check`` and ``is_full``."""

    def __init__(self) -> None:
        self.open = 0
        self._ended = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether there are as many as there may be."""
        return self.open >= _MOST

    def check(self) -> None:
        """Refuse one more than there may be.

        Raises:
            Problem: there are as many already.
        """
        if self.is_full:
            raise Problem(
                503, f"{_MOST} event streams are open already: close one, or ask without a stream"
            )

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One stream, from its begin to its end."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def wait(self, seconds: float) -> bool:
        """Whether, after so long, there is still somebody to tell."""
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def end(self) -> None:
        """End all of them, each after what it is about to tell."""
        self._ended.set()
