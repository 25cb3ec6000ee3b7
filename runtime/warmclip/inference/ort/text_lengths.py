"""Texts computed only as long as they are.

Attention in a text tower is causal, and the features are taken where the text ends: what follows
decides nothing. So a graph whose ``length`` is free is given texts that are cut to the longest of
a run, and texts of like lengths run together.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from warmclip.inference.arrays import Features, Inputs, OneHot

LENGTH_AXIS = "length"
"""How our graphs call the axis, the last of each input; where it is a number, it is fixed."""

_ENDS = "eot_onehot"
# What another run costs beside its tokens, in tokens: the weights are read once more. ViT-B-32's
# text tower took as long for it as for ten tokens.
_RUN_TOKENS = 10


def has_free_lengths(inputs: Iterable[Any]) -> bool:
    """Whether a graph with these inputs, in onnxruntime's words, takes texts of any length."""
    return all(it.shape[-1:] == [LENGTH_AXIS] for it in inputs)


def text_lengths(eot_onehot: OneHot) -> npt.NDArray[np.intp]:
    """The tokens of each text to its end, shape (n,)."""
    lengths: npt.NDArray[np.intp] = eot_onehot[:, 0].argmax(axis=1) + 1
    return lengths


def run_trimmed(run: Callable[[Inputs], Features], feeds: Inputs) -> Features:
    """Run texts as long as they are, shape (n, dim), in the order given."""
    lengths = text_lengths(feeds[_ENDS])
    groups = same_length_runs(lengths)
    parts = [
        run({name: array[rows][..., : lengths[rows].max()] for name, array in feeds.items()})
        for rows in groups
    ]
    features: Features = np.concatenate(parts)[np.argsort(np.concatenate(groups))]
    return features


def same_length_runs(lengths: npt.NDArray[np.intp]) -> Sequence[npt.NDArray[np.intp]]:
    """The rows of each run: none is padded by more than another run would cost."""
    order = np.argsort(lengths, kind="stable")
    ends: list[int] = []
    first = padding = 0
    for place in range(1, len(order)):
        padding += (place - first) * int(lengths[order[place]] - lengths[order[place - 1]])
        if padding > _RUN_TOKENS:
            ends.append(place)
            first, padding = place, 0
    return np.split(order, ends)
