"""One cell of the matrix: a child with a deadline, and what became of it.

The child leads a process group of its own, and whatever is left of the group is killed at the end.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from warmclip.signals import signal_name

Status = Literal["ok", "error", "signal", "hang", "absent"]

_MOST_BYTES = 64 * 1024  # kept of what a child writes
_REASON_CHARS = 300
_GLANCE_S = 0.2  # at whether the cell is still wanted
_TELLING = ("error", "abort", "assert", "terminat", "unable", "fatal", "exception")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one child came to."""

    status: Status
    seconds: float | None = None  # for the thing itself; of a hang, how long it was waited for
    again_s: float | None = None  # a warm horse's second answer
    step: str | None = None  # at which it failed, such as "exits"
    reason: str | None = None  # an error's first line, a signal's name, why it was not tried
    said: str | None = None  # the telling line of what it wrote to stderr
    facts: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()  # name, seconds, best_s

    @property
    def is_ok(self) -> bool:
        """Whether all went well."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON can carry it."""
        return asdict(self)


def absent(reason: str) -> ProbeResult:
    """A cell that is not tried."""
    return ProbeResult(status="absent", reason=reason)


def run_probe(command: Sequence[str], *, deadline_s: float, stop: threading.Event) -> ProbeResult:
    """Run a child that tells its story on stdout.

    Args:
        command: see ``processes``.
        deadline_s: for each step that names no shorter one itself.
        stop: set when nobody waits for the cell any more.
    """
    with subprocess.Popen(  # noqa: S603 - our own modules, with this interpreter
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        story = _Story(deadline_s)
        try:
            hung_s = _follow(child, story, stop)
        finally:
            # Its forked and exec'd children too, whether or not they hang.
            _kill_group(child)
            code = child.wait()
    return story.cell(code, hung_s)


def _follow(
    child: "subprocess.Popen[bytes]", story: "_Story", stop: threading.Event
) -> float | None:
    """Read until both pipes end; returns how long the last step was waited for, if it hung."""
    with selectors.DefaultSelector() as selector:
        for stream, take in ((child.stdout, story.told), (child.stderr, story.complained)):
            assert stream is not None  # noqa: S101 - it was opened with pipes
            selector.register(stream, selectors.EVENT_READ, take)
        while selector.get_map():
            left_s = story.until - time.monotonic()
            if left_s <= 0 or stop.is_set():
                return time.monotonic() - story.since
            for key, _ in selector.select(min(left_s, _GLANCE_S)):
                if chunk := os.read(key.fd, _MOST_BYTES):
                    key.data(chunk)
                else:
                    selector.unregister(key.fileobj)
    return None


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    # The child was not waited for yet, so the number is still its own.
    # PermissionError is macOS's word for a group whose leader has ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


class _Story:
    """What a child has told so far."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._line = b""
        self._stderr = b""
        self._steps: list[Mapping[str, Any]] = []
        self._facts: dict[str, Any] = {}
        self._took: dict[str, float] = {}
        self._error: str | None = None
        self._end: Mapping[str, Any] = {}
        self._step: str | None = "starts"
        self._wait(deadline_s)

    def _wait(self, seconds: float) -> None:
        self.since = time.monotonic()
        self.until = self.since + seconds

    def told(self, chunk: bytes) -> None:
        """Take bytes from stdout."""
        *lines, self._line = (self._line + chunk).split(b"\n")
        self._line = self._line[-_MOST_BYTES:]
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # something that a library printed
                continue
            if isinstance(event, dict):
                self._take(event)

    def complained(self, chunk: bytes) -> None:
        """Take bytes from stderr."""
        self._stderr = (self._stderr + chunk)[:_MOST_BYTES]

    def _take(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"step": str(name), "within_s": within_s}:
                self._step = name
                self._wait(min(within_s or self._deadline_s, self._deadline_s))
            case {"done": str(name), "seconds": seconds, "facts": facts}:
                self._step = None
                self._steps.append({"step": name, "seconds": seconds, **facts})
                self._facts |= facts
                self._wait(self._deadline_s)
            case {"took_s": float()}:
                self._took = {key: float(value) for key, value in event.items()}
            case {"error": str(error)}:
                self._error = error
            case {"end": dict(end)}:
                self._end = end
                self._wait(self._deadline_s)
            case _:
                pass

    def cell(self, code: int, hung_s: float | None) -> ProbeResult:
        """What it all came to.

        Args:
            code: how the child ended; after a hang it was killed by us.
            hung_s: how long its last step was waited for in vain.
        """
        status: Status = "ok"
        reason, seconds = None, self._took.get("took_s")
        said = self._telling_line()
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
            steps=tuple(self._steps),
        )

    def _signal(self, code: int) -> str | None:
        if name := self._end.get("signal"):
            return str(name)
        return signal_name(-code) if code < 0 else None

    def _telling_line(self) -> str | None:
        lines = [line.strip() for line in self._stderr.decode("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line and "DeprecationWarning" not in line]
        telling = (line for line in lines if any(word in line.lower() for word in _TELLING))
        line = next(telling, lines[-1] if lines else None)
        return line[:_REASON_CHARS] if line else None
