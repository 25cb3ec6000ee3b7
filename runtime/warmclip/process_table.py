"""What the system tells of other processes: whether one runs, its parent and its command."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PS_TIMEOUT_S = 5.0
_ENDED = ("Z", "X")  # a zombie, and one that is just being reaped


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A line of ``ps``."""

    parent: int
    state: str  # a letter: "R" runs, "S" sleeps, "T" is stopped, "Z" has ended
    command: str  # with its arguments, as far as they may be seen


def read_process(pid: int) -> Process | None:
    """What the system tells of a process; None if there is none, or ``ps`` does not answer.

    On Linux /proc is read, as few images of containers have ``ps``.
    """
    if (_PROC / "self" / "stat").exists():
        return _read_proc(pid)
    tool = shutil.which("ps", path=os.defpath) or "ps"  # a service may have a bare PATH
    try:
        done = subprocess.run(  # noqa: S603 - the system's own tool, and a number
            # Twice w: else a command is cut at 79 columns where there is no terminal (macOS).
            [tool, "-ww", "-o", "ppid=,stat=,command=", "-p", str(pid)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PS_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_process(done.stdout)


def _read_proc(pid: int) -> Process | None:
    folder = _PROC / str(pid)
    try:
        stat = (folder / "stat").read_text("utf-8", "replace")
        arguments = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    state, parent = stat.rpartition(") ")[2].split()[:2]
    command = b" ".join(arguments).decode("utf-8", "replace").strip()
    return Process(parent=int(parent), state=state, command=command)


def parse_process(line: str) -> Process | None:
    """Read one line of ``ps -o ppid=,stat=,command=``; None if it is none."""
    parts = line.split(maxsplit=2)
    if len(parts) < 2 or not (parts[0].isascii() and parts[0].isdigit()):
        return None
    command = parts[2].strip() if len(parts) == 3 else ""
    return Process(parent=int(parts[0]), state=parts[1][0], command=command)


def is_running(pid: int) -> bool:
    """Whether a process of this number runs here; one that ended is gone, even if nobody reaps it.

    A container's first process may be slow to reap, or never do it.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    try:
        state = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(") ")[2][:1]
    except OSError:  # no Linux, or gone just now
        if (_PROC / "self" / "stat").exists():
            return False
        process = read_process(pid)
        return process is None or process.state not in _ENDED
    return state not in _ENDED
