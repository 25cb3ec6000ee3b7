"""A debugger that holds a process: killed, it stays until the debugger has seen its end."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CODE = """
import ctypes, os, sys
seize = 0x4206  # PTRACE_SEIZE: the process goes on
libc = ctypes.CDLL(None, use_errno=True)
failed = libc.ptrace(seize, ctypes.c_long(int(sys.argv[1])), None, None) != 0
print(os.strerror(ctypes.get_errno()) if failed else "holds it", flush=True)
sys.stdin.read()
"""


@contextmanager
def debugger_at(pid: int) -> Iterator[None]:
    """Hold it until the end of the block; where that is not to be had, the test is skipped."""
    if sys.platform != "linux":
        pytest.skip("Linux alone lets a program hold another one that was killed")
    command = [sys.executable, "-c", _CODE, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as debugger:
        assert debugger.stdout is not None
        said = debugger.stdout.readline().decode().strip()
        if said != "holds it":
            pytest.skip(f"this system lets no program hold another one ({said})")
        yield  # the end of its input is the end of the debugger
