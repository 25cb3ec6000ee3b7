"""What a horse has begun and not ended, as far as its beats tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmclip.activity import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCall:
    """One piece of native work."""

    stage: Stage
    what: str
    provider: str
    allow_s: float  # how long it may be silent, if that is longer than usual


class InFlight:
    """The worker's view of one job in its horse."""

    def __init__(self) -> None:
        self.taken = False  # whether the horse has begun with the job
        self.at: tuple[int, int, str] | None = None  # done, total, stage
        self._open: dict[int, NativeCall] = {}

    def note(self, beat: Mapping[str, Any]) -> None:
        """Take in one beat; what is none of ours is left alone."""
        match beat:
            case {"begin": number, **section}:
                self._open[number] = NativeCall(**section)
            case {"end": number}:
                self._open.pop(number, None)
            case {"took": _}:
                self.taken = True
            case {"at": [done, total, stage]}:
                self.at = done, total, stage

    @property
    def images(self) -> list[str]:
        """The pictures that are being decoded; "" is one without a name."""
        return [section.what for section in self._open.values() if section.stage == "decode"]

    @property
    def native(self) -> list[NativeCall]:
        """What is being loaded or run."""
        return [section for section in self._open.values() if section.stage != "decode"]

    @property
    def provider(self) -> str | None:
        """What computes just now."""
        return next((section.provider for section in self.native if section.provider), None)

    def patience_s(self, usual_s: float) -> float:
        """How long the horse may be silent now."""
        return max([usual_s, *(section.allow_s for section in self._open.values())])

    def __str__(self) -> str:
        """What it is at, in words."""
        verbs = {"load": "loading", "run": "running", "decode": "decoding"}
        at = [
            f"{verbs[section.stage]} {section.what or 'a picture without a name'!r}"
            if section.stage == "decode"
            else f"{verbs[section.stage]} {section.what}"
            for section in self._open.values()
        ]
        if not at:
            return "in Python code"
        return ", ".join(at[:4]) + (f" and {len(at) - 4} more" if len(at) > 4 else "")
