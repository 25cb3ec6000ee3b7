"""Synthetic scenes: coloured shapes on plain backgrounds, and sentences that describe them.

The demo model is trained on these and `make demo` searches among them, so this module needs
Pillow alone: it also runs where torch is not installed. Everything random takes a
`random.Random`; the same seed gives the same scenes, pixels and words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

Point = tuple[float, float]
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

_SUPERSAMPLING = 3
_MARGIN = 0.03  # of the side: how close to the edge a shape may come
_TILT_DEGREES = 8.0  # more would turn squares into diamonds
_COLOUR_JITTER = 6

_SYNONYMS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big"),
    "grey": ("grey", "grey", "gray"),
    1: ("a", "a", "one", "a single"),
    2: ("two", "two", "2"),
    3: ("three", "three", "3"),
}
_OPENINGS = ("", "", "", "a picture of ", "a photo of ", "a drawing of ", "an image of ")


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
        _require("position", self.position, _positions(self.size, self.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A sentence that is true of a scene, and what it speaks of.

    Attributes:
        text: The sentence.
        mentions: The attributes it names. Besides, a singular or plural noun always tells one
            shape from several.
    """

    text: str
    mentions: frozenset[str]

    def fits(self, described: Scene, other: Scene) -> bool:
        """Tell whether the sentence, written for one scene, is true of another."""
        return (described.count == 1) == (other.count == 1) and all(
            getattr(described, name) == getattr(other, name) for name in self.mentions
        )


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
    return replace(scene, count=count, position=rng.choice(_positions(scene.size, count)))


def draw(scene: Scene, rng: Random, side_px: int) -> Image.Image:
    """Draw a scene as an RGB square; tint, tilt and exact place are the random part."""
    canvas = Image.new("RGB", (side_px, side_px), _tinted(BACKGROUNDS[scene.background], rng))
    colour = _tinted(COLOURS[scene.colour], rng)
    radius, spread = _extent(scene.size, scene.count)
    scale = rng.uniform(0.9, 1.0)
    radius, spread = radius * scale, spread * scale
    centre_x, centre_y = _place(scene.position, radius + spread, rng)
    turn = rng.uniform(0.0, math.tau)
    for index in range(scene.count):
        angle = turn + math.tau * index / scene.count
        mask = _stencil(scene.shape, radius * side_px, rng.uniform(-_TILT_DEGREES, _TILT_DEGREES))
        left = (centre_x + spread * math.cos(angle)) * side_px - mask.width / 2
        top = (centre_y + spread * math.sin(angle)) * side_px - mask.height / 2
        canvas.paste(colour, (round(left), round(top)), mask)
    return canvas


def captions(scene: Scene) -> tuple[str, ...]:
    """Describe a scene in fixed phrasings; the first, without position, is for evaluation."""
    things = _things(scene, frozenset(ATTRIBUTES), None)
    place, ground = _place_words(scene, None), f"on a {scene.background} background"
    return (
        f"{things} {ground}",
        f"{things} {place} {ground}",
        f"a picture of {things} {ground}",
        f"a {scene.background} background with {things} {place}",
        f"{things} on {scene.background}",
    )


def short_caption(scene: Scene) -> Caption:
    """Describe a scene as people search: "a red star", "blue circles"."""
    mentions = frozenset({"colour", "shape"})
    return Caption(text=_things(scene, mentions, None), mentions=mentions)


def caption(scene: Scene, rng: Random) -> Caption:
    """Describe a scene as somebody might: in a random phrasing, often leaving things out."""
    mentions = frozenset(
        name
        for name, probability in (
            ("shape", 0.95),
            ("colour", 0.9),
            ("size", 0.75),
            ("background", 0.75),
            ("position", 0.3),
            ("count", 0.75),
        )
        if rng.random() < probability
    )
    things = _things(scene, mentions, rng)
    place = f" {_place_words(scene, rng)}" if "position" in mentions else ""
    if "background" not in mentions:
        return Caption(text=f"{rng.choice(_OPENINGS)}{things}{place}", mentions=mentions)
    ground = _word(scene.background, rng)
    sentence = rng.choice(
        (
            f"{things}{place} on a {ground} background",
            f"{things}{place} on a {ground} background",
            f"{things}{place} on {ground}",
            f"a {ground} background with {things}{place}",
        )
    )
    return Caption(text=f"{rng.choice(_OPENINGS)}{sentence}", mentions=mentions)


def write_gallery(folder: Path, count: int, seed: int, side_px: int = 256) -> tuple[Path, ...]:
    """Draw held-out scenes as PNG files whose names say what is in them.

    Args:
        folder: Where to write; made if absent.
        count: How many pictures, at most the number of held-out combinations.
        seed: Decides which combinations, and how each is drawn.
        side_px: Width and height of a picture in pixels.

    Returns:
        The files, in the order of the numbers in their names.

    Raises:
        ValueError: More pictures were asked for than there are held-out combinations.
    """
    combinations = held_out()
    if not 0 <= count <= len(combinations):
        raise ValueError(
            f"cannot draw {count} different held-out scenes; ask for 0 to {len(combinations)}"
        )
    rng = Random(seed)  # noqa: S311  # pictures, not secrets
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, combination in enumerate(rng.sample(combinations, count)):
        scene = arrange(combination, rng)
        path = folder / f"{_slug(scene)}-{number:03d}.png"
        draw(scene, rng, side_px).save(path)
        paths.append(path)
    return tuple(paths)


def _require(what: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise ValueError(f"{what} {value!r} cannot be drawn here; choose one of {list(known)}")


def _slug(scene: Scene) -> str:
    number = {1: "", 2: "two-", 3: "three-"}[scene.count]
    noun = scene.shape if scene.count == 1 else PLURALS[scene.shape]
    return f"{number}{scene.size}-{scene.colour}-{noun}-on-{scene.background}"


def _word(word: str | int, rng: Random | None) -> str:
    choices = _SYNONYMS.get(word, (str(word),))
    return choices[0] if rng is None else rng.choice(choices)


def _things(scene: Scene, mentions: frozenset[str], rng: Random | None) -> str:
    """Name the shapes, as in "two small blue circles" or, with less said, "blue circles"."""
    one = scene.count == 1
    words = [_word(scene.count, rng)] if "count" in mentions else ["a"] if one else []
    if "size" in mentions:
        words.append(_word(scene.size, rng))
    if "colour" in mentions:
        words.append(scene.colour)
    if "shape" in mentions:
        words.append(scene.shape if one else PLURALS[scene.shape])
    else:
        words.append("shape" if one else "shapes")
    phrase = " ".join(words)
    return f"an {phrase[2:]}" if phrase.startswith(("a orange", "a arrow")) else phrase


def _place_words(scene: Scene, rng: Random | None) -> str:
    choices = (
        ("in the centre", "in the middle", "in the center")
        if scene.position == "centre"
        else (f"at the {scene.position}", f"in the {scene.position} corner")
    )
    return choices[0] if rng is None else rng.choice(choices)


@cache
def _extent(size: str, count: int) -> tuple[float, float]:
    """Give a shape's radius and its distance from the group's centre, in parts of the side."""
    single, grouped = {"small": (0.12, 0.105), "large": (0.30, 0.20)}[size]
    if count == 1:
        return single, 0.0
    # Neighbours on a circle must be two radii apart, and a little more to be told apart.
    return grouped, 1.1 * grouped / math.sin(math.pi / count)


@cache
def _positions(size: str, count: int) -> tuple[str, ...]:
    in_a_corner = sum(_extent(size, count)) <= 0.36  # else it would reach across the centre
    return tuple(POSITIONS) if in_a_corner else ("centre",)


def _place(position: str, extent: float, rng: Random) -> Point:
    """Choose the group's centre: as far into its corner as it fits, and slightly off."""
    room = 0.5 - _MARGIN - extent
    wobble = min(0.05, room)

    def along(side: int) -> float:
        off_centre = rng.uniform(-wobble, wobble) * (1.0 if side else 0.6)
        return 0.5 + side * (room - wobble) + off_centre

    across, down = POSITIONS[position]
    return along(across), along(down)


def _tinted(colour: Rgb, rng: Random) -> Rgb:
    red, green, blue = (
        min(255, max(0, channel + rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER)))
        for channel in colour
    )
    return red, green, blue


def _stencil(shape: str, radius_px: float, tilt_degrees: float) -> Image.Image:
    """Draw the antialiased mask of one shape."""
    side_px = math.ceil(2 * radius_px) + 2
    mask = Image.new("L", (side_px * _SUPERSAMPLING, side_px * _SUPERSAMPLING))
    pen = ImageDraw.Draw(mask)
    rim, hole = _outline(shape)
    tilt = math.radians(tilt_degrees)
    across, along = (f(tilt) * radius_px * _SUPERSAMPLING for f in (math.cos, math.sin))
    middle = mask.width / 2
    for points, ink in ((rim, 255), (hole, 0)):
        if points:
            pen.polygon(
                [
                    (middle + x * across - y * along, middle + x * along + y * across)
                    for x, y in points
                ],
                fill=ink,
            )
    return mask.reduce(_SUPERSAMPLING)


@cache
def _outline(shape: str) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Give the rim of a shape inside the unit circle, y downwards, and what is cut out of it."""
    match shape:
        case "circle":
            return _round(0.95), ()
        case "square":
            return ((-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)), ()
        case "triangle":
            return ((0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)), ()
        case "star":
            return _spokes(5, 0.42), ()
        case "heart":
            return _heart(), ()
        case "cross":
            arm = 0.3
            corner = ((arm, -arm), (arm, -0.95), (-arm, -0.95))
            # The same three corners, turned by a quarter four times.
            turns = ((1, 0), (0, -1), (-1, 0), (0, 1))
            return tuple((x * c - y * s, x * s + y * c) for c, s in turns for x, y in corner), ()
        case "diamond":
            return ((0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)), ()
        case "ring":
            return _round(0.95), _round(0.55)
        case "moon":
            return _round(0.95), _round(0.8, shift=0.5)
        case "arrow":
            return (
                (-0.95, -0.28), (0.1, -0.28), (0.1, -0.8), (0.95, 0.0),
                (0.1, 0.8), (0.1, 0.28), (-0.95, 0.28),
            ), ()  # fmt: skip
        case _:
            raise ValueError(f"shape {shape!r} has no outline; add it to _outline")


def _round(radius: float, shift: float = 0.0) -> tuple[Point, ...]:
    steps = [math.tau * step / 48 for step in range(48)]
    return tuple((shift + radius * math.cos(angle), radius * math.sin(angle)) for angle in steps)


def _spokes(count: int, inner: float) -> tuple[Point, ...]:
    turns = [(math.pi * step / count, inner if step % 2 else 1.0) for step in range(2 * count)]
    return tuple((reach * math.sin(angle), -reach * math.cos(angle)) for angle, reach in turns)


def _heart() -> tuple[Point, ...]:
    steps = [math.tau * step / 48 for step in range(48)]
    return tuple(
        (
            0.95 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17
            - 0.1,
        )
        for t in steps
    )
