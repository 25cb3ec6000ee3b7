"""The process that a trial runs in: exec'd, never forked, in a group of its own, thrown away.

What it does there is a finding: it may answer, crash, or hang in native code until its deadline.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.providers import Provider
from warmclip.inference.selection.trial import Trial
from warmclip.signals import signal_name

_GRACE_S = 5  # after the deadline, should our own killing fail
_TAIL_BYTES = 4096


def run_trial(
    bundle: ModelBundle,
    provider: Provider,
    tower: Tower,
    *,
    home: Path,
    threads: int,
    deadline_s: float,
    waiting: Callable[[], None] | None = None,
) -> Trial:
    """Try a provider in a child process, and kill the child if it does not end in time.

    Args:
        bundle: whose graph and golden vectors.
        provider: an entry of the table.
        tower: image or text.
        home: where what is compiled is kept.
        threads: of the session.
        deadline_s: for everything, from the start of the process.
        waiting: called about every second.
    """
    request = {
        "bundle": str(bundle.folder.absolute()),
        "provider": provider.name,
        "tower": tower,
        "home": str(home),
        "threads": threads,
        "alarm_s": int(deadline_s) + _GRACE_S,
    }
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(  # noqa: S603 - our own module, by this very Python
            # -P: no module of the working directory shadows one of ours.
            [sys.executable, "-P", "-m", "warmclip.inference.selection.trial", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            process_group=0,
        ) as child,
    ):
        stage, answer, timed_out = "starting", None, False
        try:
            for line in _lines(child, deadline_s, waiting):
                message = _message(line)
                stage = message.get("stage", stage)
                answer = message.get("trial", answer)
        except TimeoutError:
            timed_out = True
        finally:
            _kill_group(child)
        if answer is not None:
            return Trial.from_dict(answer)
        reason = (
            f"gave no answer within {deadline_s:.0f} s, while {stage}"
            if timed_out
            else f"{_death(child.returncode)} while {stage}{_last_words(stderr)}"
        )
    return Trial(provider=provider.name, tower=tower, passed=False, died=True, reason=reason)


def _lines(
    child: "subprocess.Popen[bytes]", deadline_s: float, waiting: Callable[[], None] | None
) -> Iterator[bytes]:
    """The child's lines until it ends.

    Raises:
        TimeoutError: it did not end in time.
    """
    assert child.stdout is not None  # noqa: S101 - a pipe, as asked for
    deadline = time.monotonic() + deadline_s
    pending = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if waiting is not None:
            waiting()
        if not select.select([child.stdout], [], [], min(left, 1.0))[0]:
            continue
        read = os.read(child.stdout.fileno(), 65536)
        if not read:
            break
        *lines, pending = (pending + read).split(b"\n")
        yield from lines
    try:
        child.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as exc:  # it closed its output, and lives
        raise TimeoutError from exc


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS, for a zombie
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _death(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    return f"was killed by {signal_name(-status)}"


def _last_words(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _TAIL_BYTES))
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1].strip()[:300]}" if lines else ""
