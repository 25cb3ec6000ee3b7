"""What workers count, as Prometheus' metrics: of all of them in Redis, or of one by itself."""

import importlib.metadata
import itertools
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings
from warmclip.work.counters import BUCKETS_S, SecondsHistogram
from warmclip.work.crash_policy import DEATHS
from warmclip.work.horse.report import Outcome


class Families(Collector):
    """Metrics that were read."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        yield from self._families


def count_families(counters: Mapping[str, int], prefix: str = "warmclip") -> Iterator[Metric]:
    """Jobs, horses and native work.

    Args:
        counters: as ``CounterBuffer`` has them.
        prefix: of the names.
    """
    yield CounterMetricFamily(
        f"{prefix}_horses_started",
        "Processes that workers had run jobs",
        counters.get("horses", 0),
    )
    runs = CounterMetricFamily(
        f"{prefix}_job_runs", "Jobs that ended, by outcome", labels=["outcome"]
    )
    for outcome in get_args(Outcome):
        runs.add_metric([outcome], counters.get(f"runs:{outcome}", 0))
    yield runs
    deaths = CounterMetricFamily(
        f"{prefix}_horse_deaths", "Horses that died under a job, by how", labels=["kind"]
    )
    for kind in DEATHS:
        deaths.add_metric([kind], counters.get(f"deaths:{kind}", 0))
    yield deaths
    yield CounterMetricFamily(
        f"{prefix}_store_retries",
        "Requests to a Qdrant server that were repeated",
        counters.get("store_retries", 0),
    )
    for stage, name, documentation in (
        ("decode", "decode_seconds", "Decoding one picture"),
        ("run", "inference_seconds", "One batch of the model"),
    ):
        histogram = SecondsHistogram.read(counters, f"{stage}_s")
        bounds = (*map(str, BUCKETS_S), "+Inf")
        buckets = list(zip(bounds, itertools.accumulate(histogram.counts), strict=True))
        yield HistogramMetricFamily(f"{prefix}_{name}", documentation, buckets, histogram.sum_s)


def read_quarantine(settings: Settings) -> Metric:
    """The providers that are not used on this machine."""
    quarantined = GaugeMetricFamily(
        "warmclip_provider_quarantined", "Not used on this machine", labels=["provider"]
    )
    for provider in Quarantine(settings.home).active():
        quarantined.add_metric([provider], 1)
    return quarantined


def build_info() -> Metric:
    """The versions of this process."""
    version = importlib.metadata.version("warmclip")
    build = {"version": version, "python": platform.python_version()}
    return InfoMetricFamily("warmclip_build", "Of this process", build)
