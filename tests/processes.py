"""The processes of this machine, as `ps` shows them to anybody, on Linux and on macOS."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    parent: int
    command: str


def read_commands(*, with_environment: bool = False) -> dict[int, str]:
    """Processes and their commands; the environment stands behind, where it can be read."""
    return {pid: it.command for pid, it in _read("axeww" if with_environment else "axww").items()}


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return list(_family(pid))


def command_lines(pid: int) -> str:
    """What anybody on the machine can read of a process and its descendants."""
    return "\n".join(_family(pid).values())


def _family(pid: int) -> dict[int, str]:
    processes = _read("axww")
    found = [pid]
    for member in found:
        found += [child for child, it in processes.items() if it.parent == member]
    return {it: processes[it].command if it in processes else "" for it in found}


def _read(options: str) -> dict[int, _Process]:
    command = ["ps", options, "-o", "pid=,ppid=,command="]
    told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    rows = (line.split(None, 2) for line in told.stdout.splitlines())
    return {
        int(row[0]): _Process(parent=int(row[1]), command=row[2] if len(row) == 3 else "")
        for row in rows
    }
