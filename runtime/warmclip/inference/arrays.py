"""The arrays that travel through warmclip, named once, and what makes a row fit to store."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from warmclip.errors import BadVectors

Crop: TypeAlias = npt.NDArray[np.uint8]
"""One picture after resize and centre crop, shape (size, size, 3), RGB."""

Crops: TypeAlias = npt.NDArray[np.uint8]
"""Several of them, shape (n, size, size, 3)."""

Pixels: TypeAlias = npt.NDArray[np.float32]
"""Normalised pictures, shape (n, 3, size, size)."""

TokenIds: TypeAlias = npt.NDArray[np.int64]
"""Token ids, shape (n, context_length), zero after the end-of-text token."""

OneHot: TypeAlias = npt.NDArray[np.float32]
"""Where each text ends, shape (n, 1, context_length): one 1.0 a row."""

Inputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""A tower's inputs by name, of one length along the first axis, the batch."""

Features: TypeAlias = npt.NDArray[np.float32]
"""A tower's raw output, shape (n, dim), before normalisation."""

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Unit vectors, shape (n, dim)."""

Vector: TypeAlias = npt.NDArray[np.float32]
"""One unit vector, shape (dim,)."""

_MIN_NORM = 1e-6


def unit_rows(features: Features, dim: int) -> Vectors:
    """Normalise raw features to unit vectors, shape (n, dim), in float32 on the host.

    Raises:
        BadVectors: the shape is not (n, dim), or a row is not finite or has no length.
    """
    if features.ndim != 2 or features.shape[1] != dim:
        raise BadVectors(f"the model returned shape {features.shape}, expected (n, {dim})")
    rows = features.astype(np.float32, copy=False)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > _MIN_NORM)))
    if bad.size:
        raise BadVectors(
            f"the model returned {bad.size} unusable rows of {len(rows)} "
            f"(NaN, infinity or zero length), the first at row {bad[0]}"
        )
    unit: Vectors = rows / norms
    return unit
