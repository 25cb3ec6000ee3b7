import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmclip.inference.machine import _quota_of, processor_features, usable_cores


class Groups:
    """The files in which Linux tells of control groups."""

    def __init__(self, folder: Path) -> None:
        self.mounted = folder / "cgroup"
        self.membership = folder / "self"

    def quota(self, membership: str, files: dict[str, str]) -> float | None:
        """What a process with this membership finds."""
        self.membership.write_text(membership)
        for name, content in files.items():
            file = self.mounted / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return _quota_of(self.membership, self.mounted)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """No group is there yet."""
    return Groups(tmp_path)


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../../x\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "4:memory:/\n1:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "25000"},
            2.0,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "x", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_quota(groups: Groups, membership: str, files: dict[str, str], cores: float | None) -> None:
    """Both versions, nested groups and a container's mount; nonsense is no limit."""
    assert groups.quota(membership, files) == cores


def test_no_groups_at_all(tmp_path: Path) -> None:
    """As on macOS."""
    assert _quota_of(tmp_path / "self", tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="macOS binds no process to cores")
def test_bound_to_one_core() -> None:
    """A process that may use one core computes on one thread."""
    code = """
import ctypes
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from warmclip.inference.machine import usable_cores
print(usable_cores())
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout == "1\n"


def test_this_machine() -> None:
    """Some core computes, and something is known of it."""
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert processor_features()


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim") or not Path("/proc/self/status").exists(),
    reason="this allocator keeps nothing back, or the system does not tell",
)
def test_freed_memory_is_returned() -> None:
    """What lies below something that is still in use does not stay with the process."""
    code = """
import re
from pathlib import Path
from warmclip.inference.machine import return_freed_memory
def held_mb():
    return int(re.search(r"RssAnon:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
freed = [b"x" * 60_000 for _ in range(3000)]
in_use = [b"y" * 60_000 for _ in range(10)]
del freed
before = held_mb()
return_freed_memory()
print(before - held_mb(), len(in_use))
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    returned_mb, _ = map(int, told.stdout.split())
    assert returned_mb > 100
