"""What makes a real Redis refuse commands for a while, each as a block; after it, it takes them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from standins.redis_server import RedisServer, redis_server

ADMIN = "admin"  # the administrator's password, on a server that lives for one test
PASSWORD = "s3cret"  # noqa: S105 - the worker's, on the same
ALL = "on >s3cret ~* &* +@all"

# What makes Redis refuse -> what ends that.
_EVERYTHING = {
    "OOM": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "READONLY": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    # To a write it would else say READONLY first.
    "MASTERDOWN": (
        "CONFIG SET replica-read-only no; CONFIG SET replica-serve-stale-data no; "
        "REPLICAOF 127.0.0.1 1",
        "REPLICAOF NO ONE; "
        "CONFIG SET replica-serve-stale-data yes; CONFIG SET replica-read-only yes",
    ),
    "NOREPLICAS": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    "NOPERM, by key": ("ACL SETUSER worker resetkeys", "ACL SETUSER worker ~*"),
}
# The commands of one moment.
_MOMENTS = {
    "dequeue": "lmove blmove",
    "start": "persist",
    "heartbeat": "expire",
    "success": "xadd",
    "failure": "xadd",
    "cleaning": "zrange",
    "registering": "sadd",
    "reading a job": "hgetall",
    "looking": "exists",
}


@contextmanager
def refusing_redis(folder: Path, *options: str, port: int | None = None) -> Iterator[RedisServer]:
    """A Redis with a user for the worker, and an administrator who may change what that may do."""
    user = ("--user", "worker", *ALL.split())
    debug = ("--enable-debug-command", "yes")
    with redis_server(folder, *user, *debug, *options, password=ADMIN, port=port) as server:
        yield server


def order(server: RedisServer, commands: str) -> None:
    """Have the administrator do it, one after the other."""
    for command in commands.split("; "):
        server.admin.execute_command(*command.split())  # type: ignore[no-untyped-call]  # redis-py


@contextmanager
def ordered(begin: str, end: str, server: RedisServer) -> Iterator[None]:
    """What some commands begin, and others end."""
    order(server, begin)
    try:
        yield
    finally:
        order(server, end)


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """A script keeps it."""
    order(server, "CONFIG SET busy-reply-threshold 10")
    with _meanwhile(server, "EVAL", "while true do end", "0", ended_by="SCRIPT KILL"):
        yield


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """It reads its data, as after a restart with many of them: key after key, slowly."""
    order(server, "DEBUG POPULATE 100000 ballast 100")
    order(server, "CONFIG SET loading-process-events-interval-bytes 1024")
    order(server, "CONFIG SET key-load-delay 1000")  # microseconds
    with _meanwhile(server, "DEBUG", "RELOAD", ended_by="CONFIG SET key-load-delay 0"):
        yield


@contextmanager
def full_disk(server: RedisServer) -> Iterator[None]:
    """It cannot save, and so takes no writes: something lies where its snapshot belongs."""
    in_the_way = server.log.parent / "dump.rdb" / "in-the-way"
    in_the_way.parent.unlink(missing_ok=True)
    in_the_way.parent.mkdir()
    in_the_way.touch()
    server.admin.config_set("save", "3600 1")
    order(server, "BGSAVE")
    try:
        yield
    finally:
        server.admin.config_set("save", "")
        in_the_way.unlink()
        in_the_way.parent.rmdir()


@contextmanager
def _meanwhile(server: RedisServer, *command: str, ended_by: str) -> Iterator[None]:
    """A command that keeps the server until another one ends it, after the block."""

    def keep() -> None:
        # Sent once: to reload what is only half loaded would lose the rest.
        once = Retry(NoBackoff(), 0)
        patient = Redis(port=server.port, password=ADMIN, socket_timeout=None, retry=once)
        with patient as admin, suppress(RedisError):
            admin.execute_command(*command)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        with suppress(RedisError):  # it may have ended by itself
            order(server, ended_by)
        thread.join()


Refusal = Callable[[RedisServer], AbstractContextManager[None]]


def _no_right_to(commands: str) -> Refusal:
    without = " ".join(f"-{command}" for command in commands.split())
    return partial(ordered, f"ACL SETUSER worker {without}", f"ACL SETUSER worker {ALL}")


REFUSALS: dict[str, Refusal] = {
    **{name: partial(ordered, *commands) for name, commands in _EVERYTHING.items()},
    **{f"NOPERM, {moment}": _no_right_to(commands) for moment, commands in _MOMENTS.items()},
    "BUSY": busy,
    "LOADING": loading,
    "MISCONF": full_disk,
}
"""Each begins with its code: everything is refused, or the commands of one moment."""
