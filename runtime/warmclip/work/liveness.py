"""Whether a worker is still there, as far as can be seen from here.

RQ keeps the record of a worker that was killed for minutes. Ours also name the machine and the
horse, so that whoever runs on the same machine sees at once that both are gone.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from redis import Redis
from redis.exceptions import ResponseError

from warmclip.process_table import Process, is_running, read_process
from warmclip.sysctl import read_sysctl
from warmclip.work.keys import WORKERS
from warmclip.work.patience import is_wrong_type
from warmclip.work.replies import reply_of, text_of

log = logging.getLogger(__name__)

HORSE = "horse"
"""The field of a worker's record that holds its horse's process."""

AT = "at"
"""The field that holds how far its job is: the job's id, done, total, stage."""

STARTING = "starting"
"""The state of a worker whose horse loads the model; its record tells how far that is."""

MODELS = "models"
"""The field that holds the fingerprints of the models that its horse has, by commas."""

TROUBLE = "trouble"
"""The field that says why it has not loaded a model that it should; empty: all is well."""

_MACHINE = "machine"
_HORSE = re.compile(r"-m warmclip\.work\.horse .*--worker=(\d+)")


def describe_stage(progress: tuple[int, int, str]) -> str:
    """Where a start is, in words; progress is how much is done, how much there is, and what."""
    done, total, stage = progress
    return f"{stage}, {done + 1} of {total}"


@cache
def this_machine() -> str:
    """Where a process number means what it means here: one boot, one namespace.

    A host's name would not do: containers may share one.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux, and so no namespaces
        return read_sysctl("kern.bootsessionuuid") or f"{socket.gethostname()}-{uuid.getnode():x}"


def worker_fields(horse: int, models: Sequence[str], trouble: str) -> dict[str, str | int]:
    """What our workers add to RQ's record of them."""
    return {
        _MACHINE: this_machine(),
        HORSE: horse,
        MODELS: ",".join(models),
        TROUBLE: trouble,
    }


def is_gone(connection: Redis, worker_key: str, *, with_horse: bool = False) -> bool:
    """Whether a worker of this machine does not run any more.

    Args:
        connection: to its Redis.
        worker_key: of its record.
        with_horse: only if its horse is gone too; it may be at its last job.
    """
    try:
        values = connection.hmget(worker_key, _MACHINE, "pid", HORSE)
    except ResponseError as exc:
        if not is_wrong_type(exc):
            raise
        return False  # somebody else's key: nothing is known of such a worker
    machine, pid, horse = (text_of(value or "") for value in values)
    if machine != this_machine() or not _is_pid(pid):
        return False
    pids = [int(pid), *([int(horse)] if with_horse and _is_pid(horse) else [])]
    return not any(map(is_running, pids))


def end_leftover_horses(connection: Redis) -> bool:
    """Kill the horses of this machine whose workers are gone; returns whether there were any.

    Such a horse leaves by itself, unless it is in native code that lets no Python run.
    """
    found = False
    for name in reply_of(connection, "SMEMBERS", WORKERS) or ():
        key = text_of(name)
        if is_gone(connection, key) and not is_gone(connection, key, with_horse=True):
            horse = int(text_of(connection.hget(key, HORSE) or "0"))
            if is_leftover(read_process(horse)):
                log.warning("the horse %d has outlived its worker, and is killed", horse)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(horse, signal.SIGKILL)
                found = True
    return found


def is_leftover(process: Process | None) -> bool:
    """Whether a process is a horse, and no child of the worker that its command names.

    Process numbers are used again, and whoever has adopted it may be one of ours: in a container
    the supervisor is the first process.
    """
    if process is None:
        return False
    horse = _HORSE.search(process.command)
    return horse is not None and int(horse[1]) != process.parent


def _is_pid(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
