"""A redis-server of the test's own: a real one, on a port of its own, with the options it needs."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from warmclip.work.private_redis import find_server

_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A server that runs, and an administrator's connection to it."""

    port: int
    pid: int
    admin: Redis
    log: Path

    def url(self, user: str = "", password: str = "", database: int = 0) -> str:
        """Its address, for one user."""
        who = f"{user}:{password}@" if user or password else ""
        return f"redis://{who}127.0.0.1:{self.port}/{database}"


@contextmanager
def redis_server(
    folder: Path, *options: str, password: str | None = None, port: int | None = None
) -> Iterator[RedisServer]:
    """Start one in a folder; it ends with the block.

    Args:
        folder: for its log; nothing else is written.
        options: such as "--appendonly", "yes".
        password: of the administrator, if nobody else shall come in without one.
        port: that of a former one, to be its successor.
    """
    port = port or free_port()
    log = folder / "redis-server.log"
    command = [find_server(), "--bind", "127.0.0.1", "--port", str(port), "--save", "", *options]
    if password is not None:
        command += ["--requirepass", password]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    admin = Redis(port=port, password=password)
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(admin):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield RedisServer(port=port, pid=process.pid, admin=admin, log=log)
    finally:
        admin.close()
        process.kill()
        process.wait()


def restricted(admin: Redis, *commands: str, **options: Any) -> Redis:
    """The connection of a user who may do anything but these commands.

    Args:
        admin: a connection to the server.
        commands: such as "lmove", or "@write" for all of a kind.
        options: of the connection.
    """
    forbidden = [f"-{command}" for command in commands]
    admin.acl_setuser(
        "restricted",
        enabled=True,
        nopass=True,
        reset=True,  # what an earlier test forbade is allowed again
        keys=["*"],
        commands=["+@all", *forbidden],
    )
    server = admin.connection_pool.connection_kwargs
    return Redis(server["host"], server["port"], username="restricted", password="", **options)


class DurableRedis:
    """A redis-server that may be killed: it has an append-only file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        # macOS takes a socket's path of 103 bytes at most, and a test's own folder is longer there.
        self.socket = Path(tempfile.mkdtemp(prefix="warmclip-", dir="/tmp")) / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = {"port": "0", "unixsocket": str(self.socket), "dir": str(folder)}
        # What was answered is there after a kill: a test would else lose jobs by itself.
        self._options |= {"appendonly": "yes", "appendfsync": "always", "save": ""}
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [find_server()]
        for name, value in self._options.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.02)

    def connect(self) -> Redis:
        """A connection to it."""
        return Redis(unix_socket_path=str(self.socket))

    def _answers(self) -> bool:
        with self.connect() as probe:
            return _answers(probe)

    def kill(self) -> None:
        """End it without a chance to write anything."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _answers(admin: Redis) -> bool:
    try:
        return bool(admin.ping())
    except RedisConnectionError:
        return False
