"""What a run of the suite found: stages, compatibilities, and each row's error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import Tower
from warmclip_export.parity.compatibility import Compatibility
from warmclip_export.parity.finding import Finding

_WORST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far each vector of one stage is from the reference's.

    Attributes:
        stage: as in its findings.
        target: the provider and precision, as a str.
        tower: whose vectors they are.
        differences: of each, the largest of any component; NaN where there is no vector.
        threshold: for all of them.
    """

    stage: str
    target: str
    tower: Tower
    differences: npt.NDArray[np.float64]  # (n,)
    threshold: float

    @property
    def worst(self) -> list[int]:
        """The rows that are furthest off, the worst first; before them those without a vector."""
        order = np.argsort(np.where(np.isnan(self.differences), np.inf, self.differences))
        return [int(row) for row in order[::-1][:_WORST]]

    def as_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Quantiles and the worst rows by name."""
        finite = self.differences[np.isfinite(self.differences)]
        quantiles = np.quantile(finite, (0.5, 0.9, 1.0)).tolist() if finite.size else [None] * 3
        return {
            "stage": self.stage,
            "rows": len(self.differences),
            "without_a_vector": len(self.differences) - len(finite),
            **dict(zip(("median", "p90", "largest"), quantiles, strict=True)),
            "threshold": self.threshold,
            "worst": [
                {"name": names[row], "difference": _figure(self.differences[row])}
                for row in self.worst
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongCrop:
    """A crop that is not open_clip's."""

    name: str
    ours: Crop | None  # None if the picture was refused
    theirs: Crop
    note: str  # why it was refused

    def __str__(self) -> str:
        return f"{self.name}: {self.note}" if self.note else self.name


@dataclass(slots=True, kw_only=True)
class Record:
    """What the stages found so far.

    Attributes:
        findings: in the order of the data: the first that failed is the culprit.
        compatibilities: of each target, with both activations.
        spreads: of each stage that compares vectors.
        wrong_crops: crops that are not open_clip's.
    """

    findings: list[Finding] = field(default_factory=list)
    compatibilities: list[Compatibility] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)
    wrong_crops: list[WrongCrop] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that the suite found.

    Attributes:
        bundle: the folder.
        fingerprint: of its embedding space.
        is_random: whether its weights mean nothing.
        activation: which vectors match, in a sentence.
        reference: model, weights, device and machine, as in the certificate.
        versions: of the packages that decided the figures.
        record: what the stages found.
        absent: providers that were not measured, with the reason.
        pictures: their names.
        crops: open_clip's, in the same order, for the report.
        texts: as they are.
        every: which of the corpus they are: 1 all, 5 every fifth.
        seconds: how long it took.
        measured_at: ISO 8601, UTC.
    """

    bundle: str
    fingerprint: str
    is_random: bool
    activation: str
    reference: Mapping[str, str]
    versions: Mapping[str, str]
    record: Record
    absent: Mapping[str, str]
    pictures: tuple[str, ...]
    crops: npt.NDArray[np.uint8]
    texts: tuple[str, ...]
    every: int
    seconds: float
    measured_at: str

    @property
    def passed(self) -> bool:
        """Whether every stage stayed within its threshold."""
        return all(finding.passed for finding in self.record.findings)

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The stages that did not."""
        return tuple(finding for finding in self.record.findings if not finding.passed)

    @property
    def compared(self) -> str:
        """How many pictures and texts, and whether the corpus has more."""
        counts = f"{len(self.pictures)} pictures, {len(self.texts)} texts"
        return counts if self.every == 1 else f"{counts}: one in {self.every} of the corpus"

    def names(self, tower: Tower) -> tuple[str, ...]:
        """What a tower's rows are called."""
        return self.pictures if tower == "image" else self.texts

    def as_json(self) -> dict[str, Any]:
        """The report as JSON: the certificate's fields, and more."""
        return {
            "bundle": self.bundle,
            "fingerprint": self.fingerprint,
            "passed": self.passed,
            "random": self.is_random,
            "measured_at": self.measured_at,
            "seconds": round(self.seconds, 1),
            "reference": dict(self.reference),
            "versions": dict(self.versions),
            "activation": self.activation,
            "samples": {"image": len(self.pictures), "text": len(self.texts)},
            "every": self.every,
            "stages": [finding.as_json() for finding in self.record.findings],
            "rulings": [compatibility.as_json() for compatibility in self.record.compatibilities],
            "spreads": [spread.as_json(self.names(spread.tower)) for spread in self.record.spreads],
            "absent": dict(self.absent),
        }


def _figure(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
