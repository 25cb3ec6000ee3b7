"""`warmclip serve` with one worker and a private Redis, asked over HTTP."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from bench.embedding.adapters.adapter import HITS, Skipped
from bench.embedding.adapters.points import COLLECTION, fill
from bench.embedding.fixtures import Fixtures
from warmclip.inference.bundle import ModelBundle
from warmclip.settings import Settings
from warmclip.store.qdrant import QdrantStore
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.private_redis import find_server

_POINTS = 200
_PATIENCE_S = 120.0


class Service:
    """A server and its worker.

    Args:
        fixtures: the bundle.
        together: whether searches that arrive together are one job, as they are.
    """

    def __init__(self, fixtures: Fixtures, *, together: bool = True) -> None:
        name = uuid.uuid4().hex[:8]
        self._home = fixtures.folder / f"service-{name}"
        self._home.mkdir(mode=0o700)
        bundle = ModelBundle.open(fixtures.bundle)
        settings = Settings(home=self._home, bundle=fixtures.bundle, collection=COLLECTION)
        store = QdrantStore.embedded(settings.embedded_store)
        self.fill(store, bundle.manifest.fingerprint, fixtures)
        store.close()
        # Not in the home: in a Mac's temporary folder its path would be too long for a socket.
        redis = fixtures.folder / f"{name}.sock"
        settings = replace(settings, redis_url=f"unix://{redis}")
        environment = os.environ | {
            "REDIS_URL": f"unix://{redis}",
            "WARMCLIP_HOME": str(self._home),
            "WARMCLIP_BUNDLE": str(fixtures.bundle),
            "WARMCLIP_COLLECTION": COLLECTION,
            "WARMCLIP_ROOTS": str(self._home),
            "WARMCLIP_PROVIDER": fixtures.provider,
        }
        self._port = _free_port()
        serve = "warmclip" if together else "bench.embedding.adapters.serve_singly"
        python = (sys.executable, "-m")
        commands = (
            (find_server(), "--port", "0", "--unixsocket", str(redis), "--save", ""),
            (*python, "warmclip", "worker"),
            (*python, serve, "serve", "--rate=0", f"--port={self._port}"),
        )
        # In this process's group, which ends as a whole.
        self._processes = []
        for command in commands:
            self._processes.append(subprocess.Popen(command, env=environment))
            self._wait_for(redis.exists)
        self._connection = ExitStack().enter_context(open_broker(settings))
        self._wait_for(self._is_answering)

    def fill(self, store: QdrantStore, fingerprint: str, fixtures: Fixtures) -> None:
        """Store what is searched."""
        fill(store, fingerprint, fixtures.dim, _POINTS)

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {"points": _POINTS, "workers": 1}

    def measure(self, way: str, texts: Sequence[str], clients: int) -> dict[str, Any]:
        """Search for the texts; the seconds of each, and of all."""
        started = time.perf_counter()
        if way == "job":
            latencies = [self._search_by_job(text) for text in texts]
        else:
            latencies = asyncio.run(self._search_from(clients, texts))
        return {"seconds": time.perf_counter() - started, "latencies": latencies}

    def _search_by_job(self, text: str) -> float:
        started = time.perf_counter()
        arguments = {"collection": COLLECTION, "text": text, "limit": HITS}
        answer = call(self._connection, "search", arguments)
        assert len(answer["hits"]) == HITS  # noqa: S101 - else it was no search
        return time.perf_counter() - started

    async def _search_from(self, clients: int, texts: Sequence[str]) -> list[float]:
        targets = [f"/api/v1/search?limit={HITS}&q={quote(text)}" for text in texts]
        return await self.get_all(targets, clients)

    async def get_all(self, targets: Sequence[str], clients: int) -> list[float]:
        """The seconds of each request; a client keeps its connection, and asks again at once."""
        waiting = iter(targets)
        latencies: list[float] = []

        async def get() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            for target in waiting:
                started = time.perf_counter()
                writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"the server answered {head.decode()}")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().splitlines()
                    if line.startswith(b"content-length:")
                )
                await reader.readexactly(length)
                latencies.append(time.perf_counter() - started)
            writer.close()

        await asyncio.gather(*(get() for _ in range(clients)))
        return latencies

    def _is_answering(self) -> bool:
        try:
            self.measure("http", ["a search"], 1)
        except (OSError, RuntimeError, asyncio.IncompleteReadError):
            return False
        return True

    def _wait_for(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not is_there():
            ended = [it.args for it in self._processes if it.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise Skipped(f"no search is answered; what has ended: {ended}")
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
