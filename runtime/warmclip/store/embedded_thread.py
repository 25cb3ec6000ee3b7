"""The one thread that touches the embedded engine; all others submit calls to it and wait.

A time-out or Ctrl+C raises in the thread that waits, between any two of its bytecodes. The call
goes on here and is carried out whole, so that no caller leaves the engine half-written.
"""

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from warmclip.errors import StoreError

T = TypeVar("T")

_LOOKS_S = 1.0  # how often a waiting caller looks whether the thread still runs


class Postponed(Exception):
    """Raised by a call that has to wait for another: it is tried again whenever one has run."""


class _Call(Generic[T]):
    """A call, and what became of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        # A bare lock, released once: unlike an Event's, it cannot be left held by a caller that
        # an exception struck, and so never stops the thread that releases it.
        self._pending = threading.Lock()
        self._pending.acquire()
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> bool:
        """Carry it out; False: it was postponed."""
        try:
            self._result = self._function()
        except Postponed:
            return False
        except BaseException as exc:  # carried over to the caller, whatever it is
            self._error = exc
        self._pending.release()
        return True

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._pending.release()

    def wait(self, timeout_s: float) -> bool:
        return self._pending.acquire(timeout=timeout_s)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # it is a T once the function returned


class StoreThread:
    """Runs calls one after another, and what is to be done when none came for a while.

    A call that raises ``Postponed`` keeps its place among those that do.
    """

    def __init__(self, when_idle: Callable[[], None], idle_s: float) -> None:
        """Start the thread.

        Args:
            when_idle: called once ``idle_s`` after a call, unless another comes; raises nothing.
            idle_s: how long no call must have come.
        """
        self._calls: SimpleQueue[_Call[object] | None] = SimpleQueue()
        self._when_idle = when_idle
        self._idle_s = idle_s
        self._pid = os.getpid()
        # A daemon: a process that ends without closing the store does not wait for it. What was
        # acknowledged is in the engine's write-ahead log.
        self._thread = threading.Thread(target=self._run, name="warmclip-store", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], T]) -> T:
        """Have the thread call a function; return what it returns, raise what it raises.

        Raises:
            StoreError: the store is closed, or this process was forked from the one that opened
                it.
        """
        if os.getpid() != self._pid:
            raise StoreError(
                f"the embedded store was opened by the process {self._pid}, and cannot be used in "
                f"its forked child {os.getpid()}: open it there"
            )
        call = _Call(function)
        self._calls.put(call)  # type: ignore[arg-type]  # a queue of calls of any result
        while not call.wait(_LOOKS_S):
            if not self._thread.is_alive():
                raise StoreError("the embedded store is closed")
        return call.result()

    def stop(self, finish: Callable[[], None]) -> None:
        """Let the thread end with a last call, and wait for it; twice is no error."""
        if self._thread.is_alive():  # which it is not in a forked child
            call = _Call(finish)
            self._calls.put(call)  # type: ignore[arg-type]  # as above
            self._calls.put(None)
            self._thread.join()
            call.result()

    def _run(self) -> None:
        timeout: float | None = None
        postponed: list[_Call[object]] = []
        while True:
            try:
                call = self._calls.get(timeout=timeout)
            except Empty:
                self._when_idle()
                timeout = None
                continue
            if call is None:
                for it in postponed:
                    it.fail(StoreError("the embedded store is closed"))
                return
            waiting = [*postponed, call]
            postponed = [it for it in waiting if not it.run()]
            while 0 < len(postponed) < len(waiting):  # what ran may be what they waited for
                waiting = postponed
                postponed = [it for it in waiting if not it.run()]
            del waiting
            del call  # its result may be large
            timeout = self._idle_s
