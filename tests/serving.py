"""A real `warmclip serve` in a process of its own, and a client of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw

from running import PATIENCE_S, eventually

SERVE = (sys.executable, "-m", "warmclip.cli", "serve")
SESSIONS = "/api/v1/training/sessions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def begin(self, folder: Path, **more: str) -> str:
        """Post a training session; returns where to follow it."""
        answer = self.client.post(SESSIONS, json={"training_directory": str(folder), **more})
        assert answer.status_code == 202, answer.text
        return answer.headers["Location"]

    def get(self, path: str) -> dict[str, Any]:
        """What there is."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, session: str, state: str = "finished") -> dict[str, Any]:
        """A session once it is in this state."""
        eventually(lambda: self.get(session)["state"] == state)
        return self.get(session)


@contextmanager
def running_server(environment: dict[str, str], *arguments: str) -> Iterator[Served]:
    """Start a server on a free port, wait until it answers, and stop it as a supervisor does."""
    home = Path(environment["WARMCLIP_HOME"])
    log = home.with_name(f"{home.name}-{time.monotonic_ns()}.serve.log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*SERVE, "--port=0", "--log-json", *arguments],
            env=os.environ | environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        port = _port(process, log)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False
        ) as client:
            eventually(lambda: _answers(client))
            yield Served(process=process, client=client, log=log)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def draw(folder: Path, count: int, *, start: int = 0) -> list[Path]:
    """So many small pictures, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(start, start + count):
        image = Image.new("RGB", (64, 64), (number * 7 % 256, number * 13 % 256, number // 256))
        ImageDraw.Draw(image).text((4, 20), str(number), fill="white")
        paths.append(folder / f"{number:05}.png")
        image.save(paths[-1])
    return paths


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for line in log.read_text().splitlines():
            if line.startswith("{") and "port" in (record := json.loads(line)):
                return int(record["port"])
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code in (200, 503)
    except httpx.TransportError:
        return False
