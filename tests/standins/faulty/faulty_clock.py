"""A wall clock that is set: FAULTY_CLOCK=file names by how many seconds it is wrong just then.

The monotonic clock, and Redis's, go on as they are.
"""

import datetime
import time
from pathlib import Path
from typing import Any, Self

_LOOKED_AT_EVERY_S = 0.05


def enter(file: Path) -> None:
    """Let ``time`` and ``datetime`` tell the wrong time; whoever imports them later gets these."""
    right_time, right_time_ns = time.time, time.time_ns
    looked_at, wrong_by_s = float("-inf"), 0.0

    def wrong_by() -> float:
        nonlocal looked_at, wrong_by_s
        if time.monotonic() - looked_at > _LOOKED_AT_EVERY_S:
            looked_at = time.monotonic()
            wrong_by_s = float(file.read_text() or wrong_by_s)
        return wrong_by_s

    class WrongDatetime(datetime.datetime):
        """What ``now`` tells is wrong."""

        @classmethod
        def now(cls, tz: Any = None) -> Self:
            """By so much."""
            return super().now(tz) + datetime.timedelta(seconds=wrong_by())

    time.time = lambda: right_time() + wrong_by()  # that is the fault
    time.time_ns = lambda: right_time_ns() + int(wrong_by() * 1e9)
    datetime.datetime = WrongDatetime  # type: ignore[misc]  # as above
