"""Several vectors as one: what is between pictures that are searched for, or away from them."""

from collections.abc import Sequence

import numpy as np

from warmclip.errors import SearchRefused
from warmclip.inference.arrays import Vector

_LEAST_LENGTH = 1e-4  # of the sum, by that of the weights: below it only rounding has a direction


def combine_vectors(weighted: Sequence[tuple[float, Vector]]) -> Vector:
    """The weighted sum of unit vectors, made a unit vector again, shape (dim,), float32.

    A single vector with a weight above zero is returned as it is.

    Args:
        weighted: weight and vector of each term, at least one; weights are finite and not zero.

    Raises:
        SearchRefused: the vectors cancel each other out.
    """
    if len(weighted) == 1 and weighted[0][0] > 0:
        return weighted[0][1]
    weights = np.array([weight for weight, _ in weighted])
    total = weights @ np.array([vector for _, vector in weighted], np.float64)
    length = float(np.linalg.norm(total))
    if not length > _LEAST_LENGTH * np.abs(weights).sum():
        raise SearchRefused(
            "what is added and what is subtracted cancel each other out: nothing is left to look "
            "for; change a term or its weight"
        )
    unit: Vector = (total / length).astype(np.float32)
    return unit
