"""A horse that says what a test has written down: no process is started."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from standins.clock import Clock
from warmclip.work.horse.report import JobReport, Outcome

Said: TypeAlias = dict[str, Any] | float | Callable[[], object] | None
"""A message; how many seconds pass without one; what happens meanwhile; None: its pipe ends.

What it says of the execution "e" is about the one that it was given last.
"""

READY: Said = {
    "ready": True, "provider": "coreml", "model": "m", "models": ["f"], "callbacks": []
}  # fmt: skip
BEGAN: Said = {"began": "e"}
LOADS: Said = {"begin": 2, "stage": "load", "what": "x", "provider": "coreml", "allow_s": 600.0}


def decodes(path: str) -> Said:
    """It begins to decode a picture."""
    return {"begin": 1, "stage": "decode", "what": path, "provider": "", "allow_s": 0.0}


DECODES = decodes("/a.jpg")


def ends(outcome: Outcome = "success", *, of: str = "e", tainted: str = "") -> Said:
    """The last message of a job."""
    report = JobReport(execution=of, outcome=outcome, text="", tainted=tainted)
    return list(report.messages())[-1]


class ScriptedHorse:
    """Gets ready and says what it is told to; then it is silent for a second at each call.

    Attributes:
        orders: what it was given to do.
    """

    pid = 4711

    def __init__(
        self,
        *script: Said,
        clock: Clock | None = None,
        before: Sequence[Said] = (),
        code: int = 0,
        leaves: bool = True,
    ) -> None:
        """It has just been started.

        Args:
            script: what it says once it is ready.
            clock: of the worker.
            before: what it says before.
            code: how it ends.
            leaves: whether it ends by itself when its pipe has ended.
        """
        self._clock = clock or Clock()
        self._script: list[Said] = [*before, READY, *script]
        self._code = code
        self._leaves = leaves
        self.orders: list[dict[str, Any]] = []
        self.is_alive = True
        self.was_killed = False
        self.was_asked_to_leave = False

    def messages(self, timeout_s: float) -> list[dict[str, Any]]:  # noqa: ARG002 - as a real one has it
        """The next of the script."""
        said = self._script.pop(0) if self._script else 1.0
        if said is None:
            raise EOFError
        if isinstance(said, float):
            self._clock.now += said
            return []
        if callable(said):
            said()
            return []
        execution = self.orders[-1]["execution"] if self.orders else ""
        message = {name: execution if value == "e" else value for name, value in said.items()}
        return [json.loads(json.dumps(message))]  # what comes through a pipe is a copy

    def will_say(self, *script: Said) -> None:
        """It says this next."""
        self._script += script

    def run(self, **job: Any) -> None:
        """Take an order."""
        self.orders.append(job)

    def has_left(self) -> bool:
        """Whether it ends by itself."""
        return self._leaves

    def kill(self) -> None:
        """Its pipe ends, whatever it had to say."""
        self.was_killed = True
        self._script[:] = [None]

    def end(self) -> int:
        """It has ended."""
        self.is_alive = False
        return self._code

    def leave(self) -> None:
        """It is asked to."""
        self.was_asked_to_leave = True

    def close(self) -> None:
        """Nothing to close."""
