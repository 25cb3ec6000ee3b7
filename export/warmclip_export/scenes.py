"""Synthetic scenes: coloured shapes on plain backgrounds.

The demo model is trained on these and `make demo` searches among them. `drawing` turns them into
pictures and `captions` into words; none of the three needs torch. Everything random takes a
`random.Random`: the same seed gives the same scenes, pixels and words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from random import Random

Rgb = tuple[int, int, int]

PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "cross": "crosses",
    "diamond": "diamonds",
    "ring": "rings",
    "moon": "moons",
    "arrow": "arrows",
}
COLOURS: dict[str, Rgb] = {
    "red": (222, 36, 36),
    "orange": (248, 136, 24),
    "yellow": (250, 222, 40),
    "green": (36, 160, 60),
    "cyan": (30, 200, 225),
    "blue": (40, 84, 228),
    "purple": (134, 46, 184),
    "pink": (250, 130, 190),
    "brown": (136, 82, 40),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (250, 250, 250),
    "black": (14, 14, 14),
    "grey": (128, 128, 128),
    "beige": (232, 218, 184),
    "navy": (16, 24, 82),
    "mint": (184, 238, 208),
}
POSITIONS: dict[str, tuple[int, int]] = {
    "centre": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
SIZES = ("small", "large")
COUNTS = (1, 2, 3)

SHAPES = tuple(PLURALS)
ATTRIBUTES = ("shape", "colour", "size", "background", "position", "count")

HELD_OUT = 200
SPLIT_SEED = 20240


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One to three equal shapes on a plain background.

    Shape, colour, size and background make the *combination* that the split holds out or trains
    on; count and position vary freely within it.

    Attributes:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: One of `SIZES`.
        background: A key of `BACKGROUNDS`.
        position: A key of `POSITIONS`; several large shapes only fit in the centre.
        count: One of `COUNTS`.
    """

    shape: str
    colour: str
    size: str
    background: str
    position: str = "centre"
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _require("shape", self.shape, SHAPES)
        _require("colour", self.colour, tuple(COLOURS))
        _require("size", self.size, SIZES)
        _require("background", self.background, tuple(BACKGROUNDS))
        _require("count", self.count, COUNTS)
        _require("position", self.position, positions(self.size, self.count))


@cache
def all_combinations() -> tuple[Scene, ...]:
    """List every combination of shape, colour, size and background, as a single centred shape."""
    return tuple(
        Scene(shape=shape, colour=colour, size=size, background=background)
        for shape, colour, size, background in product(SHAPES, COLOURS, SIZES, BACKGROUNDS)
    )


@cache
def held_out(count: int = HELD_OUT, seed: int = SPLIT_SEED) -> tuple[Scene, ...]:
    """List the combinations that training never sees, in a seeded order."""
    combinations = all_combinations()
    if not 0 < count < len(combinations):
        raise ValueError(
            f"cannot hold out {count} of {len(combinations)} combinations; "
            f"ask for 1 to {len(combinations) - 1}"
        )
    rng = Random(seed)  # noqa: S311  # pictures, not secrets
    return tuple(rng.sample(combinations, count))


@cache
def training(count: int = HELD_OUT, seed: int = SPLIT_SEED) -> tuple[Scene, ...]:
    """List the combinations that `held_out` leaves for training."""
    hidden = set(held_out(count, seed))
    return tuple(scene for scene in all_combinations() if scene not in hidden)


@cache
def families() -> tuple[tuple[Scene, ...], ...]:
    """Group the combinations for training by all but shape, the hardest thing to tell apart."""
    grouped: dict[tuple[str, ...], list[Scene]] = {}
    for scene in training():
        grouped.setdefault((scene.colour, scene.size, scene.background), []).append(scene)
    return tuple(tuple(family) for family in grouped.values())


def arrange(scene: Scene, rng: Random) -> Scene:
    """Give a scene another count and position; half of all scenes have one shape."""
    count = rng.choice((1, 1, 2, 3))
    return replace(scene, count=count, position=rng.choice(positions(scene.size, count)))


def _require(what: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise ValueError(f"{what} {value!r} cannot be drawn here; choose one of {list(known)}")


@cache
def extent(size: str, count: int) -> tuple[float, float]:
    """Give a shape's radius and its distance from the group's centre, in parts of the side."""
    single, grouped = {"small": (0.12, 0.105), "large": (0.30, 0.20)}[size]
    if count == 1:
        return single, 0.0
    # Neighbours on a circle must be two radii apart, and a little more to be told apart.
    return grouped, 1.1 * grouped / math.sin(math.pi / count)


@cache
def positions(size: str, count: int) -> tuple[str, ...]:
    """List where a group of this size and count has room."""
    in_a_corner = sum(extent(size, count)) <= 0.36  # else it would reach across the centre
    return tuple(POSITIONS) if in_a_corner else ("centre",)
