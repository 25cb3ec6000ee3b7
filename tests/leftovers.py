"""Processes that tests started and that outlive them: a session that leaves one has failed.

A child inherits a variable that is the session's own, and pytest's PYTEST_CURRENT_TEST, which
tells whose child it is. A redis-server writes its title over its environment; it is known by the
folder in which it runs, which is one of the session's.
"""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from processes import read_commands

VARIABLE = "PYTEST_SESSION_ID"
GRACE_S = 10.0  # to end by itself, once its pipe is closed or its last client has left
_TEST = re.compile(r" PYTEST_CURRENT_TEST=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A process that should have ended."""

    pid: int
    command: str
    test: str | None  # that started it, where its environment can be read

    def __str__(self) -> str:
        return f"process {self.pid}, started by {self.test or 'a test'}: {self.command}"


def find_leftovers(session: str, folder: Path) -> list[Leftover]:
    """The processes with this session in their environment, or that run in or below this folder."""
    commands = read_commands()
    in_folder = {pid for pid, cwd in _working_folders() if cwd.is_relative_to(folder)}
    found = []
    for pid, line in read_commands(with_environment=True).items():
        is_ours = f" {VARIABLE}={session}" in line or pid in in_folder
        if is_ours and pid in commands and pid != os.getpid():
            test = _TEST.search(line)
            found.append(Leftover(pid=pid, command=commands[pid], test=test and test[1]))
    return found


class LeftoverCheck:
    """Names the session to the children of its tests, and looks for them when it ends."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._session = uuid.uuid4().hex
        self._found: list[Leftover] = []
        os.environ[VARIABLE] = self._session

    @pytest.hookimpl(trylast=True)  # when the workers of xdist have ended
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session for processes that are left, and end them."""
        # pytest hands it to fixtures only; xdist takes it from here as well.
        folder = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        deadline = time.monotonic() + self._grace_s
        while (found := find_leftovers(self._session, folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        for leftover in found:
            with suppress(ProcessLookupError):
                os.kill(leftover.pid, signal.SIGKILL)
        if found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._found = found

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them."""
        if self._found:
            terminalreporter.section("processes that outlived the tests", red=True)
            for leftover in self._found:
                terminalreporter.write_line(str(leftover))


def _working_folders() -> list[tuple[int, Path]]:
    """Processes and where they run, as far as this user may know."""
    if sys.platform == "darwin":
        return _working_folders_by_lsof()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended, or is somebody else's
                found.append((int(entry.name), (entry / "cwd").readlink()))
    return found


def _working_folders_by_lsof() -> list[tuple[int, Path]]:
    # -F: a line p for each process, then a line n for each of its files.
    command = ["lsof", "-a", "-d", "cwd", "-F", "pn"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found, pid = [], 0
    for line in done.stdout.splitlines():
        if line.startswith("p"):
            pid = int(line[1:])
        elif line.startswith("n"):
            found.append((pid, Path(line[1:])))
    return found
