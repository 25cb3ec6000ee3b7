"""Notices that this process was asleep: its laptop was closed, or it was stopped, or it waited.

Redis's times are those of a wall clock, which goes on in the meantime, while a system that sleeps
may stop the monotonic one. Whoever wakes up has missed heartbeats, of its own and of others.
"""

import time
from collections.abc import Callable

_DRIFT_S = 5.0  # between the two clocks; they are set right in smaller steps


class ClockWatch:
    """Looked at again and again, it tells when too much time has passed since the last look."""

    def __init__(
        self,
        interval_s: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Begin now.

        Args:
            interval_s: two of these between two looks are too much.
            monotonic: a clock that is never set.
            wall: the time of day.
        """
        self._longest_s = 2 * interval_s
        self._monotonic, self._wall = monotonic, wall
        self._looked = (monotonic(), wall())

    def has_jumped(self) -> bool:
        """Whether this process was asleep, or a clock was set, since the last call."""
        before, self._looked = self._looked, (self._monotonic(), self._wall())
        passed, passed_on_the_wall = (
            now - then for now, then in zip(self._looked, before, strict=True)
        )
        return has_jumped(passed, passed_on_the_wall, longest_s=self._longest_s)


def has_jumped(passed_s: float, passed_on_the_wall_s: float, *, longest_s: float) -> bool:
    """Whether so much time between two looks means that heartbeats were missed.

    Args:
        passed_s: by a clock that is never set, and may stand still while the system sleeps.
        passed_on_the_wall_s: by the time of day.
        longest_s: that may pass between two looks.
    """
    drift_s = abs(passed_on_the_wall_s - passed_s)
    return max(passed_s, passed_on_the_wall_s) > longest_s or drift_s > _DRIFT_S
