"""The one vector of a query of several terms: their weighted sum, shape (dim,)."""

from collections.abc import Callable, Sequence

import numpy as np

from warmclip.errors import SearchRefused
from warmclip.indexing.query import Query, Term
from warmclip.inference.arrays import Vector

_LEAST_LENGTH = 1e-4  # of the sum, per unit of weight; a shorter one is rounding


def combine_terms(query: Query, vector_of: Callable[[Term], Vector]) -> Vector:
    """The vector to search by, shape (dim,), float32; ``vector_of`` a term is of unit length.

    Raises:
        SearchRefused: the terms cancel each other out.
    """
    return combine_vectors([(term.weight, vector_of(term)) for term in query.terms])


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
    weights = np.array([weight for weight, _ in weighted], np.float64)
    weights /= np.abs(weights).max()  # the squares of tiny ones would be nothing
    total = weights @ np.array([vector for _, vector in weighted], np.float64)
    length = float(np.linalg.norm(total))
    if not length > _LEAST_LENGTH * np.abs(weights).sum():
        raise SearchRefused(
            "what is added and what is subtracted cancel each other out: nothing is left to look "
            "for; change a term or its weight"
        )
    unit: Vector = (total / length).astype(np.float32)
    return unit
