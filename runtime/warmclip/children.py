"""A child process: a group of its own, lines of JSON from it, a deadline, and how it ended.

Children are exec'd, never only forked. This module is light: it imports neither numpy nor
onnxruntime, so that the parent of a worker and the doctor can use it.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

log = logging.getLogger(__name__)

TRIAL_PREFIX = "warmclip-trial-"
"""Of the temporary folder that each trial of a provider has for itself."""

DOCTOR_PREFIX = "warmclip-doctor-"
"""Of the doctor's temporary folders."""

_READ_BYTES = 64 * 1024
_KEPT_STDERR_BYTES = 64 * 1024
_LONGEST_LINE_BYTES = 1024 * 1024
_MOST_DRAINS = 16  # reads of a pipe that holds 64 KiB
_ENDED_EVERY_S = 0.02  # how often a child without open pipes is asked whether it has ended
_DYING_S = 10.0  # between SIGKILL and the end


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGABRT."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_exit(code: int) -> str:
    """How a process ended, by its return code; a negative one is a signal."""
    return f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


class ChildProcess:
    """A child that leads a process group of its own, and ends with all that it started.

    Attributes:
        pid: the number of the process, and of its group.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
        messages_from: int | None = None,
        commands_to: int | None = None,
        pass_fds: Sequence[int] = (),
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start the child.

        Args:
            command: the program and its arguments.
            stdin: as of ``subprocess.Popen``; a pipe is what ``send`` writes to.
            stdout: as of ``subprocess.Popen``; a pipe is what messages are read from.
            stderr: as of ``subprocess.Popen``; of a pipe the last 64 KiB are kept.
            messages_from: a pipe to read messages from instead of stdout; it is closed with this.
            commands_to: a pipe for ``send`` instead of stdin; it is closed with this.
            pass_fds: descriptors that the child inherits.
            cwd: the folder that it starts in.
            env: its environment, if not this process's own.
        """
        self._process = subprocess.Popen(  # noqa: S603 - callers start this very Python
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            cwd=cwd,
            env=env,
            process_group=0,  # a Ctrl+C at the terminal reaches this process alone
        )
        self.pid = self._process.pid
        self._commands = _own(commands_to, self._process.stdin)
        self._messages = _own(messages_from, self._process.stdout)
        self._stderr = _own(None, self._process.stderr)
        self._pending = b""
        self._kept_stderr = b""
        self._is_left_behind = False
        self._selector = selectors.DefaultSelector()
        for descriptor in (self._messages, self._stderr):
            if descriptor >= 0:
                self._selector.register(descriptor, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether the child still runs.

        Where the system can tell without reaping it, its number stays its own until ``end``. Where
        it cannot, what the child left behind is killed when its end is seen.
        """
        if self._process.returncode is not None:
            return False
        if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
            with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
                found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                return found is None
        if self._process.poll() is None:
            return True
        self._kill_group()  # reaped just now: what it left behind still has its number
        return False

    @property
    def stderr_text(self) -> str:
        """The last 64 KiB that the child has written to stderr, if that is a pipe."""
        return self._kept_stderr.decode("utf-8", "replace")

    def send(self, message: Mapping[str, Any] | str) -> None:
        """Write one line to the child; for a child that has ended it does nothing.

        Args:
            message: written as JSON; a str is JSON already.
        """
        text = message if isinstance(message, str) else json.dumps(message)
        line = text.encode("ascii") + b"\n"
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._commands, line) :]

    def hang_up(self) -> None:
        """Close the pipe that ``send`` writes to."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        elif self._commands >= 0:
            os.close(self._commands)
        self._commands = -1

    def read(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return the messages since the last call; waits for the first, but no longer.

        A line that is no JSON object is passed by: a library printed it, or an exception cut it.

        Raises:
            EOFError: the pipe has ended, and all messages were returned.
        """
        if not self._has_news(timeout_s):
            return []
        chunk = os.read(self._messages, _READ_BYTES)
        if not chunk:
            raise EOFError
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        self._pending = self._pending[-_LONGEST_LINE_BYTES:]
        return [message for line in lines if (message := _message(line)) is not None]

    def messages(
        self,
        left_s: Callable[[], float],
        *,
        on_tick: Callable[[], None] = lambda: None,
        tick_s: float = 1.0,
    ) -> Iterator[dict[str, Any]]:
        """Yield messages until the child has ended.

        Args:
            left_s: how long the child may still take; a message may change it.
            on_tick: called at least every ``tick_s``; what it raises passes through.
            tick_s: seconds.

        Raises:
            TimeoutError: the child did not end in time.
        """

        def wait_s() -> float:
            on_tick()
            left = left_s()
            if left <= 0:
                raise TimeoutError(f"process {self.pid} did not end in time")
            return min(left, tick_s)

        try:
            while True:
                yield from self.read(wait_s())
        except EOFError:
            self._selector.unregister(self._messages)
        while self.is_alive:  # it has closed its pipe, and may still write to stderr
            self._has_news(min(wait_s(), _ENDED_EVERY_S))

    def wait(self, timeout_s: float) -> bool:
        """Wait until the child has ended; returns whether it has."""
        gives_up_at = time.monotonic() + timeout_s
        while self.is_alive:
            if time.monotonic() >= gives_up_at:
                return False
            time.sleep(_ENDED_EVERY_S)
        return True

    def kill(self) -> None:
        """Kill the child with all that it started; from any thread, and more than once."""
        if self.is_alive:
            self._kill_group()

    def end(self) -> int:
        """Kill what is left of the group, and return the child's code; a signal is negative.

        A child that has ended by itself keeps its own code. One that is killed may not end for as
        long as a device does not answer it, or a debugger holds it: it is left behind after ten
        seconds, with the code that it will have, and ``is_alive`` remains true.
        """
        if self._process.returncode is None:  # not reaped: the group is still its own
            self._kill_group()
        try:
            code = self._process.wait(0.0 if self._is_left_behind else _DYING_S)
        except subprocess.TimeoutExpired:
            if not self._is_left_behind:
                log.warning(
                    "process %d was killed %.0f s ago and has not ended: it waits for a device, or "
                    "a debugger holds it",
                    self.pid,
                    _DYING_S,
                )
            self._is_left_behind = True
            code = -signal.SIGKILL
        self._drain_stderr()
        return code

    def close(self) -> None:
        """Close all pipes."""
        self.hang_up()
        self._selector.close()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._messages >= 0 and self._process.stdout is None:
            os.close(self._messages)
        self._messages = self._stderr = -1

    def _kill_group(self) -> None:
        # macOS answers PermissionError for a group of which only the ended leader is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _has_news(self, timeout_s: float) -> bool:
        """Wait for either pipe, keep what came from stderr; returns whether messages came."""
        ready = {key.fd for key, _ in self._selector.select(timeout_s)}
        if self._stderr in ready:
            chunk = os.read(self._stderr, _READ_BYTES)
            if not chunk:
                self._selector.unregister(self._stderr)
            self._kept_stderr = (self._kept_stderr + chunk)[-_KEPT_STDERR_BYTES:]
        return self._messages in ready

    def _drain_stderr(self) -> None:
        """Keep what is in the pipe; a process that has left the group may go on writing."""
        for _ in range(_MOST_DRAINS):
            before = self._kept_stderr
            if self._stderr >= 0:
                self._has_news(0)
            if self._kept_stderr == before:
                return


@contextlib.contextmanager
def own_temporary_folder(prefix: str) -> Iterator[dict[str, str]]:
    """Yield the environment for a child with a temporary folder of its own, which goes in the end.

    What compiles leaves whole models there when it is killed. Where no folder can be made, as on a
    full disk, the environment is this process's own.

    Args:
        prefix: of the folder's name.
    """
    environment = dict(os.environ)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            environment["TMPDIR"] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
            )
        yield environment


def _own(descriptor: int | None, stream: IO[bytes] | None) -> int:
    """The descriptor that was given, else that of a stream; -1 if there is neither."""
    if descriptor is not None:
        return descriptor
    return -1 if stream is None else stream.fileno()


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
