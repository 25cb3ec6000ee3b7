"""Who runs, what they run, and what is promised of it."""

import sys
from dataclasses import dataclass
from typing import Literal

Unit = Literal["jobs/s", "s/job", "images/s"]

QUEUES = ("high", "default")  # what `warmclip worker` polls; the same for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One kind of worker on one kind of job."""

    name: str
    worker: str | None  # the class that `rq worker` is told; None: `warmclip worker`
    function: str
    jobs: int  # whose time is taken
    warm_up: int = 1  # jobs that come before them
    workers: int = 1  # under one supervisor

    def command(self, redis_url: str) -> list[str]:
        """How it is started."""
        if self.worker is None:
            ours = [sys.executable, "-m", "warmclip.cli", "worker", f"--queues={','.join(QUEUES)}"]
            return ours if self.workers == 1 else [*ours, f"--workers={self.workers}"]
        options = [f"--url={redis_url}", "--serializer=json", f"--worker-class={self.worker}"]
        return [sys.executable, "-m", "rq.cli", "worker", *options, *QUEUES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """WarmWorker shall be so many times as fast as another."""

    than: str
    times: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison."""

    name: str
    unit: Unit
    images: int  # in one job
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...] = ()
    is_fleet: bool = False  # several workers share the jobs, which store what they embed

    def figure(self, seconds_per_job: float) -> float:
        """A time in the unit of this case."""
        match self.unit:
            case "s/job":
                return seconds_per_job
            case "jobs/s":
                return 1 / seconds_per_job
            case "images/s":
                return self.images / seconds_per_job


FORK, SPAWN, SIMPLE, WARM = "RQ Worker", "RQ SpawnWorker", "RQ SimpleWorker", "WarmWorker"
FORK_TORCH = f"{FORK}, torch in each job"
FORK_ONNX = f"{FORK}, onnxruntime in each job"
SPAWN_ONNX = f"{SPAWN}, onnxruntime in each job"
SIMPLE_WARM = f"{SIMPLE}, Encoder kept"

FLEETS = {WARM: 1, "2 WarmWorkers": 2, "4 WarmWorkers": 4}

_CLASSES: dict[str, str | None] = {
    FORK: "rq.worker.Worker",
    SPAWN: "rq.worker.SpawnWorker",
    SIMPLE: "rq.worker.SimpleWorker",
    WARM: None,
}
_EMBED = {
    FORK_TORCH: (FORK, "bench.workers.jobs.embed_with_torch"),
    FORK_ONNX: (FORK, "bench.workers.jobs.embed_with_onnxruntime"),
    SPAWN_ONNX: (SPAWN, "bench.workers.jobs.embed_with_onnxruntime"),
    SIMPLE_WARM: (SIMPLE, "bench.workers.jobs.embed_with_encoder"),
    WARM: (WARM, "warmclip.work.jobs.embed_images"),
}


def cases(jobs: int) -> tuple[Case, ...]:
    """All of them.

    Args:
        jobs: no-ops of one round; a worker that starts a process for each gets a tenth.
    """
    cold = {FORK_TORCH: 2, FORK_ONNX: 4, SPAWN_ONNX: 4}
    return (
        Case(
            name="no-op",
            unit="jobs/s",
            images=0,
            contenders=tuple(
                Contender(
                    name=name,
                    worker=worker,
                    function="bench.workers.jobs.nothing",
                    jobs=max(1, jobs // 10) if name == SPAWN else jobs,
                    warm_up=max(1, jobs // 10),
                )
                for name, worker in _CLASSES.items()
            ),
            targets=(Target(than=FORK, times=3, words="at least 3"),),
        ),
        Case(
            name="one-image",
            unit="s/job",
            images=1,
            contenders=tuple(
                Contender(
                    name=name,
                    worker=_CLASSES[kind],
                    function=function,
                    jobs=cold.get(name, 20),
                    warm_up=1 if name in cold else 3,
                )
                for name, (kind, function) in _EMBED.items()
            ),
            targets=(
                Target(than=FORK_ONNX, times=10, words="at least 10"),
                Target(than=FORK_TORCH, times=80, words="at least 80"),
                Target(than=SIMPLE_WARM, times=1 / 1.15, words="at least 0.87 (within 1.15x)"),
            ),
        ),
        Case(
            name="64-images",
            unit="images/s",
            images=64,
            contenders=tuple(
                Contender(name=name, worker=_CLASSES[kind], function=function, jobs=1)
                for name, (kind, function) in _EMBED.items()
            ),
        ),
        Case(
            name="fleet",
            unit="images/s",
            images=16,
            contenders=tuple(
                Contender(
                    name=name,
                    worker=None,
                    function="warmclip.work.jobs.index_images",
                    jobs=12,
                    warm_up=2 * workers,
                    workers=workers,
                )
                for name, workers in FLEETS.items()
            ),
            is_fleet=True,
        ),
    )
