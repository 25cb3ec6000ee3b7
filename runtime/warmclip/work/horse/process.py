"""A horse as its worker sees it: a child that was exec'd, and two pipes."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from warmclip.children import ChildProcess
from warmclip.settings import Settings

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
        from_us, commands_to = os.pipe()
        beats_from, to_us = os.pipe()
        inherited = [from_us, to_us, *([] if store_owner is None else [store_owner])]
        try:
            self._process = ChildProcess(
                [sys.executable, "-P", "-m", _MODULE, str(from_us), str(to_us)],
                stdout=sys.stderr.fileno(),  # a job that prints shall not mix with answers
                stderr=None,
                messages_from=beats_from,
                commands_to=commands_to,
                pass_fds=inherited,
                env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
            )
        except BaseException:
            os.close(commands_to)
            os.close(beats_from)
            raise
        finally:
            os.close(from_us)
            os.close(to_us)
        self.pid = self._process.pid
        hello = {"worker": worker, "store_owner": store_owner, "log_json": log_json}
        self._process.send(settings.to_json())
        self._process.send(hello)

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive

    def run(self, **job: Any) -> None:
        """Give it a job; a horse that is dead takes it too, and ``beats`` ends at once."""
        self._process.send(job)

    def beats(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """What it has said since the last call; waits for the first word, but no longer.

        Raises:
            EOFError: it is gone, and has said all.
        """
        # A job's time-out may strike in the middle of a line: what it garbles is passed by.
        yield from self._process.read(timeout_s)

    def kill(self) -> None:
        """End it now, with all that it started; may be called from any thread, and twice."""
        self._process.kill()

    def end(self) -> int:
        """See it and its children to their end, and return its code; a signal is negative.

        One that died by itself keeps its own code; one that lives is killed.
        """
        return self._process.end()

    def close(self) -> None:
        """Hang up, and see it leave; one that does not is killed."""
        self._process.hang_up()
        self._process.wait(_LEAVING_S)
        self._process.end()
        self._process.close()
