"""A horse as its worker sees it: a child that was exec'd, and two pipes."""

import json
import os
import sys
import threading
from typing import Any

from warmclip.children import ChildProcess
from warmclip.settings import Settings
from warmclip.work.horse.models import ModelChoice

_LEAVING_S = 30.0
_EXITING_S = 1.0  # between a pipe's end and its process's
_COMMAND = (sys.executable, "-P", "-m", "warmclip.work.horse")

LOST_ITS_PIPE = os.EX_SOFTWARE
"""The exit code of a horse that cannot tell its worker anything, as a job closed its pipe."""

_FITS_BYTES = 16 * 1024  # into an empty pipe, on every system


class HorseProcess:
    """One horse. It is never forked from here without exec, and never outlives its pipes for long.

    Attributes:
        pid: its process and its process group.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        worker: str,
        redis_socket: str | None,
        store_owner: int | None,
        choice: ModelChoice,
        log_json: bool,
    ) -> None:
        """Start it; it answers ``ready`` or ``error`` when it has loaded the model.

        Args:
            settings: sent through the pipe, as they may hold passwords.
            worker: the name under which RQ knows the worker.
            redis_socket: of the private Redis, which the worker keeps running.
            store_owner: the embedded store's lock, which the horse inherits.
            choice: of models.
            log_json: how it logs.
        """
        from_us, commands_to = os.pipe()
        messages_from, to_us = os.pipe()
        inherited = [from_us, to_us, *([] if store_owner is None else [store_owner])]
        try:
            self._process = ChildProcess(
                # Its worker is for whoever finds it left over (``liveness.is_leftover``).
                [*_COMMAND, str(from_us), str(to_us), f"--worker={os.getpid()}"],
                stdout=sys.stderr.fileno(),  # a job that prints shall not mix with answers
                stderr=None,
                messages_from=messages_from,
                commands_to=commands_to,
                pass_fds=inherited,
                env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
            )
        except BaseException:
            os.close(commands_to)
            os.close(messages_from)
            raise
        finally:
            os.close(from_us)
            os.close(to_us)
        self.pid = self._process.pid
        self._writer: threading.Thread | None = None
        hello = {
            "worker": worker,
            "redis_socket": redis_socket,
            "store_owner": store_owner,
            "models": choice.wanted,
            "refused": choice.refused,
            "log_json": log_json,
        }
        self._process.send(settings.to_json())
        self._process.send(hello)

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive

    def has_left(self) -> bool:
        """Whether it ends by itself, now that its pipe has ended."""
        return self._process.wait(_EXITING_S)

    def run(self, **job: Any) -> None:
        """Give it a job; a horse that is dead takes it too, and ``messages`` ends at once.

        A job that does not fit into the pipe is written by a thread: a horse that was stopped reads
        nothing, and who watches it must not wait for it.
        """
        line = json.dumps(job)
        if len(line) < _FITS_BYTES:  # its end is sent too
            self._process.send(line)
            return
        self._writer = threading.Thread(
            target=self._process.send, args=(line,), name="warmclip-order", daemon=True
        )
        self._writer.start()

    def messages(self, timeout_s: float) -> list[dict[str, Any]]:
        """What it has said since the last call; waits for the first message, but no longer.

        Raises:
            EOFError: it is gone, and has said all.
        """
        return self._process.read(timeout_s)

    def kill(self) -> None:
        """End it now, with all that it started; may be called from any thread, and twice."""
        self._process.kill()

    def end(self) -> int:
        """See it and its children to their end, and return its code; a signal is negative.

        One that died by itself keeps its own code; one that lives is killed, and is still alive if
        it does not end then (see ``ChildProcess.end``).
        """
        code = self._process.end()
        if self._writer is not None:
            self._writer.join(_EXITING_S)  # its pipe has no reader any more
        return code

    def leave(self) -> None:
        """Hang up, and give it half a minute to leave."""
        if self._writer is None or not self._writer.is_alive():
            self._process.hang_up()
            self._process.wait(_LEAVING_S)

    def close(self) -> None:
        """Close its pipes, once it was seen to its end."""
        self._process.close()
