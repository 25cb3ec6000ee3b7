"""What one stage measured, and whether that is near enough."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Measure = Literal[
    "texts that differ",
    "crops that differ",
    "runs that differ",
    "largest difference",
    "lowest cosine",
    "top-1 agreement",
    "top-10 overlap",
    "rank correlation",
    "times nearer",
]
AT_LEAST: frozenset[Measure] = frozenset(
    {"lowest cosine", "top-1 agreement", "top-10 overlap", "rank correlation", "times nearer"}
)
"""The measures of which more is better."""

ANY_COSINE = -1.0
"""The threshold of a cosine that is measured for the record, and refuses nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one stage measured; NaN where it could not, with the reason in ``note``."""

    stage: str
    measure: Measure
    figure: float
    threshold: float
    note: str = ""

    @property
    def more_is_better(self) -> bool:
        """Whether the threshold is a lower bound."""
        return self.measure in AT_LEAST

    @property
    def passed(self) -> bool:
        """Whether the figure is within the threshold; NaN never is."""
        if self.more_is_better:
            return self.figure >= self.threshold
        return self.figure <= self.threshold

    def as_json(self) -> dict[str, Any]:
        """The finding as it stands in the certificate; JSON has no NaN."""
        return {
            "stage": self.stage,
            "measure": self.measure,
            "figure": self.figure if math.isfinite(self.figure) else None,
            "threshold": self.threshold,
            **({"note": self.note} if self.note else {}),
            "passed": self.passed,
        }

    def __str__(self) -> str:
        measured = f"{self.stage}: {self.measure} {self.figure:.7g}"
        if self.threshold != ANY_COSINE:
            sign = "at least" if self.more_is_better else "at most"
            measured += f", allowed {sign} {self.threshold:g}"
        return measured + (f" ({self.note})" if self.note else "")
