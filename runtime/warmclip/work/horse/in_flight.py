"""What a horse has begun and not ended, as far as its messages tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmclip.activity import Stage


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
    """

    def __init__(self) -> None:
        self.begun = False
        self.progress: tuple[int, int, str] | None = None
        self._open: dict[int, NativeCall] = {}

    def update(self, message: Mapping[str, Any]) -> None:
        """Take in one message of the horse's; others are passed by."""
        match message:
            case {"begin": number, **call}:
                self._open[number] = NativeCall(**call)
            case {"end": number}:
                self._open.pop(number, None)
            case {"began": _}:
                self.begun = True
            case {"at": [done, total, stage]}:
                self.progress = done, total, stage

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

    def allowed_silence_s(self, usual_s: float) -> float:
        """How long the horse may be silent now."""
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
