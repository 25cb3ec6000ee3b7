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
    """What is known of one process."""

    parent: int
    state: str  # a letter: "R" runs, "S" sleeps, "T" is stopped, "Z" has ended
    command: str  # with its arguments, as far as they may be seen


def read_process(pid: int) -> Process | None:
    """What the system tells of a process; None if there is none, or ``ps`` does not answer.

    On Linux /proc is read, as an image of a container may have no ``ps``.
    """
    if _has_proc():
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
    stat = _read_stat(pid)
    if not stat:
        return None
    try:
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:  # gone just now
        return None
    command = b" ".join(arguments).decode("utf-8", "replace").strip()
    return Process(parent=int(stat[1]), state=stat[0], command=command)


def _has_proc() -> bool:
    return (_PROC / "self" / "stat").exists()


def _read_stat(pid: int) -> list[str]:
    """What /proc/PID/stat says after the command's name: state, parent, ...; [] if there is none.

    The name is in brackets, and may itself have spaces and brackets.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return []
    return text.rpartition(") ")[2].split()


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
    if not _has_proc():
        process = read_process(pid)
        return process is None or process.state not in _ENDED
    # Never the command too: to read it takes the process's memory lock, and one that hangs may
    # hold that for good.
    stat = _read_stat(pid)
    return bool(stat) and stat[0] not in _ENDED
