"""A horse as its worker sees it: a child that was exec'd, and two pipes."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from warmclip.settings import Settings

_READ_BYTES = 65_536
_LEAVING_S = 30.0
_MODULE = "warmclip.work.horse"


class HorseProcess:
    """One horse. It is never forked from here without exec, and never outlives its pipes for long.

    Attributes:
        pid: its process and its process group.
    """

    def __init__(
        self, settings: Settings, *, worker: str, store_owner: int | None, log_json: bool
    ) -> None:
        """Start it; it answers ``ready`` or ``error`` when it has loaded the model.

        Args:
            settings: sent through the pipe, as they may hold passwords.
            worker: the name under which RQ knows the worker.
            store_owner: the embedded store's lock, which the horse inherits.
            log_json: how it logs.
        """
        from_us, self._commands = os.pipe()
        self._beats, to_us = os.pipe()
        os.set_blocking(self._beats, False)
        inherited = [from_us, to_us, *([] if store_owner is None else [store_owner])]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-P", "-m", _MODULE, str(from_us), str(to_us)],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # a job that prints shall not mix with answers
                pass_fds=inherited,
                # Ctrl+C at a terminal reaches the worker alone, which lets its job end.
                process_group=0,
                env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
            )
        finally:
            os.close(from_us)
            os.close(to_us)
        self.pid = self._process.pid
        self._unread = b""
        hello = {"worker": worker, "store_owner": store_owner, "log_json": log_json}
        self._send(settings.to_json())
        self._send(json.dumps(hello))

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def run(self, **job: Any) -> None:
        """Give it a job; a horse that is dead takes it too, and ``beats`` ends at once."""
        self._send(json.dumps(job))

    def beats(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """What it has said since the last call; waits for the first word, but no longer.

        Raises:
            EOFError: it is gone, and has said all.
        """
        ready, _, _ = select.select([self._beats], [], [], timeout_s)
        if not ready:
            return
        chunk = os.read(self._beats, _READ_BYTES)
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            # A job's time-out may strike in the middle of a line: what it garbles is passed by.
            with contextlib.suppress(ValueError):
                yield json.loads(line)
        if not chunk:
            raise EOFError

    def kill(self) -> None:
        """End it now, with all that it started; may be called from any thread, and twice."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # as in ``end``
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """See it and its children to their end, and return its code; a signal is negative.

        One that died by itself keeps its own code; one that lives is killed.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Not yet reaped, so the group is still its own. macOS refuses where only it is left.
            if self._process.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def close(self) -> None:
        """Hang up, and see it leave; one that does not is killed."""
        if self._commands >= 0:
            os.close(self._commands)
            self._commands = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVING_S)
        self.end()
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1

    def _send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._commands, line.encode("ascii") + b"\n")
