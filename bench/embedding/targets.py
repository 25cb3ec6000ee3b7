"""What was promised of warmclip, and whether this run kept it."""

from dataclasses import asdict, dataclass
from typing import Any

from bench.embedding.cases import CPU, FIRST, batch_column
from bench.embedding.contenders import GEMM, INT8, INT8_SCALED, LOADER, SCALED, TORCH, WARM
from bench.embedding.results import Results
from bench.spread import Spread

_BATCH = batch_column(32)
_RATE = "images/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """One promise.

    Attributes:
        words: what is compared.
        found: round by round; None where this run has not measured it.
        target: the median shall reach.
        more_is_better: else it shall not pass the target.
    """

    words: str
    found: Spread | None
    target: float
    more_is_better: bool = True

    @property
    def is_reached(self) -> bool | None:
        """None where it was not measured."""
        if self.found is None:
            return None
        if self.more_is_better:
            return self.found.median >= self.target
        return self.found.median <= self.target

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "aim": self.words,
            "found": asdict(self.found) if self.found else None,
            "target": self.target,
            "reached": self.is_reached,
        }


def judge(results: Results, cores: int) -> list[Aim]:
    """All aims whose cases were asked for."""
    times = results.times_as_fast
    aims = {
        "image-tower": [
            Aim(
                words="image tower, batch 32: warmclip to open_clip in torch",
                found=times("image-tower", _BATCH, WARM),
                target=2.0,
            ),
            Aim(
                words="image tower, batch 32: share of the matrix products' rate",
                found=times("image-tower", _BATCH, WARM, GEMM),
                target=0.8,
            ),
            Aim(
                words="image tower, batch 32: int8 to fp32",
                found=times("image-tower", _BATCH, INT8, WARM),
                target=2.0,
            ),
        ],
        "text-tower": [
            Aim(
                words="texts, batch 32: warmclip to open_clip in torch",
                found=times("text-tower", _BATCH, WARM),
                target=2.0,
            ),
        ],
        "large-folder": [
            Aim(
                words="large photographs: warmclip to a loop with open_clip in torch",
                found=times("large-folder", _RATE, WARM),
                target=1.7,
            ),
            Aim(
                words="large photographs: warmclip to open_clip with a DataLoader",
                found=times("large-folder", _RATE, WARM, LOADER),
                target=1.1,
            ),
            Aim(
                words="large photographs: scaled decoding to exact",
                found=times("large-folder", _RATE, SCALED, WARM),
                target=2.0,
            ),
            Aim(
                words="large photographs, int8: scaled decoding to exact",
                found=times("large-folder", _RATE, INT8_SCALED, INT8),
                target=2.0,
            ),
        ],
        "small-folder": [
            Aim(
                words="small photographs: warmclip to a loop with open_clip in torch",
                found=times("small-folder", _RATE, WARM, TORCH),
                target=2.2,
            ),
        ],
        "start": [
            Aim(
                words="exec to first vector, seconds",
                found=results.spread("start", FIRST, WARM),
                target=1.0,
                more_is_better=False,
            ),
        ],
    }
    for name in ("large-folder", "small-folder", "mixed-folder"):
        aims.setdefault(name, []).append(
            Aim(
                words=f"{name.replace('-', ' ')}: share of the cores that work",
                found=results.compare(
                    (name, _RATE, WARM),
                    (name, CPU, WARM),
                    lambda rate, cpu_seconds: rate * cpu_seconds / cores,
                ),
                target=0.9,
            )
        )
    return [aim for name, of_case in aims.items() if name in results.cases for aim in of_case]
