"""The machine that figures come from, and whether others used it meanwhile."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis

_PACKAGES = ("warmclip", "rq", "redis", "onnxruntime", "torch", "open_clip_torch", "pillow")
_BUSY_BEFORE = 0.5  # of the load average, for each core: nobody of ours ran yet
_BUSY_DURING = 1.5  # two threads of a model, and a little more
_MOST_FOR_OTHERS = 0.05  # of all cores: a system's own daemons


def describe(
    connection: Redis | None = None, packages: Sequence[str] = _PACKAGES
) -> dict[str, Any]:
    """What a reader needs to know to judge a figure.

    Args:
        connection: to the Redis that took part, if one did.
        packages: whose versions count.
    """
    environment: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": allowed_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }
    if connection is not None:
        environment["server"] = _server(connection.info("server"))
    return environment


def allowed_cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """Processes that wanted to run, over the last minute."""
    return os.getloadavg()[0]


class Others:
    """What other processes used of the processors since this was made, as the kernel counts it."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def share(self) -> float | None:
        """Of all cores, 0 to 1; of children, only those that have ended are ours. None: unknown."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        theirs = busy - self._busy - (_own_seconds() - self._own)
        available = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        return max(0.0, theirs / available)


def stamp(environment: Mapping[str, Any], load: Mapping[str, float], rounds: int) -> str:
    """Where and how a table was made, as a paragraph."""
    packages = ", ".join(f"{name} {it}" for name, it in environment["packages"].items() if it)
    server = f"{environment['server']}, " if "server" in environment else ""
    return (
        f"{environment['date']}: {environment['cpu']}, {environment['cores']} cores, "
        f"{environment['memory_gb']} GB, {environment['system']}, Python {environment['python']}, "
        f"{server}{packages}; model {environment['bundle']}. Medians of {rounds} interleaved "
        f"rounds (lowest to highest). Load average {load['before']:.1f} before, at most "
        f"{load['highest']:.1f}."
    )


def warning_of_others(
    load: Mapping[str, float], cores: int, others: float | None = None
) -> str | None:
    """What to say if this machine had other work as well.

    Args:
        load: averages from before and during the run.
        cores: of this machine.
        others: their share of the cores, which decides where it is known.
    """
    is_quiet = load["before"] <= _BUSY_BEFORE * cores and load["highest"] <= _BUSY_DURING * cores
    if others is not None:
        is_quiet = others <= _MOST_FOR_OTHERS
    if is_quiet:
        return None
    return (
        "Warning: others worked on this machine meanwhile. Each round hits all contenders, so the "
        "ratios are worth something; the absolute figures are not this machine's best."
    )


def _busy_seconds() -> float | None:
    """Of all processors since the machine started; what a hypervisor took counts as well."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, *more = (int(ticks) for ticks in first.split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu() -> str:
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _server(info: Any) -> str:
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info['redis_version']}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
