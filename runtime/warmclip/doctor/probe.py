"""One cell of the doctor's matrix: a child with a deadline for each step, and what became of it."""

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from warmclip.children import (
    DOCTOR_PREFIX,
    ChildProcess,
    own_temporary_folder,
    signal_name,
)

Status = Literal["ok", "error", "signal", "hang", "absent"]

_REASON_CHARS = 300
_STOP_SEEN_WITHIN_S = 0.2
_ERROR_WORDS = ("error", "abort", "assert", "terminat", "unable", "fatal", "exception")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What became of one child."""

    status: Status
    seconds: float | None = None  # that it took; of a hang, how long its step was waited for
    again_s: float | None = None  # that a warm horse's second answer took
    step: str | None = None  # in which it failed, such as "exits"
    reason: str | None = None  # an error's first line, a signal's name, why it was not tried
    said: str | None = None  # the line of its stderr that tells most
    facts: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()  # name, seconds, best_s

    @property
    def is_ok(self) -> bool:
        """Whether all went well."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can carry it."""
        return asdict(self)


def absent(reason: str) -> ProbeResult:
    """The result of a cell that is not tried."""
    return ProbeResult(status="absent", reason=reason)


def run_probe(command: Sequence[str], *, deadline_s: float, stop: threading.Event) -> ProbeResult:
    """Run a child that tells its steps on stdout; the child and its own children end with it.

    Args:
        command: see ``processes``.
        deadline_s: for each step that names no shorter one itself.
        stop: set when nobody waits for the result any more.
    """
    steps = _Steps(deadline_s)

    def raise_if_stopped() -> None:
        if stop.is_set():
            raise TimeoutError("the doctor has stopped")

    hung_s = None
    with (
        own_temporary_folder(DOCTOR_PREFIX) as environment,
        ChildProcess(command, env=environment) as child,
    ):
        try:
            for message in child.messages(
                steps.left_s, on_tick=raise_if_stopped, tick_s=_STOP_SEEN_WITHIN_S
            ):
                steps.add(message)
        except TimeoutError:
            hung_s = steps.waited_s()
        code = child.end()
    return steps.result(code, hung_s, child.stderr_text)


class _Steps:
    """What a child has told of its steps so far, and the deadline of the present one."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._done: list[Mapping[str, Any]] = []
        self._facts: dict[str, Any] = {}
        self._took: dict[str, float] = {}
        self._error: str | None = None
        self._end: Mapping[str, Any] = {}
        self._step: str | None = "starts"
        self._restart(deadline_s)

    def left_s(self) -> float:
        """How long the present step may still take."""
        return self._until - time.monotonic()

    def waited_s(self) -> float:
        """How long the present step has taken."""
        return time.monotonic() - self._since

    def _restart(self, seconds: float) -> None:
        self._since = time.monotonic()
        self._until = self._since + seconds

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in one message; one that is not of ``processes`` is passed by."""
        match message:
            case {"step": str(name), "within_s": within_s}:
                self._step = name
                self._restart(min(within_s or self._deadline_s, self._deadline_s))
            case {"done": str(name), "seconds": seconds, "facts": facts}:
                self._step = None
                self._done.append({"step": name, "seconds": seconds, **facts})
                self._facts |= facts
                self._restart(self._deadline_s)
            case {"took_s": float()}:
                self._took = {key: float(value) for key, value in message.items()}
            case {"error": str(error)}:
                self._error = error
            case {"end": dict(end)}:
                self._end = end
                self._restart(self._deadline_s)
            case _:
                pass

    def result(self, code: int, hung_s: float | None, stderr: str) -> ProbeResult:
        """What became of the child.

        Args:
            code: how the child ended; after a hang we have killed it.
            hung_s: how long its last step was waited for in vain.
            stderr: what it wrote there.
        """
        status: Status = "ok"
        reason, seconds = None, self._took.get("took_s")
        said = _telling_line(stderr)
        if self._error is not None:
            status, reason = "error", self._error
        elif hung_s is not None and code in (0, -signal.SIGKILL):
            status, seconds = "hang", hung_s
        elif name := self._signal(code):
            status, reason = "signal", name
        elif code or self._end.get("code"):
            status, reason = "error", said or f"exit code {self._end.get('code') or code}"
        failed = status != "ok"
        return ProbeResult(
            status=status,
            seconds=seconds,
            again_s=self._took.get("again_s"),
            step=self._step if failed else None,
            reason=reason[:_REASON_CHARS] if reason else None,
            said=said if failed else None,
            facts=self._facts,
            steps=tuple(self._done),
        )

    def _signal(self, code: int) -> str | None:
        if name := self._end.get("signal"):
            return str(name)
        return signal_name(-code) if code < 0 else None


def _telling_line(stderr: str) -> str | None:
    """The first line with a word of errors, else the last line."""
    lines = [line.strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line and "DeprecationWarning" not in line]
    telling = (line for line in lines if any(word in line.lower() for word in _ERROR_WORDS))
    line = next(telling, lines[-1] if lines else None)
    return line[:_REASON_CHARS] if line else None
