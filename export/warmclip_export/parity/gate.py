"""The gate: each stage of a bundle against open_clip, with a figure and a threshold.

A bundle is written only if every stage is within its threshold; the figures become its
certificate. Stages run in the order of the data, so the first that fails has the error.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from warmclip.errors import BadVectors
from warmclip.inference.arrays import Crop, Features, Vectors, unit_rows
from warmclip.inference.bundle import ImageRecipe, Precision, Tower
from warmclip.inference.image import make_crop, normalise
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.text import Tokenizer
from warmclip.settings import Limits
from warmclip_export.errors import ParityFailed
from warmclip_export.fp16.emulation import emulate_fp16
from warmclip_export.parity.bounds import PIXEL_DIFFERENCE, cpu_bounds
from warmclip_export.parity.finding import ANY_COSINE, Finding, Measure
from warmclip_export.reference import Reference
from warmclip_export.samples import Samples

Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]

BATCHES = (1, 2, 7, 32)


class Gate:
    """Compares with one reference on one set of samples; keeps what it found.

    Attributes:
        findings: of the stages so far, all passed.
        feeds: each tower's inputs by name.
        features: what open_clip makes of them, shape (n, dim).
        vectors: the same as unit vectors.
    """

    def __init__(self, reference: Reference, samples: Samples) -> None:
        self.findings: list[Finding] = []
        self._reference = reference
        self._samples = samples
        ids = reference.token_ids(samples.texts)
        pixels = reference.pixels(samples.pictures)
        self.feeds: dict[Tower, Feeds] = {
            "image": {"pixel_values": pixels},
            "text": {"input_ids": ids, "eot_onehot": reference.eot_onehot(ids)},
        }
        self.features: dict[Tower, Features] = {
            "image": reference.image_features(pixels),
            "text": reference.text_features(ids),
        }
        self.dim = self.features["image"].shape[1]
        self.vectors: dict[Tower, Vectors] = {
            tower: unit_rows(features, self.dim) for tower, features in self.features.items()
        }

    def check_tokens(self, tokenizer: Tokenizer) -> None:
        """The runtime's tokens are open_clip's, for every string."""
        ids, eot_onehot = tokenizer.encode(self._samples.strings)
        expected = self._reference.token_ids(self._samples.strings)
        same = (ids == expected).all(axis=1)
        same &= (eot_onehot == self._reference.eot_onehot(expected)).all(axis=(1, 2))
        self._record("tokens", "texts that differ", int((~same).sum()), 0)

    def check_pixels(self, recipe: ImageRecipe) -> Crop:
        """The runtime's crops are open_clip's to the byte; returns them, (n, S, S, 3)."""
        limits = Limits()
        crops = np.stack([make_crop(each, recipe, limits) for each in self._samples.pictures])
        theirs = [self._reference.crop(each) for each in self._samples.pictures]
        differ = sum(not np.array_equal(*pair) for pair in zip(crops, theirs, strict=True))
        self._record("crops", "crops that differ", differ, 0)
        pixels = normalise(crops, recipe)
        figure = float(np.abs(pixels - self.feeds["image"]["pixel_values"]).max())
        self._record("pixels", "largest difference", figure, PIXEL_DIFFERENCE)
        return crops

    def check_wrapper(self, tower: Tower, wrapper: nn.Module) -> None:
        """The wrapper computes in torch what open_clip computes."""
        inputs = [torch.from_numpy(array) for array in self.feeds[tower].values()]
        with torch.inference_mode():
            features = wrapper(*inputs).numpy()
        self._compare(f"{tower} wrapper in torch", tower, "fp32", features)

    def check_graph(self, tower: Tower, precision: Precision, graph: Path) -> None:
        """The file computes the same in onnxruntime on the CPU, in every batch size and length."""
        session = OnnxSession(graph, find_provider("cpu"))
        for batch in BATCHES:
            feeds = {name: array[:batch] for name, array in self.feeds[tower].items()}
            features = session.run(feeds)
            self._compare(f"{tower} {precision}, batch {batch}", tower, precision, features)
        if tower == "text":
            self._check_lengths(precision, graph, session)
        if precision == "fp16":
            # The CPU computed it in float32: this shows what an accelerator would lose.
            features = emulate_fp16(graph, self.feeds[tower])
            self._compare(f"{tower} fp16 emulated", tower, precision, features)
            self._report_flushed(tower, emulate_fp16(graph, self.feeds[tower], flushes=True))

    def _report_flushed(self, tower: Tower, features: Features) -> None:
        """What a device that flushes subnormals would give: for the record, its trial decides."""
        try:
            vectors = unit_rows(features, self.dim)
        except BadVectors as exc:
            figure, note = 0.0, str(exc)
        else:
            figure = worst_row("fp16", vectors, self.vectors[tower])
            note = "for the record: not every device flushes"
        self.findings.append(
            Finding(
                stage=f"{tower} fp16, subnormals flushed",
                measure="lowest cosine",
                figure=figure,
                threshold=ANY_COSINE,
                note=note,
            )
        )

    def _check_lengths(self, precision: Precision, graph: Path, session: OnnxSession) -> None:
        """Each text by itself, as long as it is, and as providers with static shapes compute it."""
        feeds = self.feeds["text"]
        rows = range(len(self.vectors["text"]))
        alone = [session.run({name: array[[row]] for name, array in feeds.items()}) for row in rows]
        self._compare(f"text {precision}, alone", "text", precision, np.concatenate(alone))
        static = replace(session.provider, buckets=BATCHES[-1:])
        whole = OnnxSession(graph, static, length=feeds["input_ids"].shape[1]).run(feeds)
        self._compare(f"text {precision}, whole", "text", precision, whole)

    def _compare(self, stage: str, tower: Tower, precision: Precision, features: Features) -> None:
        expected = self.vectors[tower][: len(features)]
        try:
            vectors = unit_rows(features, self.dim)
        except BadVectors as exc:
            raise ParityFailed(f"{stage}: {exc}; no bundle was written") from exc
        figure, bounds = worst_row(precision, vectors, expected), cpu_bounds(precision)
        if precision == "fp32":
            self._record(stage, "largest difference", figure, bounds.difference)
        else:
            self._record(stage, "lowest cosine", figure, bounds.cosine)

    def _record(self, stage: str, measure: Measure, figure: float, threshold: float) -> None:
        finding = Finding(stage=stage, measure=measure, figure=figure, threshold=threshold)
        if not finding.passed:
            raise ParityFailed(
                f"the export differs from open_clip by more than is allowed. {finding}. "
                "No bundle was written; "
                "please report this with the model's name and `pip freeze`"
            )
        self.findings.append(finding)


def worst_row(precision: Precision, ours: Vectors, theirs: Vectors) -> float:
    """How far the row is off that is furthest off.

    In float32 it is the largest difference of a component, else the lowest cosine.
    """
    if precision == "fp32":
        return float(np.abs(ours - theirs).max())
    return float((ours * theirs).sum(axis=1).min())
