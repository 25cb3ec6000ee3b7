"""Counts of a worker, before they are written to Redis."""

import pytest

from warmclip.work.counters import BUCKETS_S, CounterBuffer, SecondsHistogram


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0), (0.005, 0), (0.0051, 1), (0.01, 1), (0.02, 2), (0.05, 3), (0.07, 4),
        (0.2, 5), (0.3, 6), (0.9, 7), (2.5, 8), (3.0, 9), (10.0, 10), (10.1, 11), (1e6, 11),
    ],
)  # fmt: skip
def test_bucket(seconds: float, bucket: int) -> None:
    """A bound belongs to its own bucket, as Prometheus has it; the last has none."""
    buffer = CounterBuffer()
    buffer.observe("run_s", seconds)
    histogram = SecondsHistogram.read(buffer.totals, "run_s")
    assert [place for place, count in enumerate(histogram.counts) if count] == [bucket]
    assert len(histogram.counts) == len(BUCKETS_S) + 1
    assert histogram.sum_s == pytest.approx(seconds, rel=1e-9, abs=5e-7)


def test_nothing_was_counted() -> None:
    """A histogram that nobody has begun is empty."""
    histogram = SecondsHistogram.read({"other": 1}, "run_s")
    assert (sum(histogram.counts), histogram.sum_s) == (0, 0)
