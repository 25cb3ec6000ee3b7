"""When a supervisor starts another worker."""

import pytest

from warmclip.work.supervisor import next_start


@pytest.mark.parametrize(
    ("failures", "lasted_s", "expected"),
    [
        (0, 1.0, (1, 0.5)),
        (1, 1.0, (2, 1.0)),
        (2, 59.9, (3, 2.0)),
        (5, 1.0, (6, 16.0)),
        (6, 1.0, (7, 30.0)),
        (90, 1.0, (91, 30.0)),
        (5_000, 1.0, (5_001, 30.0)),
        (90, 60.0, (1, 0.0)),
        (0, 61.0, (1, 0.0)),
    ],
)
def test_when_another_one_starts(
    failures: int, lasted_s: float, expected: tuple[int, float]
) -> None:
    """At once after a good run, else after pauses that double, up to half a minute."""
    assert next_start(failures, lasted_s) == expected
