import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmclip.fsutil import is_running


def test_running_process() -> None:
    """This one runs; one that ended and was reaped does not."""
    assert is_running(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_running(process.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells the state")
def test_process_that_nobody_reaps() -> None:
    """One that ended does not run, though its number is still taken."""
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read() == b"\n"  # to its end: all that is left is to be reaped
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.kill(process.pid, 0)
        assert not is_running(process.pid)
    process.wait()
