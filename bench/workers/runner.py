"""Runs contenders: one private Redis, one folder of pictures, one way to take the time."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

from bench.workers.contenders import QUEUES, Case, Contender
from bench.workers.jobs import CHECKPOINT
from warmclip.errors import WarmclipError
from warmclip.inference.providers import AUTO
from warmclip.work.private_redis import PrivateRedis

PICTURES = 64

_REPOSITORY = Path(__file__).parents[2]
_OURS = ("WARMCLIP_", "REDIS_", "RQ_", "QDRANT_")
_JOB_TIMEOUT_S = 600
_STOP_PATIENCE_S = 30
_PICTURE_SIDE_PX = 1024  # one megapixel, as JPEG
_LEAST_COSINE = 0.999


class ContenderFailed(WarmclipError):
    """A worker ended, or a job of it did not do what it is there for."""


class Runner:
    """Runs one contender at a time.

    Attributes:
        connection: to the Redis that all of them use.
    """

    def __init__(
        self,
        folder: Path,
        redis: PrivateRedis,
        bundle: Path,
        checkpoint: Path,
        provider: str,
        pictures: int,
        store: Mapping[str, str],
    ) -> None:
        self.connection = Redis(unix_socket_path=os.fspath(redis.socket))
        self._url = f"unix://{redis.socket}"
        self._log = folder / "worker.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self._environment = kept | {
            "WARMCLIP_HOME": os.fspath(folder),
            "WARMCLIP_BUNDLE": os.fspath(bundle.resolve()),
            "WARMCLIP_PROVIDER": provider,
            "WARMCLIP_JOBS": "bench.workers.jobs:nothing",
            CHECKPOINT: os.fspath(checkpoint.resolve()),
            "ORT_DISABLE_TELEMETRY": "1",
            **store,
        }
        self._paths = [os.fspath(_picture(folder, seed)) for seed in range(pictures)]
        self._folder = folder
        self._expected: dict[str, Any] = {}
        self._collections = 0

    def seconds_per_job(self, case: Case, contender: Contender) -> float:
        """Start a worker whose queue is full, and time its last jobs.

        The clock runs from the end of the last job of the warm-up to the end of the last job of
        all: it sees neither the queueing nor the start of the worker.

        Raises:
            ContenderFailed: the worker or a job, with the reason.
        """
        self.connection.flushdb()
        queue = Queue(QUEUES[-1], connection=self.connection, serializer=JSONSerializer)
        if case.is_fleet:
            return self._seconds_of_fleet(queue, case, contender)
        arguments = [self._paths[: case.images]] if case.images else []
        queued = [
            Queue.prepare_data(contender.function, arguments, timeout=_JOB_TIMEOUT_S)
            for _ in range(contender.warm_up + contender.jobs)
        ]
        jobs = queue.enqueue_many(queued)
        with self._running(contender) as process:
            self._await(jobs[contender.warm_up - 1], process)
            started = time.perf_counter()
            result = self._await(jobs[-1], process)
            seconds = time.perf_counter() - started
        failed = [job.id for job in jobs if job.get_status() != "finished"]
        if failed:
            raise ContenderFailed(f"{len(failed)} of {len(jobs)} jobs did not finish")
        if case.images:
            answer: Any = result.return_value
            self._check(answer["vectors"])
        return seconds / contender.jobs

    def _seconds_of_fleet(self, queue: Queue, case: Case, contender: Contender) -> float:
        """The clock runs from the queueing of the jobs, when all workers are warm, to the last."""
        count = contender.jobs * case.images
        files = _others([Path(path) for path in self._paths], self._folder / "fleet", count)
        parts = [files[start : start + case.images] for start in range(0, count, case.images)]
        self._collections += 1
        collection = f"bench{self._collections}"  # where nothing is unchanged
        with self._running(contender) as process:
            while Worker.count(connection=self.connection) < contender.workers:
                if process.poll() is not None:
                    raise ContenderFailed(f"the workers ended: {self._said()}")
                time.sleep(0.1)
            warm_up = [[self._paths[:8]]] * contender.warm_up
            self._finish(queue, "warmclip.work.jobs.embed_images", warm_up, process)
            started = time.perf_counter()
            jobs = [[part, collection] for part in parts]
            self._finish(queue, contender.function, jobs, process)
            return (time.perf_counter() - started) / contender.jobs

    def _finish(
        self,
        queue: Queue,
        function: str,
        arguments: Sequence[list[Any]],
        process: "subprocess.Popen[bytes]",
    ) -> None:
        queued = [Queue.prepare_data(function, it, timeout=_JOB_TIMEOUT_S) for it in arguments]
        for job in queue.enqueue_many(queued):
            self._await(job, process)

    @contextmanager
    def _running(self, contender: Contender) -> Iterator["subprocess.Popen[bytes]"]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                contender.command(self._url),
                cwd=_REPOSITORY,  # where `bench.workers.jobs` is
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(_STOP_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _await(self, job: Job, process: "subprocess.Popen[bytes]") -> Result:
        """Sleep until a job is over: asking again and again would cost what is measured."""
        while (result := job.latest_result(timeout=1)) is None:
            if process.poll() is not None:
                raise ContenderFailed(
                    f"the worker ended, code {process.returncode}: {self._said()}"
                )
        if result.type != Result.Type.SUCCESSFUL:
            reason = (result.exc_string or "no reason was recorded").strip().splitlines()[-1]
            raise ContenderFailed(f"a job failed: {reason}")
        return result

    def _said(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _check(self, vectors: Mapping[str, Any]) -> None:
        """Whoever computes them, the vectors are the same: all do the same work."""
        if not self._expected:
            self._expected.update(vectors)
        for path, vector in vectors.items():
            cosine = float(np.dot(vector, self._expected.setdefault(path, vector)))
            if not cosine >= _LEAST_COSINE:
                raise ContenderFailed(f"{path}: cosine {cosine:.4f} to the others' vector")


@contextmanager
def open_runner(
    bundle: Path,
    checkpoint: Path,
    provider: str = AUTO,
    pictures: int = PICTURES,
    *,
    stores: bool = False,
) -> Iterator[Runner]:
    """Set it up in a temporary folder.

    Args:
        bundle: what warmclip and onnxruntime load.
        checkpoint: what open_clip loads.
        provider: what warmclip computes on.
        pictures: how many to draw.
        stores: whether workers share a store: QDRANT_URL, or Qdrant's engine behind a stand-in.

    Raises:
        QueueUnreachable: there is no redis-server to start.
    """
    with (
        TemporaryDirectory(prefix="warmclip-bench-") as name,
        _store(Path(name)) if stores else nullcontext() as store,
    ):
        folder = Path(name)
        redis = PrivateRedis(folder)
        try:
            runner = Runner(folder, redis, bundle, checkpoint, provider, pictures, store or {})
            with runner.connection:
                yield runner
        finally:
            redis.close()


@contextmanager
def _store(folder: Path) -> Iterator[Mapping[str, str]]:
    """The variables that lead to a store which several processes may use."""
    theirs = {
        name: os.environ[name] for name in ("QDRANT_URL", "QDRANT_API_KEY") if os.getenv(name)
    }
    if "QDRANT_URL" in theirs:
        yield theirs
        return
    sys.path.append(os.fspath(_REPOSITORY / "tests"))
    from standins.qdrant import serve  # whose engine comes with the test group

    with serve(folder / "qdrant") as stand_in:
        yield {"QDRANT_URL": stand_in.url}


def _others(originals: Sequence[Path], folder: Path, count: int) -> list[str]:
    """So many pictures, no two files the same: a reader ignores what follows the end."""
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    if not folder.exists():
        folder.mkdir()
        for number, path in enumerate(paths):
            content = originals[number % len(originals)].read_bytes()
            path.write_bytes(content + number.to_bytes(4))
    return [os.fspath(path) for path in paths]


def _picture(folder: Path, seed: int) -> Path:
    """A picture with the detail of a photograph: smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    side = (_PICTURE_SIDE_PX, _PICTURE_SIDE_PX)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    path = folder / f"{seed:02}.jpg"
    path.write_bytes(stream.getvalue())
    return path
