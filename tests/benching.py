"""A comparison in a process of its own that somebody cuts short."""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def over_after_a_round(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    """Run it until it says that its first round is over; leaving the block is Ctrl+C."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        while "round 1 " not in (line := process.stderr.readline()):
            assert line
        yield process
    finally:
        process.send_signal(signal.SIGINT)
