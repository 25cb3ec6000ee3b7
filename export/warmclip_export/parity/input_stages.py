"""The stages before a model: words to tokens, pictures to crops and pixels."""

import numpy as np

from warmclip.errors import WarmclipError
from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import ImageRecipe, ModelBundle
from warmclip.inference.image import make_crop, normalise, open_decoded
from warmclip.inference.text import Tokenizer
from warmclip.settings import Limits
from warmclip_export.parity.bounds import PIXEL_DIFFERENCE, REFERENCE
from warmclip_export.parity.comparison import Comparison
from warmclip_export.parity.corpus import Corpus, CorpusPicture
from warmclip_export.parity.finding import Finding
from warmclip_export.parity.reference_outputs import ReferenceOutputs, compute_vectors
from warmclip_export.parity.result import Record, WrongCrop
from warmclip_export.reference import Reference

INPUTS = frozenset({"tokens", "crops", "pixels"})
"""The stages before a model, whichever provider runs it."""

_SHOWN = 8


def check_reference(record: Record, reference: Reference, expected: ReferenceOutputs) -> None:
    """How far open_clip on another device is from itself on the CPU; it ends up on the CPU."""
    device = reference.device
    reference.move("cpu")
    on_cpu = compute_vectors(reference, expected.pixels, expected.ids)
    for tower, vectors in expected.vectors.items():
        comparison = Comparison(stage=f"open_clip on {device}, {tower}", bounds=REFERENCE)
        record.findings += comparison.of_vectors(vectors, on_cpu[tower])


def check_tokens(
    record: Record, bundle: ModelBundle, corpus: Corpus, expected: ReferenceOutputs
) -> None:
    """The runtime's tokens are open_clip's, and each text ends where open_clip pools it."""
    tokenizer = Tokenizer.open(bundle.tokenizer(), bundle.manifest.tokenizer)
    differ = []
    for text, ids, onehot in zip(corpus.texts, expected.ids, expected.eot_onehot, strict=True):
        try:
            ours, end = tokenizer.encode([text])
        except WarmclipError as exc:
            differ.append(f"{text[:40]!r}: {exc}")
            continue
        if not (np.array_equal(ours[0], ids) and np.array_equal(end[0], onehot)):
            differ.append(repr(text[:40]))
    record.findings.append(
        Finding(
            stage="tokens",
            measure="texts that differ",
            figure=len(differ),
            threshold=0,
            note=_some(differ),
        )
    )


def check_pixels(
    record: Record, bundle: ModelBundle, corpus: Corpus, expected: ReferenceOutputs
) -> None:
    """The runtime's crops are open_clip's to the byte, and so are their pixels but for rounding."""
    recipe = bundle.manifest.image
    for entry, theirs in zip(corpus.pictures, expected.crops, strict=True):
        try:
            ours: Crop | None = _crop(entry, recipe)
            note = ""
        except WarmclipError as exc:
            ours, note = None, str(exc)
        if ours is None or not np.array_equal(ours, theirs):
            record.wrong_crops.append(
                WrongCrop(name=entry.name, ours=ours, theirs=theirs, note=note)
            )
    record.findings.append(
        Finding(
            stage="crops",
            measure="crops that differ",
            figure=len(record.wrong_crops),
            threshold=0,
            note=_some(list(map(str, record.wrong_crops))),
        )
    )
    # Of open_clip's crops: a wrong crop is the stage before.
    pixels = normalise(expected.crops, recipe)
    record.findings.append(
        Finding(
            stage="pixels",
            measure="largest difference",
            figure=float(np.abs(pixels - expected.pixels).max()),
            threshold=PIXEL_DIFFERENCE,
        )
    )


def _crop(entry: CorpusPicture, recipe: ImageRecipe) -> Crop:
    with open_decoded(entry.source, recipe, Limits()) as (picture, size):
        return make_crop(picture, recipe, Limits(), whole=size)


def _some(culprits: list[str]) -> str:
    more = f", and {len(culprits) - _SHOWN} more" if len(culprits) > _SHOWN else ""
    return ", ".join(culprits[:_SHOWN]) + more
