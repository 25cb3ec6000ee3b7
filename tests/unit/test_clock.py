"""When a process must conclude that it was asleep."""

import pytest

from warmclip.work.clock import ClockWatch, has_jumped


@pytest.mark.parametrize(
    ("passed_s", "on_the_wall_s", "expected"),
    [
        (1.0, 1.0, False),
        (10.0, 10.0, False),
        (10.1, 10.1, True),  # it waited for Redis, or was stopped
        (10.1, 9.0, True),
        (9.0, 10.1, True),
        (1.0, 40.0, True),  # a closed lid: the monotonic clock stood still
        (1.0, 3600.0, True),  # a clock that was set
        (1.0, -3600.0, True),
        (40.0, 1.0, True),
        (1.0, 1.4, False),  # it is set right in small steps
        (1.0, 6.0, False),
        (6.0, 1.0, False),
        (1.0, 6.1, True),
        (6.1, 1.0, True),
        (0.5, 0.1, False),
    ],
)
def test_jump(passed_s: float, on_the_wall_s: float, expected: bool) -> None:
    """Two missed heartbeats, or clocks that went apart."""
    assert has_jumped(passed_s, on_the_wall_s, longest_s=10.0) is expected


@pytest.mark.parametrize(("passed_s", "expected"), [(9.9, False), (10.1, True)])
def test_two_missed_intervals(passed_s: float, expected: bool) -> None:
    """One look may be late, two may not."""
    times = iter([0.0, 0.0, passed_s, passed_s])
    watch = ClockWatch(5.0, monotonic=lambda: next(times), wall=lambda: next(times))
    assert watch.has_jumped() is expected


def test_each_jump_is_told_once() -> None:
    """After it the clocks go on from where they are."""
    monotonic, wall = iter([0.0, 1.0, 2.0, 3.0]), iter([0.0, 1.0, 100.0, 101.0])
    watch = ClockWatch(5.0, monotonic=lambda: next(monotonic), wall=lambda: next(wall))
    assert [watch.has_jumped() for _ in range(3)] == [False, True, False]
