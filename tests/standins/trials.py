"""What trials have found, as values."""

from dataclasses import replace
from typing import Any

from warmclip.inference.bundle import Tower
from warmclip.inference.providers import PROVIDERS
from warmclip.inference.selection.trial import BATCHES, Trial

COREML = PROVIDERS["coreml-fp16"]

FAILED: dict[str, Any] = {"passed": False, "reason": "is wrong", "images_per_s": {}}
DIED: dict[str, Any] = {**FAILED, "died": True, "reason": "gave no answer"}


def tried(
    provider: str, rate: float = 0.0, *, tower: Tower = "image", elsewhere: float = 0.0, **how: Any
) -> Trial:
    """A trial by what decides; ``elsewhere`` is the rate at all other sizes of a batch."""
    deciding = {"image": 32, "text": 1}[tower]
    rates = {batch: rate if batch == deciding else elsewhere for batch in BATCHES}
    made = Trial(provider=provider, tower=tower, passed=True, images_per_s=rates)
    return replace(made, **how)
