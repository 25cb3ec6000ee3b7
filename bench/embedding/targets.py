"""The targets of warmclip's speed, and whether this run reached them."""

from dataclasses import asdict, dataclass
from typing import Any

from bench.embedding.cases import (
    ANSWERS,
    COLD,
    COMMAND,
    CPU,
    FIRST,
    HTTP,
    JOB,
    KEPT,
    OPENED,
    SEARCH,
    SHARE,
    SLOWEST,
    batch_column,
)
from bench.embedding.contenders import (
    GEMM,
    INT8,
    INT8_SCALED,
    LOADER,
    SCALED,
    SERVICE,
    SINGLY,
    STORE,
    TILES,
    TORCH,
    WARM,
)
from bench.embedding.results import Results
from bench.spread import Spread

_BATCH = batch_column(32)
_RATE = "images/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        words: what is compared.
        found: round by round; None where this run has not measured it.
        bound: that the median is to reach.
        more_is_better: whether the bound is a lower one.
    """

    words: str
    found: Spread | None
    bound: float
    more_is_better: bool = True

    @property
    def is_reached(self) -> bool | None:
        """None where it was not measured."""
        if self.found is None:
            return None
        if self.more_is_better:
            return self.found.median >= self.bound
        return self.found.median <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "aim": self.words,
            "found": asdict(self.found) if self.found else None,
            "target": self.bound,
            "reached": self.is_reached,
        }


def evaluate_targets(results: Results, cores: int) -> list[Target]:
    """The targets of all cases that were run."""
    times = results.times_as_fast

    def at_most(bound: float, words: str, case: str, column: str, contender: str) -> Target:
        found = results.spread(case, column, contender)
        return Target(words=words, found=found, bound=bound, more_is_better=False)

    by_case = {
        "image-tower": [
            Target(
                words="image tower, batch 32: warmclip to open_clip in torch",
                found=times("image-tower", _BATCH, WARM),
                bound=2.0,
            ),
            Target(
                words="image tower, batch 32: share of the matrix products' rate",
                found=times("image-tower", _BATCH, WARM, GEMM),
                bound=0.8,
            ),
            Target(
                words="image tower, batch 32: int8 to fp32",
                found=times("image-tower", _BATCH, INT8, WARM),
                bound=2.0,
            ),
        ],
        "text-tower": [
            Target(
                words="texts, batch 32: warmclip to open_clip in torch",
                found=times("text-tower", _BATCH, WARM),
                bound=2.0,
            ),
        ],
        "large-folder": [
            Target(
                words="large photographs: warmclip to a loop with open_clip in torch",
                found=times("large-folder", _RATE, WARM),
                bound=1.7,
            ),
            Target(
                words="large photographs: warmclip to open_clip with a DataLoader",
                found=times("large-folder", _RATE, WARM, LOADER),
                bound=1.1,
            ),
            Target(
                words="large photographs: scaled decoding to exact",
                found=times("large-folder", _RATE, SCALED, WARM),
                bound=2.0,
            ),
            Target(
                words="large photographs, int8: scaled decoding to exact",
                found=times("large-folder", _RATE, INT8_SCALED, INT8),
                bound=2.0,
            ),
        ],
        "small-folder": [
            Target(
                words="small photographs: warmclip to a loop with open_clip in torch",
                found=times("small-folder", _RATE, WARM, TORCH),
                bound=2.2,
            ),
        ],
        "library": [
            at_most(0.5, "a library: seconds to open it", "library", OPENED, STORE),
            at_most(
                20.0, "a library: milliseconds of a search in process", "library", SEARCH, STORE
            ),
            at_most(
                0.6,
                "a library: seconds of `warmclip search`, demo model",
                "library",
                COMMAND,
                STORE,
            ),
            at_most(600.0, "a library: memory of its own (PSS) in MB", "library", SHARE, STORE),
        ],
        "thumbnails": [
            at_most(
                3.0,
                "24 thumbnails of 24 MP: seconds where none was drawn before",
                "thumbnails",
                COLD,
                TILES,
            ),
            at_most(
                0.5, "24 thumbnails: seconds where all were drawn before", "thumbnails", KEPT, TILES
            ),
        ],
        "http": [
            Target(
                words="a search over HTTP: milliseconds more than the job alone",
                found=results.compare(
                    ("http", HTTP, SERVICE), ("http", JOB, SERVICE), lambda http, job: http - job
                ),
                bound=6.0,
                more_is_better=False,
            ),
            Target(
                words="50 clients: answers a second, together to each search a job",
                found=times("http", ANSWERS, SERVICE, SINGLY),
                bound=3.0,
            ),
            at_most(500.0, "50 clients: p99 in milliseconds", "http", SLOWEST, SERVICE),
        ],
        "start": [
            at_most(1.0, "exec to first vector, seconds", "start", FIRST, WARM),
        ],
    }
    for name in ("large-folder", "small-folder", "mixed-folder"):
        by_case.setdefault(name, []).append(
            Target(
                words=f"{name.replace('-', ' ')}: share of the cores that work",
                found=results.compare(
                    (name, _RATE, WARM),
                    (name, CPU, WARM),
                    lambda rate, cpu_seconds: rate * cpu_seconds / cores,
                ),
                bound=0.9,
            )
        )
    return [
        target for name, of_case in by_case.items() if name in results.cases for target in of_case
    ]
