"""What this machine is, as far as it decides whether a provider is right and fast."""

import platform
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def os_build() -> str:
    """The operating system to the build, such as "macOS 26.1 25B78" or "Linux 6.8.0-45"."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {_sysctl('kern.osversion')}"
    return f"{platform.system()} {platform.release()}"


@cache
def chip() -> str:
    """The processor's name, such as "Apple M3 Pro"."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


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


def _sysctl(name: str) -> str:
    found = subprocess.run(  # noqa: S603 - the system's own tool, with our own arguments
        ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=False
    )
    return found.stdout.strip() or platform.machine()
