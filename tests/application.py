"""The application of examples/, with its Redis, Qdrant, worker and pictures, in real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from redis import Redis

from processes import family
from running import start_worker, wait_for_worker
from standins.redis_server import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"
LONG_S = 240.0  # for several processes at once, on a busy machine
QUEUES = ("high", "training", "default", "low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The application that runs: where it answers, and its processes."""

    client: httpx.Client
    web: subprocess.Popen[bytes]
    workers: subprocess.Popen[str]
    environment: dict[str, str]
    folder: Path

    @property
    def pictures(self) -> Path:
        """The folder that albums lie in."""
        return Path(self.environment["PHOTOS_ROOT"])

    def processes(self) -> list[int]:
        """All of its processes; a parent comes before its children."""
        return family(self.web.pid) + family(self.workers.pid)

    def are_tasks_final(self) -> bool:
        """Whether none waits or runs."""
        return not self.client.get("/tasks").json().keys() - {"completed", "failed"}


@contextmanager
def running_application(
    folder: Path, bundle: Path, redis_url: str, qdrant_url: str, **more: str
) -> Iterator[Application]:
    """Start its server and its workers as its README says, and stop them."""
    root, data = folder / "pictures", folder / "data"
    root.mkdir()
    data.mkdir()
    environment = {
        "WARMCLIP_HOME": str(folder / "home"),
        "WARMCLIP_BUNDLE": str(bundle),
        "WARMCLIP_JOBS": "photoservice.jobs:*",
        "WARMCLIP_ROOTS": f"{root}:{data}",
        "REDIS_URL": redis_url,
        "QDRANT_URL": qdrant_url,
        "DATABASE_URL": f"sqlite:///{data / 'photos.sqlite'}",
        "PHOTOS_ROOT": str(root),
        "PHOTOS_DATA": str(data),
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
    } | more
    log = folder / "worker.log"
    port = free_port()
    workers = start_worker(environment, "--queues", ",".join(QUEUES), "--reserve", "high", log=log)
    with (folder / "web.log").open("wb") as stream:
        web = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "photoservice.app:app", f"--port={port}"],
            env=os.environ | environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        with Redis.from_url(redis_url) as connection:
            wait_for_worker(workers, connection, log, LONG_S)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False
        ) as client:
            while not _answers(client):
                assert web.poll() is None, (folder / "web.log").read_text()
            yield Application(
                client=client, web=web, workers=workers, environment=environment, folder=folder
            )
    finally:
        for process in (web, workers):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in (web, workers):
            process.wait(LONG_S)


def draw_album(folder: Path, count: int, *, seed: int) -> list[Path]:
    """So many small pictures that nobody else has, in a new folder; one more is none."""
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True)
    for number in range(count):
        picture(seed * 100_000 + number).save(unfinished / f"{number:04}.png")
    (unfinished / "none.png").write_bytes(f"no picture {seed}".encode())
    unfinished.rename(folder)
    return sorted(folder.glob("[0-9]*.png"))


def picture(seed: int) -> Image.Image:
    """A picture of coloured tiles."""
    tiles = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(tiles).resize((96, 96), Image.Resampling.NEAREST)


def _answers(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/tasks").status_code == 200
    time.sleep(0.1)
    return False
