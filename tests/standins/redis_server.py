"""A redis-server of the test's own: a real one, on a port of its own, with the options it needs."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from warmclip.work.private_redis import find_server

_START_S = 20.0


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


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as far as /proc tells."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def command_lines(pid: int) -> bytes:
    """What anybody on the machine can read of a process and its descendants."""
    lines = b""
    for member in family(pid):
        try:
            lines += Path("/proc", str(member), "cmdline").read_bytes()
        except OSError:
            continue
    return lines


def _answers(admin: Redis) -> bool:
    try:
        return bool(admin.ping())
    except RedisConnectionError:
        return False
