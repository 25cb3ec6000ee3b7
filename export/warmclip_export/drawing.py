"""Scenes as pictures, with Pillow alone."""

import math
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from warmclip_export.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLURALS,
    POSITIONS,
    Rgb,
    Scene,
    arrange,
    extent,
    held_out,
)

Point = tuple[float, float]

_SUPERSAMPLING = 3
_MARGIN = 0.03  # of the side: how close to the edge a shape may come
_TILT_DEGREES = 8.0  # more would turn squares into diamonds
_COLOUR_JITTER = 6


def draw_scene(scene: Scene, rng: Random, side_px: int) -> Image.Image:
    """Draw a scene as an RGB square; tint, tilt and exact place are the random part."""
    canvas = Image.new("RGB", (side_px, side_px), _tinted(BACKGROUNDS[scene.background], rng))
    colour = _tinted(COLOURS[scene.colour], rng)
    radius, spread = extent(scene.size, scene.count)
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
        draw_scene(scene, rng, side_px).save(path)
        paths.append(path)
    return tuple(paths)


def _slug(scene: Scene) -> str:
    number = {1: "", 2: "two-", 3: "three-"}[scene.count]
    noun = scene.shape if scene.count == 1 else PLURALS[scene.shape]
    return f"{number}{scene.size}-{scene.colour}-{noun}-on-{scene.background}"


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
