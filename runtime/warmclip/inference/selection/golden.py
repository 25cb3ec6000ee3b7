"""The bundle's golden inputs, and how far a provider's answers may be from the reference's."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from warmclip.errors import BadVectors, BundleError
from warmclip.inference.arrays import Features, Inputs, unit_rows
from warmclip.inference.bundle import ModelBundle, Precision, Tower
from warmclip.inference.image import normalise
from warmclip.inference.providers import Provider
from warmclip.inference.text import one_hot

# What numpy makes of a file that holds something else.
_NO_ARRAYS = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)

Feeds = dict[str, npt.NDArray[Any]]

# The lengths of raw features vary little. Of the demo model's, over 96 photographs, drawings, plain
# colours and noises and 37 texts, all lay within a tenth of the golden ones' range. Four times is
# far from any honest input of a livelier model, and overflow or a lost layer goes farther still.
_NORM_SLACK = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a provider may differ by, on every golden row."""

    cosine: float  # at least
    norm: float  # of the raw length, relative, at most


# fp32 differs by rounding alone: 1e-7 where we measured it, so that an error of 1 % in each value
# (cosine 0.99995) is noticed. fp16 keeps 11 bits, through all layers. int8 keeps 7 or 8: cosine
# 0.998 and lengths within 0.4 % at worst, so that only a coarse error is noticed.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(cosine=0.99999, norm=1e-3),
    "fp16": Tolerance(cosine=0.999, norm=3e-2),
    "int8": Tolerance(cosine=0.995, norm=5e-2),
}


def tolerance(provider: Provider) -> Tolerance:
    """What a provider may differ by."""
    return TOLERANCES[provider.judged_as or provider.precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far some rows are from the golden ones: the worst of them."""

    cosine: float
    max_abs: float  # over the components of unit vectors
    norm: float  # of the raw length, relative

    def fault(self, tolerance: Tolerance) -> str | None:
        """What is wrong; None if nothing is. NaN is wrong."""
        if not self.cosine >= tolerance.cosine:
            return f"cosine {self.cosine:.6f} to the golden vectors, {tolerance.cosine} is needed"
        if not self.norm <= tolerance.norm:
            return (
                f"raw lengths {self.norm:.2%} off the golden ones, {tolerance.norm:.1%} are allowed"
            )
        return None


class Golden:
    """Fixed inputs of both towers, and what the reference made of them; read when first needed.

    Its methods raise BundleError if the file was altered, or holds something else.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        self._bundle = bundle

    @cached_property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        file, manifest = self._bundle.golden(), self._bundle.manifest
        try:
            with np.load(file, allow_pickle=False) as golden:
                arrays = dict(golden)
            images, texts = len(arrays["image_norms"]), len(arrays["text_norms"])
            size_px, length = manifest.image.size_px, manifest.tokenizer.context_length
            for name, shape in {
                "crops": (images, size_px, size_px, 3),
                "image_vectors": (images, manifest.dim),
                "image_norms": (max(images, 1),),
                "input_ids": (texts, length),
                "eot": (texts,),
                "text_vectors": (texts, manifest.dim),
                "text_norms": (max(texts, 1),),
            }.items():
                if arrays[name].shape != shape:
                    raise ValueError(f"{name} is of shape {arrays[name].shape}, not {shape}")
        except _NO_ARRAYS as exc:
            raise BundleError(f"cannot read {file}: {exc!r}; export the model again") from exc
        return arrays

    @cached_property
    def _feeds(self) -> dict[Tower, Feeds]:
        ids = self._arrays["input_ids"]
        recipe = self._bundle.manifest.image
        return {
            "image": {"pixel_values": normalise(self._arrays["crops"], recipe)},
            "text": {
                "input_ids": ids,
                "eot_onehot": one_hot(self._arrays["eot"], ids.shape[1]),
            },
        }

    def rows(self, tower: Tower) -> int:
        """How many there are."""
        return len(self._arrays[f"{tower}_norms"])

    def feeds(self, tower: Tower, rows: npt.NDArray[np.intp]) -> Feeds:
        """These rows as a tower takes them."""
        return {name: array[rows] for name, array in self._feeds[tower].items()}

    def compare(self, tower: Tower, features: Features, rows: npt.NDArray[np.intp]) -> Comparison:
        """Compare a tower's features of these rows with the reference's.

        Raises:
            BadVectors: they are no vectors at all.
        """
        expected = self._arrays[f"{tower}_vectors"][rows]
        norms = self._arrays[f"{tower}_norms"][rows]
        vectors = unit_rows(features, expected.shape[1])
        return Comparison(
            cosine=float(np.min(np.sum(vectors * expected, axis=1))),
            max_abs=float(np.max(np.abs(vectors - expected))),
            norm=float(np.max(np.abs(np.linalg.norm(features, axis=1) / norms - 1))),
        )

    def check(
        self,
        tower: Tower,
        precision: Precision,
        run: Callable[[Inputs], Features],
        is_new: bool,
    ) -> None:
        """Have a tower reproduce golden rows: all of them if it is new, else one.

        Raises:
            BadVectors: it does not.
        """
        rows = np.arange(self.rows(tower) if is_new else 1)
        features = run(self.feeds(tower, rows))
        fault = self.compare(tower, features, rows).fault(TOLERANCES[precision])
        if fault is not None:
            raise BadVectors(f"it computes wrong {tower} vectors: {fault}")

    def norm_range(self, tower: Tower) -> tuple[float, float]:
        """Between what lengths the raw features of any honest input lie."""
        norms = self._arrays[f"{tower}_norms"]
        return float(norms.min()) / _NORM_SLACK, float(norms.max()) * _NORM_SLACK
