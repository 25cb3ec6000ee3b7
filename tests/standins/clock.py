"""A clock in place of a module's ``time``: it stands until a test, or who sleeps, moves it."""

import math
import time
from collections.abc import Callable


class Clock:
    """Time, as a test says it passes.

    Attributes:
        now: seconds since some moment.
        slept: the pauses, in seconds.
        on_sleep: what happens in each of them.
    """

    def __init__(self, now: float | None = None) -> None:
        """It begins at the real time, by which others say when something began, unless told."""
        # In 1024ths, to which seconds are added without rounding.
        self.now = math.floor(time.monotonic() * 1024) / 1024 if now is None else now
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """It passes at once."""
        self.slept.append(seconds)
        self.now += seconds
        self.on_sleep()
