"""What is harmed: a Redis, and two workers on one embedded store, started again when they end."""

import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from faults.conftest import Rig
from running import PATIENCE_S, children, start_worker
from standins.redis_server import RedisServer
from standins.refusals import PASSWORD, refusing_redis

_RESTART_S = 1.0  # as a service manager waits
_WRONG_SETTINGS = 2  # a service manager leaves it at that
_AWAY = 3  # a service that a worker needs


class Server:
    """A redis-server that keeps its data when it is killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._stack = ExitStack()
        self.now = self._start(None)

    def _start(self, port: int | None) -> RedisServer:
        # What was answered is there after a kill: jobs would else be lost by Redis.
        kept = ("--appendonly", "yes", "--appendfsync", "always")
        return self._stack.enter_context(refusing_redis(self._folder, *kept, port=port))

    def kill(self) -> None:
        """End it without a chance to write anything."""
        self._stack.close()

    def start(self) -> None:
        """Start its successor, which answers when this returns."""
        self.now = self._start(self.now.port)

    close = kill


class Place:
    """A place for one worker, kept filled as a service manager does.

    Attributes:
        name: of the place.
        clock: the file that says how wrong the clock of its processes is.
        log: what its workers tell.
        ended: exit code -> how many workers ended with it.
        surprises: what no worker may end with, or not unasked.
    """

    def __init__(self, name: str, rig: Rig, arguments: tuple[str, ...], **variables: str) -> None:
        self.name = name
        self.clock = rig.folder / f"{name}.clock"
        self.clock.write_text("0")
        self.log = rig.folder / f"{name}.log"
        self.ended: Counter[int] = Counter()
        self.surprises: list[str] = []
        self._environment = rig.environment(FAULTY_CLOCK=str(self.clock), **variables)
        self._arguments = arguments
        self._start()

    def _start(self) -> None:
        self.process: subprocess.Popen[str] = start_worker(
            self._environment, *self._arguments, log=self.log
        )
        self._again_at: float | None = None
        self._expected = {_AWAY}

    @property
    def pids(self) -> list[int]:
        """The worker, and its horse if it has one just then."""
        return [self.process.pid, *self.horses]

    @property
    def horses(self) -> list[int]:
        """Its horse, if it has one just then."""
        return children(self.process.pid)

    def keep_filled(self) -> None:
        """Start another worker some time after one has ended."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None:
            return
        if self._again_at is None:
            self.ended[code] += 1
            if code not in self._expected:
                self.surprises.append(f"the worker {self.name} ended with {code}")
            if code == _WRONG_SETTINGS:
                raise RuntimeError(f"{self.name} is down for good: {self.log.read_text()[-1000:]}")
            self._again_at = now + _RESTART_S
        elif now >= self._again_at:
            self._start()

    def kill(self, *, with_horse: bool) -> None:
        """End the worker by SIGKILL, and its horse first if wanted."""
        self._expected = self._expected | {-signal.SIGKILL}
        send(self.horses if with_horse else [], signal.SIGKILL)
        send([self.process.pid], signal.SIGKILL)

    def ask_to_stop(self) -> None:
        """SIGTERM, which one that has not installed its handler yet dies of."""
        self._expected = self._expected | {0, -signal.SIGTERM}
        send([self.process.pid], signal.SIGTERM)

    def close(self) -> None:
        """Ask the worker to stop, and wait for that."""
        self.ask_to_stop()
        self.process.wait(PATIENCE_S)
        self.keep_filled()  # counts how it ended


class Site:
    """All of it. One worker owns the store, the other uses it through the owner."""

    def __init__(self, rig: Rig) -> None:
        self.server = Server(rig.folder / "redis")
        url = {"REDIS_URL": self.server.now.url("worker", PASSWORD)}
        self.places = (
            Place("owner", rig, (), **url),
            Place("guest", rig, ("--shares-store",), **url),
        )

    def keep_filled(self) -> None:
        """Start workers again that have ended."""
        for place in self.places:
            place.keep_filled()

    def close(self) -> None:
        """End everything, the guest before its host."""
        for place in reversed(self.places):
            place.close()
        self.server.close()


def send(pids: list[int], signum: int) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
