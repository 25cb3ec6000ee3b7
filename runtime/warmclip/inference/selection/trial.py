"""One provider tried on one tower: loaded, compared, placed and timed.

``python -m warmclip.inference.selection.trial REQUEST`` does it in a process that may crash or
hang; see ``trial_process``. Its stdin stays open as long as somebody waits, and its answer goes to
stdout, a line of JSON for each stage.
"""

import atexit
import json
import os
import resource
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from warmclip.children import TRIAL_PREFIX
from warmclip.errors import BadVectors, CacheUnusable, WarmclipError
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.machine import peak_rss_mb
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.ort.placement import Placement
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import PROVIDERS, Provider
from warmclip.inference.selection.golden import Comparison, Golden, tolerance

BATCHES = (1, 8, 32)

_RUNS = range(3, 21)  # of one batch size: at least, at most
_SECONDS = 0.4  # and as many as fit in this


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was found of one provider on one tower. A figure that was not reached is None."""

    provider: str
    tower: Tower
    passed: bool
    reason: str = ""  # why it did not pass
    died: bool = False  # it crashed, or gave no answer in time
    cosine: float | None = None  # to the golden vectors, the worst row at any batch size
    max_abs: float | None = None  # of any component of any unit vector
    norm: float | None = None  # raw lengths against the golden ones, the worst, relative
    images_per_s: dict[int, float] = field(default_factory=dict)  # by batch; texts of a text tower
    load_s: float | None = None
    peak_rss_mb: float | None = None
    partitions: int | None = None  # pieces of the graph that the provider took
    cpu_nodes: int | None = None  # nodes that it left to the CPU

    def to_dict(self) -> dict[str, Any]:
        """The trial as JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        rates = {int(batch): float(rate) for batch, rate in raw["images_per_s"].items()}
        return cls(**{**raw, "images_per_s": rates})


def try_provider(
    bundle: ModelBundle,
    provider: Provider,
    tower: Tower,
    *,
    home: Path,
    threads: int,
    stage: Callable[[str], None],
) -> Trial:
    """Load, compare, place and time, in this process.

    Raises:
        CacheUnusable: what the provider compiles cannot be kept, which is no result.
    """
    found: dict[str, Any] = {}
    try:
        _measure(bundle, provider, tower, home, threads, stage, found)
    except CacheUnusable:
        raise
    except WarmclipError as exc:
        found["reason"] = str(exc)
    return Trial(
        provider=provider.name,
        tower=tower,
        passed="reason" not in found,
        peak_rss_mb=peak_rss_mb(),
        **found,
    )


def _measure(
    bundle: ModelBundle,
    provider: Provider,
    tower: Tower,
    home: Path,
    threads: int,
    stage: Callable[[str], None],
    found: dict[str, Any],
) -> None:
    stage("reading the bundle")
    golden = Golden(bundle)
    graph = bundle.graph(tower, provider.precision)
    record = bundle.graph_record(tower, provider.precision)
    stage("loading")
    started = time.perf_counter()
    session = OnnxSession(
        graph,
        provider,
        threads=threads,
        length=bundle.manifest.tokenizer.context_length,
        digest=record.digest,
        size_bytes=record.total_bytes,
        cache=ModelCache(home),
        check=partial(golden.check, tower, provider.precision),
        records_placement=True,
    )
    session.load_all()
    found["load_s"] = time.perf_counter() - started
    placement = session.placement()
    if placement is not None:
        found |= asdict(placement)
    stage("computing golden vectors")
    comparison = _compare(session, golden, tower)
    found |= asdict(comparison)
    fault = comparison.fault(tolerance(provider)) or _misplaced(provider, placement)
    if fault is not None:
        raise BadVectors(fault)
    found["images_per_s"] = {}
    for batch in BATCHES:
        stage(f"timing batches of {batch}")
        found["images_per_s"][batch] = _rate(session, golden, tower, batch)


def _compare(session: OnnxSession, golden: Golden, tower: Tower) -> Comparison:
    """The worst over the batch sizes: with static shapes, each is a model of its own."""
    found = []
    for batch in sorted({*BATCHES, *session.provider.buckets}):
        rows = np.arange(max(batch, golden.rows(tower))) % golden.rows(tower)
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            features = session.run(golden.feeds(tower, part))
            found.append(golden.compare(tower, features, part))
    return Comparison(
        cosine=min(one.cosine for one in found),
        max_abs=max(one.max_abs for one in found),
        norm=max(one.norm for one in found),
    )


def _misplaced(provider: Provider, placement: Placement | None) -> str | None:
    """A graph in pieces, with copies and CPU work between them, is slower than the CPU alone."""
    if not provider.takes_all or placement is None:
        return None
    if placement.partitions == 1 and placement.cpu_nodes == 0:
        return None
    return (
        f"it takes the graph in {placement.partitions} pieces and leaves "
        f"{placement.cpu_nodes} nodes to the CPU"
    )


def _rate(session: OnnxSession, golden: Golden, tower: Tower, batch: int) -> float:
    """Rows a second: the median of a few runs, after one that warms."""
    feeds = golden.feeds(tower, np.arange(batch) % golden.rows(tower))
    session.run(feeds)
    times: list[float] = []
    while len(times) < _RUNS.start or (sum(times) < _SECONDS and len(times) < _RUNS.stop):
        started = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - started)
    return batch / statistics.median(times)


def _leave_with_parent() -> None:
    """End this process when its stdin ends, as nobody waits for the answer any more."""
    while sys.stdin.buffer.read(1):
        pass
    _remove_temporary_folder()
    os._exit(1)


def _remove_temporary_folder() -> None:
    """Remove this trial's own: whoever made it may have been killed."""
    folder = Path(os.environ.get("TMPDIR", ""))
    if folder.name.startswith(TRIAL_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Answer one request."""
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print
    request = json.loads(sys.argv[1])
    signal.alarm(request["alarm_s"])  # ends even a process that hangs in native code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    # Also when writing the answer fails, as nobody reads it.
    atexit.register(_remove_temporary_folder)

    def stage(name: str) -> None:
        answer.write(json.dumps({"stage": name}) + "\n")

    try:
        trial = try_provider(
            ModelBundle.open(request["bundle"]),
            PROVIDERS[request["provider"]],
            cast("Tower", request["tower"]),
            home=Path(request["home"]),
            threads=request["threads"],
            stage=stage,
        )
    except CacheUnusable as exc:
        answer.write(json.dumps({"cache_unusable": str(exc)}) + "\n")
        answer.flush()
        os._exit(0)
    except WarmclipError as exc:
        sys.stderr.write(f"{exc}\n")
        os._exit(2)
    answer.write(json.dumps({"trial": trial.to_dict()}) + "\n")
    answer.flush()
    os._exit(0)  # the teardown of a native library is no part of the trial


if __name__ == "__main__":
    main()
