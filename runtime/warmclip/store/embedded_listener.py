"""Serves other processes that use the embedded store which this one has open.

One connection is one question and its answer, so that nobody has to remember anything of another.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from warmclip.errors import SettingsError, StoreError
from warmclip.fsutil import socket_folder, sweep_socket_folders
from warmclip.store.embedded_questions import from_error
from warmclip.store.embedded_wire import (
    MOST_ANSWER_BYTES,
    MOST_QUESTION_BYTES,
    address_of,
    receive_message,
    send_message,
    to_message,
)

log = logging.getLogger(__name__)

_AT_ONCE = 32  # questions; further ones wait for their turn in the socket's backlog
_BACKLOG = 128
_QUESTION_S = 5.0  # for a question to come once its connection is there
_ANSWER_S = 30.0  # for an answer to be taken
_PAUSE_S = 0.1  # after a connection could not be accepted


class Listener:
    """The socket in a store's folder, and the threads that answer there."""

    def __init__(self, folder: Path, answer: Callable[[Any], Any]) -> None:
        """Begin to listen. A socket that a killed owner left is replaced.

        Args:
            folder: whose lock this process holds until ``close``.
            answer: returns the result of a question, and raises ValueError for one that is none.

        Raises:
            OSError, SettingsError: no socket can be made here.
        """
        self._answer = answer
        self._address = address_of(folder)
        self._is_elsewhere = self._address.parent != folder.resolve()
        self._closing = False
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._wake, self._woken = socket.socketpair()
        self._open = {self._socket, self._wake, self._woken}
        try:
            with socket_folder(self._address.parent):
                self._address.unlink(missing_ok=True)
                self._socket.bind(os.fspath(self._address))
                self._address.chmod(0o600)
                self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except (OSError, SettingsError):
            self._close_all()
            raise
        # Threads do not live on in a forked child, but sockets do: an open one would keep those
        # who ask there waiting, for as long as the child runs.
        os.register_at_fork(after_in_child=partial(_close_in_child, weakref.ref(self)))
        self._thread = threading.Thread(target=self._run, name="warmclip-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, while the lock is still held; twice is no error.

        A question that is being answered is: whoever gets no answer asks the next owner.
        """
        if self._closing or os.getpid() != self._pid:
            return
        self._closing = True
        with contextlib.suppress(OSError):
            self._address.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a job has closed it, of which the thread is told too
            self._wake.send(b"\0")
        self._thread.join()
        # Only now: the thread may have ended before it was woken.
        for it in (self._socket, self._wake, self._woken):
            with contextlib.suppress(OSError):
                self._discard(it)
        if self._is_elsewhere:
            sweep_socket_folders()

    def _run(self) -> None:
        with selectors.PollSelector() as ready:
            ready.register(self._socket, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while not self._closing:
                ready.select()
                # Waiting for a free thread ends by itself: each one has its deadlines.
                if self._free.acquire(timeout=_PAUSE_S) and not self._accept():
                    self._free.release()

    def _accept(self) -> bool:
        """Answer one connection in a thread of its own; False if there was none."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        except OSError as exc:  # too many open files: it stays in the backlog
            log.warning("a process that asks the embedded store has to wait: %s", exc)
            time.sleep(_PAUSE_S)
            return False
        self._open.add(connection)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="warmclip-answer", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no more threads: it is asked again
            log.warning("a process that asks the embedded store has to wait: %s", exc)
            self._discard(connection)
            return False
        return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            ends_at = time.monotonic() + _QUESTION_S
            question = receive_message(connection, most=MOST_QUESTION_BYTES, ends_at=ends_at)
            # After this process stood still: what nobody waits for is not carried out late.
            message = None if _is_gone(connection) else self._message(question)
            if message is not None:
                send_message(connection, message, ends_at=time.monotonic() + _ANSWER_S)
        except (OSError, ValueError) as exc:
            log.debug("a question to the embedded store was not answered: %s", exc)
        finally:
            self._discard(connection)
            self._free.release()

    def _message(self, question: Any) -> bytes | None:
        """The answer; None: the store was closed meanwhile, and the next owner is to be asked."""
        try:
            return to_message({"result": self._answer(question)}, most=MOST_ANSWER_BYTES)
        except ValueError as exc:
            error = StoreError(
                f"process {self._pid}, which owns the embedded store, cannot answer: {exc}; are "
                "all processes of one version of warmclip?"
            )
        except StoreError as exc:
            if self._closing:
                return None
            error = exc
        return to_message({"error": from_error(error)}, most=MOST_ANSWER_BYTES)

    def _discard(self, it: socket.socket) -> None:
        self._open.discard(it)
        it.close()

    def _close_all(self) -> None:
        for it in list(self._open):
            self._discard(it)


def listen(folder: Path, answer: Callable[[Any], Any]) -> Listener | None:
    """A ``Listener``, or None where no socket can be made: the store is of use without it."""
    try:
        return Listener(folder, answer)
    except (OSError, SettingsError) as exc:
        log.warning(
            "other processes cannot use the embedded store while this one has it open: no socket "
            "can be made at %s: %s",
            address_of(folder),
            exc,
        )
        return None


def _is_gone(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def _close_in_child(parents: "weakref.ref[Listener]") -> None:
    listener = parents()
    if listener is not None:
        listener._close_all()
