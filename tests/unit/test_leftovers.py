"""The suite itself: what its tests start ends with it, however it was started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leftovers import VARIABLE, find_leftovers
from running import eventually
from warmclip.process_table import is_running

TESTS = Path(__file__).parents[1]
SLEEP = (sys.executable, "-c", "import time; print(flush=True); time.sleep(600)")

LEAVES_ONE = """
import pathlib, subprocess, sys
def test_that_leaves_a_process():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(__file__).with_name("pid").write_text(str(process.pid))
    process.returncode = 0  # else its destructor warns
"""
CHECKED = """
from leftovers import LeftoverCheck
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LeftoverCheck(grace_s=0.1))
"""


def started(session: str, cwd: Path, **variables: str) -> "subprocess.Popen[bytes]":
    """A process that sleeps, once its environment can be read."""
    variables = {VARIABLE: session, "PYTEST_CURRENT_TEST": "test_x.py::test_y (call)"} | variables
    process = subprocess.Popen(SLEEP, cwd=cwd, env=variables, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def run_pytest(
    folder: Path, *arguments: str, start: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run it in a process of its own, with the modules of the tests at hand.

    Its temporary folder lies below this one. In pytest's common place it would remove what
    earlier sessions left, gigabytes of it, when it ends.
    """
    options = "-p", "no:cacheprovider", f"--basetemp={folder / 'base'}"
    return subprocess.run(
        [*start, sys.executable, "-m", "pytest", *options, *arguments],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_process_of_this_session(tmp_path: Path) -> None:
    """It is found by its variable, or by its folder, with its command and its test, until it ends.

    That of another session is not.
    """
    folder = tmp_path / "session"
    (folder / "below").mkdir(parents=True)
    with (
        started("this", tmp_path) as marked,
        started("another", folder / "below") as inside,
        started("another", tmp_path) as stranger,
    ):
        try:
            found = {it.pid: it for it in find_leftovers("this", folder)}
            assert found.keys() == {marked.pid, inside.pid}
            assert found[marked.pid].test == "test_x.py::test_y"
            assert "time.sleep(600)" in str(found[inside.pid])
        finally:
            for process in (marked, inside, stranger):
                process.kill()
    assert find_leftovers("this", folder) == []


@pytest.mark.parametrize("at_once", [0, 2])
def test_session_that_leaves_a_process(tmp_path: Path, at_once: int) -> None:
    """It fails, names the process and its test, and ends it: by itself, and as `make test` is."""
    (tmp_path / "conftest.py").write_text(CHECKED)
    (tmp_path / "test_it.py").write_text(LEAVES_ONE)
    done = run_pytest(tmp_path, str(tmp_path), f"--rootdir={tmp_path}", f"--numprocesses={at_once}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    pid = int((tmp_path / "pid").read_text())
    assert f"process {pid}, started by test_it.py::test_that_leaves_a_process" in done.stdout
    eventually(lambda: not is_running(pid))


def test_interrupt_of_a_child(tmp_path: Path) -> None:
    """SIGINT ends what a test starts."""
    with started("another", tmp_path) as child:
        child.send_signal(signal.SIGINT)
        assert child.wait(60) in (-signal.SIGINT, 1)


def test_suite_started_where_interrupts_are_ignored(tmp_path: Path) -> None:
    """So it does where the shell, nohup or a CI runner ignores SIGINT."""
    ignoring = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    test = f"{__file__}::{test_interrupt_of_a_child.__name__}"
    done = run_pytest(tmp_path, test, start=ignoring)
    assert done.returncode == 0, done.stdout
