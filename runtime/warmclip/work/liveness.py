"""Whether a worker is still there, as far as can be seen from here.

RQ keeps the record of a worker that was killed for minutes. Ours also name the machine and the
horse, so that whoever runs on the same machine sees at once that both are gone.
"""

import socket
import uuid
from functools import cache
from pathlib import Path

from redis import Redis

from warmclip.fsutil import is_running
from warmclip.work.queues import text_of

HORSE = "horse"
"""The field of a worker's record that holds its horse's process."""

AT = "at"
"""The field that holds how far its job is: the job's id, done, total, stage."""

_MACHINE = "machine"


@cache
def this_machine() -> str:
    """Where a process number means what it means here: one boot, one namespace.

    A host's name would not do: containers may share one.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux, and so no namespaces
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def worker_fields(horse: int) -> dict[str, str | int]:
    """What our workers add to RQ's record of them."""
    return {_MACHINE: this_machine(), HORSE: horse}


def is_gone(connection: Redis, worker_key: str, *, with_horse: bool = False) -> bool:
    """Whether a worker of this machine does not run any more.

    Args:
        connection: to its Redis.
        worker_key: of its record.
        with_horse: only if its horse is gone too; it may be at its last job.
    """
    values = connection.hmget(worker_key, _MACHINE, "pid", HORSE)
    machine, pid, horse = (text_of(value or "") for value in values)
    if machine != this_machine() or not _is_pid(pid):
        return False
    pids = [int(pid), *([int(horse)] if with_horse and _is_pid(horse) else [])]
    return not any(map(is_running, pids))


def _is_pid(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
