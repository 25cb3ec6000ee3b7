"""What a horse has begun and not ended, as far as its messages tell."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from warmclip.activity import Stage
from warmclip.work.job_result import MOST_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCall:
    """One piece of native work: loading a graph, running one, or decoding a picture."""

    stage: Stage
    what: str
    provider: str
    allow_s: float  # how long it may be silent, if that is longer than usual


class InFlight:
    """The worker's view of one job in its horse.

    Attributes:
        begun: whether the horse has begun with the job.
        progress: done, total and stage, as the job told last.
        extends_s: how long a callback may take, told when one begins; None: none has.
    """

    def __init__(
        self, execution: str = "", observe: Callable[[Stage, float], None] = lambda _, __: None
    ) -> None:
        """Nothing has begun.

        Args:
            execution: the one that is run; messages of another one are passed by.
            observe: told how long each piece of native work took, in seconds.
        """
        self.begun = False
        self.progress: tuple[int, int, str] | None = None
        self.extends_s: float | None = None
        self._execution = execution
        self._observe = observe
        self._open: dict[int, NativeCall] = {}
        self._began_at: dict[int, float] = {}
        self._parts: list[str] = []
        self._chars = 0

    def update(self, message: Mapping[str, Any]) -> None:
        """Take in one message of the horse's; others are passed by."""
        match message:
            case {
                "begin": int(number),
                "stage": "load" | "decode" | "run" as stage,
                "what": str(what),
                "provider": str(provider),
                "allow_s": int() | float() as allow_s,
            }:
                self._open[number] = NativeCall(
                    stage=stage, what=what, provider=provider, allow_s=allow_s
                )
                self._began_at[number] = time.monotonic()
            case {"end": int(number)}:
                if (ended := self._open.pop(number, None)) is not None:
                    self._observe(ended.stage, time.monotonic() - self._began_at.pop(number))
            case {"began": self._execution}:
                self.begun = True
            case {"extends": int() | float() as seconds}:
                self.extends_s = seconds
            case {"at": [int(done), int(total), str(stage)]}:
                self.progress = done, total, stage
            case {"part": str(part), "of": self._execution}:
                self._chars += len(part)
                if self._chars <= MOST_BYTES:
                    self._parts.append(part)

    @property
    def text(self) -> str:
        """What was sent in parts."""
        return "".join(self._parts)

    @property
    def images(self) -> list[str]:
        """The pictures that are being decoded; "" is one without a name."""
        return [call.what for call in self._open.values() if call.stage == "decode"]

    @property
    def native_calls(self) -> list[NativeCall]:
        """What is being loaded or run."""
        return [call for call in self._open.values() if call.stage != "decode"]

    @property
    def provider(self) -> str | None:
        """What computes just now."""
        return next((call.provider for call in self.native_calls if call.provider), None)

    def allowed_silence_s(self, usual_s: float, *, is_ours: bool = True) -> float:
        """How long the horse may be silent now.

        Args:
            usual_s: in our own code.
            is_ours: whether the job's function is. One of the user's own may compute for as long
                as its time-out allows without letting Python run: only what we do in it is watched.
        """
        if self.begun and not is_ours and not self._open:
            return float("inf")
        return max([usual_s, *(call.allow_s for call in self._open.values())])

    def __str__(self) -> str:
        """What it is doing, in words."""
        verbs = {"load": "loading", "run": "running", "decode": "decoding"}
        doing = [
            f"{verbs[call.stage]} {call.what or 'a picture without a name'!r}"
            if call.stage == "decode"
            else f"{verbs[call.stage]} {call.what}"
            for call in self._open.values()
        ]
        if not doing:
            return "in Python code"
        return ", ".join(doing[:4]) + (f" and {len(doing) - 4} more" if len(doing) > 4 else "")
