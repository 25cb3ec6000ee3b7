"""Whether a worker still runs, and what becomes of its horse: with real processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from running import eventually
from standins.redis_server import restricted
from warmclip.process_table import is_running
from warmclip.work.keys import WORKER_PREFIX, WORKERS
from warmclip.work.liveness import end_leftover_horses, is_gone, worker_fields

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

KEY = f"{WORKER_PREFIX}w"
ME = os.getpid()
HORSE = "-m warmclip.work.horse 3 4"

# Leads a group of its own, as a horse does.
_SLEEP = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
# What its own command does not have to say, it reads.
_PARENT = (
    'read python; read word; read worker; "$python" -c "$SLEEP" "$word" "--worker=${worker:-$$}" &'
    ' [ "$0" = leaves ] || wait'
)


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def start() -> Iterator[Callable[[str, str, str], int]]:
    """Start a process that names a worker, or else its parent, with a word in each command."""
    parents: list[subprocess.Popen[str]] = []
    started: list[int] = []

    def begin(word: str, parent: str, worker: str) -> int:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _PARENT, parent],
            env={**os.environ, "SLEEP": _SLEEP},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        parents.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{sys.executable}\n{word}\n{worker}\n")
        process.stdin.flush()
        started.append(int(process.stdout.readline()))
        if parent == "leaves":
            process.wait()
        return started[-1]

    yield begin
    for pid in started:
        if is_running(pid):
            os.kill(pid, 9)
    for process in parents:
        process.kill()
        process.communicate()


def record(redis: Redis, pid: object, horse: object, machine: str | None = None) -> None:
    """A worker, as its record tells of it."""
    redis.sadd(WORKERS, KEY)
    fields = worker_fields(ME, ["a", "b"], "none") | {"pid": str(pid), "horse": str(horse)}
    redis.hset(KEY, mapping=fields | ({} if machine is None else {"machine": machine}))  # type: ignore[arg-type]  # str will do


@pytest.mark.parametrize(
    ("pid", "horse", "machine", "gone", "gone_with_horse"),
    [
        ("ended", "ended", None, True, True),
        ("ended", "ours", None, True, False),
        ("ended", "", None, True, True),
        ("ended", "x", None, True, True),
        ("ours", "ended", None, False, False),
        ("ended", "ended", "elsewhere", False, False),
        ("ended", "ended", "", False, False),
        ("", "ended", None, False, False),
        ("\u0663", "ended", None, False, False),
        ("-1", "ended", None, False, False),
        ("9" * 9, "9" * 9, None, True, True),
        ("9" * 10, "", None, False, False),
    ],
)
def test_who_is_gone(
    connection: Redis,
    ended: int,
    pid: str,
    horse: str,
    machine: str | None,
    gone: bool,
    gone_with_horse: bool,
) -> None:
    """A process of this machine that ended; what is said of another one is not known."""
    numbers: dict[str, object] = {"ended": ended, "ours": ME}
    record(connection, numbers.get(pid, pid), numbers.get(horse, horse), machine)
    assert is_gone(connection, KEY) is gone
    assert is_gone(connection, KEY, with_horse=True) is gone_with_horse


def test_record_of_another_kind(connection: Redis) -> None:
    """Nothing is known of such a worker; a refusal is an error."""
    connection.set(KEY, "x")
    assert not is_gone(connection, KEY)
    assert not is_gone(connection, "rq:worker:none")
    with restricted(connection, "hmget") as theirs, pytest.raises(NoPermissionError):
        is_gone(theirs, KEY)


@pytest.mark.parametrize(
    ("word", "parent", "starter", "worker", "is_ended"),
    [
        (HORSE, "leaves", "parent", "ended", True),
        # In a container the first process adopts it, and that is the supervisor.
        (HORSE, "warmclip.cli worker --workers 2", "ended", "ended", True),
        (HORSE, "warmclip.cli worker", "parent", "ended", False),  # its number was used again
        ("another program", "leaves", "parent", "ended", False),
        (HORSE, "leaves", "parent", "me", False),
    ],
)
def test_horse_that_is_left(
    connection: Redis,
    start: Callable[[str, str, str], int],
    ended: int,
    word: str,
    parent: str,
    starter: str,
    worker: str,
    is_ended: bool,
) -> None:
    """It is killed if its worker is gone, and it is a horse and nobody's."""
    horse = start(word, parent, str(ended) if starter == "ended" else "")
    record(connection, ended if worker == "ended" else ME, horse)
    connection.sadd(WORKERS, f"{WORKER_PREFIX}none")
    assert end_leftover_horses(connection) is is_ended
    if is_ended:
        eventually(lambda: not is_running(horse))
        assert end_leftover_horses(connection) is False
    else:
        assert is_running(horse)


def test_no_workers(connection: Redis, tmp_path: Path) -> None:
    """Neither a set of workers, nor a key in its place, names any."""
    assert end_leftover_horses(connection) is False
    connection.set(WORKERS, str(tmp_path))
    assert end_leftover_horses(connection) is False
