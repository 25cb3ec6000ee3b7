"""What this machine is, as far as it decides whether a provider is right and fast."""

import ctypes
import os
import platform
import re
import resource
import sys
from functools import cache
from pathlib import Path

from warmclip.sysctl import read_sysctl


@cache
def os_build() -> str:
    """The operating system to the build, such as "macOS 26.1 25B78" or "Linux 6.8.0-45"."""
    if sys.platform == "darwin":
        return f"macOS {macos_version()} {read_sysctl('kern.osversion') or platform.machine()}"
    return f"{platform.system()} {platform.release()}"


@cache
def macos_version() -> str:
    """Such as "26.1"; a Python that was built for an older macOS would be told "10.16"."""
    return read_sysctl("kern.osproductversion") or platform.mac_ver()[0]


@cache
def chip() -> str:
    """The processor's name, such as "Apple M3 Pro"."""
    if sys.platform == "darwin":
        return read_sysctl("machdep.cpu.brand_string") or platform.machine()
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


@cache
def processor_features() -> str:
    """The instruction sets of the processor, as the system names them, for telling two apart."""
    if sys.platform == "darwin":
        return read_sysctl("hw.optional") or platform.machine()
    try:  # "flags" on x86-64, "Features" on arm64
        found = re.search(
            r"^(?:flags|Features)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    return " ".join(sorted(found[1].split())) if found else ""


@cache
def has_arm_bfloat16() -> bool:
    """Whether this is an Arm processor that multiplies matrices in bfloat16: Apple's from M2 on."""
    if sys.platform == "darwin":
        return read_sysctl("hw.optional.arm.FEAT_BF16") == "1"
    return "bf16" in processor_features().split()


@cache
def usable_cores() -> int:
    """How many threads may compute at once in this process; at least 1.

    The physical cores of those that the process may run on, as two threads of one core share its
    arithmetic; fewer where a control group, such as a container's, is given less time than that.
    """
    cores = _physical_cores()
    quota = _quota_of(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    # Rounded down: a thread that a quota stops halfway keeps all others waiting.
    return max(1, cores if quota is None else min(cores, int(quota)))


def memory_bytes() -> int | None:
    """All the memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _physical_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):  # macOS, where a core has one thread
        # Of the fast ones: a thread on an efficiency core keeps all others waiting.
        fast = read_sysctl("hw.perflevel0.physicalcpu") or ""
        return int(fast) if fast.isdigit() else os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for cpu in allowed:
        file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(file.read_text())
        except OSError:  # a container may hide it
            return len(allowed)
    return len(siblings)


def _quota_of(membership: Path, mounted: Path) -> float | None:
    """The processors' time that a process's control groups are given, in cores; None: no limit.

    A group has what the least generous of it and those above it has. In a container the path of
    the group may be the host's, of which nothing is to be seen; then the mount itself is the group.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            read, places = _quota_v2, [mounted, mounted / "unified"]
        elif "cpu" in controllers.split(","):
            read, places = _quota_v1, [mounted / "cpu", mounted / controllers]
        else:
            continue
        for place in places:
            group = place / path.lstrip("/")
            quotas += [read(it) for it in (group, *group.parents) if it.is_relative_to(place)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # the root has none; "max" is no limit
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota, period = (
            int((group / name).read_text()) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None


def peak_rss_mb() -> float:
    """The most memory that this process has used, in MiB."""
    try:  # on Linux, getrusage tells what the process was before it was exec'd as well
        found = re.search(
            r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # macOS: in bytes


def return_freed_memory() -> None:
    """Give the system what this process has freed.

    glibc keeps it, in case: 700 MB after a model that was loaded once and dropped. macOS has a
    call of its own for it, which no Mac has been seen to need yet.
    """
    libc = ctypes.CDLL(None)
    if trim := getattr(libc, "malloc_trim", None):  # glibc
        trim(0)
    elif relieve := getattr(libc, "malloc_zone_pressure_relief", None):  # macOS
        relieve(None, ctypes.c_size_t(0))  # all zones, as much as can be had
