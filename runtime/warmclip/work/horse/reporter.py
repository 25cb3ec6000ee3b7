"""The reporter: what a horse tells its worker, before each step that it takes.

Native code is announced before it begins and after it ended; while Python itself runs, a heartbeat
shows that it does. So silence means that something hangs, and a death has a cause.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from warmclip.activity import Stage
from warmclip.errors import ImageUnavailable

_HEARTBEAT_S = 1.0
_PROGRESS_EVERY_S = 0.25
# Building a model for an accelerator, or choosing one by trial, takes minutes at worst.
_LOAD_ALLOWANCE_S = 600.0
_RUN_ALLOWANCE = 20.0  # times what such a batch took at the slowest of the last runs
_RUNS = 32


class Orphaned(BaseException):  # no job is to catch it as its own error
    """The worker is gone: nobody would record what becomes of this job."""


class Reporter:
    """An ``Activity`` and a ``Progress`` that go through a pipe."""

    def __init__(self, descriptor: int, refused: Callable[[str], str | None]) -> None:
        """Nothing is sent yet.

        Args:
            descriptor: the pipe's end to write into.
            refused: why a picture is not to be decoded, or None.
        """
        self.one_at_a_time = False
        self.is_lost = False  # the descriptor; a job may have closed it
        self._descriptor = descriptor
        self._pipe = _identity(descriptor)
        self._refused = refused
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._last = 0
        self._busy = False
        self._row_s: deque[float] = deque(maxlen=_RUNS)
        self._told_progress_at = 0.0
        self._is_orphaned = False
        # What a job starts must not look like this process still at work.
        os.set_inheritable(descriptor, False)
        os.register_at_fork(after_in_child=self._hang_up)

    def send(self, **message: Any) -> None:
        """Send one message; a worker that is gone is told nothing."""
        # A line of its own, even if a job has written half a line into the pipe.
        line = b"\n" + json.dumps(message).encode("ascii") + b"\n"
        with self._lock:
            if self.is_lost or _identity(self._descriptor) != self._pipe:
                self.is_lost = True  # closed, or another file by now
                return
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                pass

    def extend(self, seconds: float) -> None:
        """Tell that a callback begins, which has a time-out of its own."""
        self.send(extends=seconds)

    def on_orphaned(self) -> None:
        """The worker is gone: the job ends at its next step."""
        self._is_orphaned = True

    def _hang_up(self) -> None:
        if _identity(self._descriptor) == self._pipe:
            os.close(self._descriptor)

    @contextmanager
    def during(
        self, stage: Stage, what: str, *, rows: int = 1, provider: str = ""
    ) -> Iterator[None]:
        """See ``Activity.during``."""
        if stage == "decode" and (reason := self._refused(what)):
            raise ImageUnavailable(reason)
        with self._lock:
            self._last = number = self._last + 1
            self._open.add(number)
        started = time.monotonic()
        try:  # a job's time-out may strike anywhere
            self.send(
                begin=number,
                stage=stage,
                what=what,
                provider=provider,
                allow_s=self._allowance_s(stage, rows),
            )
            yield
        finally:
            if stage == "run":
                self._row_s.append((time.monotonic() - started) / rows)
            with self._lock:
                self._open.discard(number)
            self.send(end=number)

    def progress(self, done: int, total: int, stage: str) -> None:
        """See ``Progress``.

        Raises:
            Orphaned: the worker is gone; between two steps is a good moment to end.
        """
        if self._is_orphaned:
            raise Orphaned
        now = time.monotonic()
        if done == total or now - self._told_progress_at >= _PROGRESS_EVERY_S:
            self._told_progress_at = now
            self.send(at=[done, total, stage])

    @contextmanager
    def job(self, *, careful: bool) -> Iterator[None]:
        """Send heartbeats as long as a job runs; a careful one does one thing at a time."""
        self.one_at_a_time = careful
        self._open.clear()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def start_heartbeat(self) -> None:
        """Send heartbeats from a thread of its own.

        A hang in native code may stop it together with all other threads.
        """
        threading.Thread(
            target=self._send_heartbeats, name="warmclip-heartbeat", daemon=True
        ).start()

    def _send_heartbeats(self) -> None:
        while True:
            time.sleep(_HEARTBEAT_S)
            # Native code lets other threads run: their heartbeat would hide that it hangs.
            if self._busy and not self._open:
                self.send(alive=True)

    def _allowance_s(self, stage: Stage, rows: int) -> float:
        """How long this piece may be silent, if it is longer than usual."""
        if stage == "load" or (stage == "run" and not self._row_s):
            return _LOAD_ALLOWANCE_S
        return _RUN_ALLOWANCE * rows * max(self._row_s) if stage == "run" else 0.0


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor is; None if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
