"""How pictures look: small copies, hashes, and which of them are alike."""

from collections.abc import Sequence
from itertools import chain, combinations, pairwise, repeat, starmap
from operator import xor
from pathlib import Path

from PIL import Image

_ALIKE = 10  # bits in which the hashes of two pictures may differ


def shrink(path: str, to: Path, side: int = 256) -> None:
    """Write a small copy; it is there whole or not at all."""
    with Image.open(path) as picture:
        picture.thumbnail((side, side))
        unfinished = to.with_suffix(".part")
        picture.convert("RGB").save(unfinished, "JPEG")
    unfinished.replace(to)


def difference_hash(path: str) -> str:
    """64 bits, in hexadecimal: whether each of 8 x 8 places is brighter than its neighbour."""
    with Image.open(path) as picture:
        grey = picture.convert("L").resize((9, 8)).tobytes()
    rows = [grey[start : start + 9] for start in range(0, 72, 9)]
    bits = [left > right for row in rows for left, right in pairwise(row)]
    return f"{sum(bit << place for place, bit in enumerate(bits)):016x}"


def count_alike(hashes: Sequence[str], rounds: int = 1) -> int:
    """How many pairs look alike.

    All of it happens in C, in one call that lets no other thread of Python run meanwhile, as
    hdbscan and other native code do. More rounds only take longer.
    """
    numbers = [int(it, 16) for it in hashes]
    pairs = chain.from_iterable(map(combinations, repeat(numbers, rounds), repeat(2)))
    distances = map(int.bit_count, starmap(xor, pairs))
    return sum(map(_ALIKE.__ge__, distances)) // rounds
