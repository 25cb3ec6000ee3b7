"""The reporter: the horse tells the worker, before each step, what it is at.

Native code is announced before it begins and after it ended; while Python itself runs, a pulse
shows that it does. So silence means that something hangs, and a death has a cause.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from warmclip.activity import Stage
from warmclip.errors import ImageUnavailable

_PULSE_S = 1.0
_PROGRESS_EVERY_S = 0.25
# Building a model for an accelerator, or choosing one by trial, takes minutes at worst.
_LOAD_ALLOWANCE_S = 600.0
_RUN_ALLOWANCE = 20.0  # times what such a batch took at its slowest


class Reporter:
    """An ``Activity`` and a ``Progress`` that go through a pipe."""

    def __init__(self, descriptor: int, refused: Callable[[str], str | None]) -> None:
        """Nothing is sent yet.

        Args:
            descriptor: the pipe's end to write into.
            refused: why a picture is not to be decoded, or None.
        """
        self.one_at_a_time = False
        self._descriptor = descriptor
        self._refused = refused
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._last = 0
        self._busy = False
        self._slowest_row_s = 0.0
        self._told_progress_at = 0.0

    def say(self, **message: Any) -> None:
        """Send one message; a worker that is gone is told nothing."""
        line = json.dumps(message).encode("ascii") + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                pass

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
            self.say(
                begin=number,
                stage=stage,
                what=what,
                provider=provider,
                allow_s=self._allowance_s(stage, rows),
            )
            yield
        finally:
            if stage == "run":
                self._slowest_row_s = max(self._slowest_row_s, (time.monotonic() - started) / rows)
            with self._lock:
                self._open.discard(number)
            self.say(end=number)

    def progress(self, done: int, total: int, stage: str) -> None:
        """See ``Progress``."""
        now = time.monotonic()
        if done == total or now - self._told_progress_at >= _PROGRESS_EVERY_S:
            self._told_progress_at = now
            self.say(at=[done, total, stage])

    @contextmanager
    def job(self, *, careful: bool) -> Iterator[None]:
        """Pulse as long as a job runs; a careful one does one thing at a time."""
        self.one_at_a_time = careful
        self._open.clear()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def start_pulse(self) -> None:
        """Pulse from a thread of its own, which a hang in native code may stop with all others."""
        threading.Thread(target=self._pulse, name="warmclip-pulse", daemon=True).start()

    def _pulse(self) -> None:
        while True:
            time.sleep(_PULSE_S)
            # Native code lets other threads run: their pulse would hide that it hangs.
            if self._busy and not self._open:
                self.say(pulse=True)

    def _allowance_s(self, stage: Stage, rows: int) -> float:
        """How long this piece may be silent, if it is longer than usual."""
        if stage == "load" or (stage == "run" and not self._slowest_row_s):
            return _LOAD_ALLOWANCE_S
        return _RUN_ALLOWANCE * rows * self._slowest_row_s if stage == "run" else 0.0
