"""The comparisons that ``make bench`` and ``make bench-worker`` make; not installed."""
