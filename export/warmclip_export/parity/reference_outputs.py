"""What open_clip makes of the corpus; every target is compared with it."""

from dataclasses import dataclass

import numpy as np

from warmclip.inference.arrays import (
    Crops,
    Features,
    OneHot,
    Pixels,
    TokenIds,
    Vectors,
    unit_rows,
)
from warmclip.inference.bundle import Tower
from warmclip_export.parity.corpus import Corpus
from warmclip_export.reference import Reference

BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOutputs:
    """The reference's tokens, pixels and unit vectors of the whole corpus.

    Attributes:
        crops: shape (pictures, S, S, 3).
        pixels: shape (pictures, 3, S, S).
        ids: shape (texts, context length).
        eot_onehot: shape (texts, 1, context length).
        vectors: of each tower, shape (n, dim).
    """

    crops: Crops
    pixels: Pixels
    ids: TokenIds
    eot_onehot: OneHot
    vectors: dict[Tower, Vectors]


def compute_outputs(reference: Reference, corpus: Corpus) -> ReferenceOutputs:
    """Run open_clip over the corpus, from files and strings to unit vectors."""
    opened = [entry.load() for entry in corpus.pictures]
    pixels = reference.pixels(opened)
    ids = reference.token_ids(corpus.texts)
    return ReferenceOutputs(
        crops=np.stack([reference.crop(picture) for picture in opened]),
        pixels=pixels,
        ids=ids,
        eot_onehot=reference.eot_onehot(ids),
        vectors=compute_vectors(reference, pixels, ids),
    )


def compute_vectors(reference: Reference, pixels: Pixels, ids: TokenIds) -> dict[Tower, Vectors]:
    """open_clip's unit vectors of prepared pictures and texts."""
    image = [reference.image_features(pixels[at : at + BATCH]) for at in _starts(len(pixels))]
    text = [reference.text_features(ids[at : at + BATCH]) for at in _starts(len(ids))]
    return {"image": _unit(image), "text": _unit(text)}


def _starts(n: int) -> range:
    return range(0, n, BATCH)


def _unit(parts: list[Features]) -> Vectors:
    features = np.concatenate(parts)
    return unit_rows(features, features.shape[1])
