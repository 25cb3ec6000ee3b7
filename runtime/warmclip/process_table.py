"""What the system tells of other processes: whether one runs, its parent, command and work."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PS_TIMEOUT_S = 5.0
_ENDED = ("Z", "X")  # a zombie, and one that is just being reaped
_MOST_LISTENED_S = 2.0  # that count between two looks
_READ_EVERY_S = 10.0  # how often processor time is read


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
    return parse_process(_ask_ps(pid, "ppid=,stat=,command="))


def read_processor_time(pid: int) -> str | None:
    """How long a process has computed, as the system writes it; None as of ``read_process``."""
    if _has_proc():
        return " ".join(_read_stat(pid)[11:13]) or None  # of its own, and the system's for it
    return _ask_ps(pid, "time=").strip() or None


class IdleWatch:
    """Looked at again and again, it tells how long a process has not computed anything.

    What counts is how long somebody looked: while this process was stopped, or the machine slept,
    the other one may have been as well.
    """

    def __init__(self, pid: int) -> None:
        """Begin now."""
        self._pid = pid
        self._used = read_processor_time(pid)
        self._idle_s, self._read_at_s = 0.0, _READ_EVERY_S
        self._looked_at = time.monotonic()

    def idle_s(self) -> float:
        """For how many seconds, about; 0 also where the system does not tell."""
        before, self._looked_at = self._looked_at, time.monotonic()
        self._idle_s += min(self._looked_at - before, _MOST_LISTENED_S)
        if self._idle_s >= self._read_at_s:
            before_used, self._used = self._used, read_processor_time(self._pid)
            if self._used is None or self._used != before_used:
                self._idle_s = 0.0
            self._read_at_s = self._idle_s + _READ_EVERY_S
        return self._idle_s


def _ask_ps(pid: int, columns: str) -> str:
    tool = shutil.which("ps", path=os.defpath) or "ps"  # a service may have a bare PATH
    try:
        done = subprocess.run(  # noqa: S603 - the system's own tool, and a number
            # Twice w: else a command is cut at 79 columns where there is no terminal (macOS).
            [tool, "-ww", "-o", columns, "-p", str(pid)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PS_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


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
