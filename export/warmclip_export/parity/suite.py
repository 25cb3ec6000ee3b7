"""The whole comparison of a bundle with open_clip: every stage, every provider, both activations.

Unlike the gate of an export it goes on after a stage that fails: each stage gets the reference's
own input, so that one error does not spread to the stages after it, and all are reported. Only the
stages called "end to end" run the real Encoder, as users do.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from warmclip.inference.bundle import ModelBundle
from warmclip_export.catalog import Activation, ModelRecipe
from warmclip_export.errors import ExportRefused
from warmclip_export.parity.comparison import BothTowers, select_queries
from warmclip_export.parity.corpus import Corpus
from warmclip_export.parity.input_stages import check_pixels, check_reference, check_tokens
from warmclip_export.parity.reference_outputs import (
    ReferenceOutputs,
    compute_outputs,
    compute_vectors,
)
from warmclip_export.parity.result import Record, Result
from warmclip_export.parity.retrieval import open_searches
from warmclip_export.parity.target_stages import RUNS, TargetStages
from warmclip_export.parity.targets import Targets
from warmclip_export.reference import Device, Reference, describe_reference
from warmclip_export.versions import made_with
from warmclip_export.weights import fetch_checkpoint

Step: TypeAlias = Callable[[str], None]
"""Called with what is done next."""


def count_steps(targets: Targets) -> int:
    """How many steps ``check_bundle`` takes."""
    return 7 + 4 * len(targets.present)


def check_bundle(
    bundle: ModelBundle,
    recipe: ModelRecipe,
    corpus: Corpus,
    targets: Targets,
    device: Device,
    *,
    step: Step,
) -> Result:
    """Measure every stage; a stage that fails is in the result, and raises nothing.

    Args:
        bundle: whose files are measured.
        recipe: the model it was made of.
        corpus: the pictures and texts.
        targets: the providers and precisions that the bundle is computed with.
        device: where open_clip is computed.
        step: called before each step.

    Raises:
        ExportRefused: the recipe is not that of the bundle.
        BundleError: one of the bundle's files was altered.
        WeightsUnavailable: the weights of a tag could not be had.
    """
    started = time.monotonic()
    manifest = bundle.manifest
    record = Record()
    step("verify the files")
    bundle.verify()
    step("fetch the weights")
    checkpoint = fetch_checkpoint(recipe.weights, file_options=recipe.file_options)
    step("build open_clip's model")
    reference = Reference.build(recipe, checkpoint)
    if reference.tensors_sha256() != manifest.tensors_sha256:
        raise ExportRefused(
            f"{recipe.weights.name!r} are not the weights of {bundle.folder}, which were "
            f"{manifest.weights.source} {manifest.weights.name!r}; name them with --pretrained"
        )
    step(f"run open_clip on {len(corpus.pictures)} pictures and {len(corpus.texts)} texts")
    reference.move(device)
    expected = compute_outputs(reference, corpus)
    if device != "cpu":
        check_reference(record, reference, expected)
    step("run open_clip with the other activation")
    others = _with_other_activation(recipe, checkpoint, device, expected)
    step("check tokens and pixels")
    check_tokens(record, bundle, corpus, expected)
    check_pixels(record, bundle, corpus, expected)
    step("search open_clip's own vectors")
    with (
        open_searches(expected.vectors["image"], select_queries(expected.vectors)) as own_searches,
        open_searches(others["image"], select_queries(others)) as other_searches,
    ):
        for target in targets.present:
            stages = TargetStages(record, bundle, corpus, expected, target)
            step(f"{target}: both towers")
            stages.check_towers()
            stages.check_emulated()
            step(f"{target}: in other batches, and {RUNS} times over")
            stages.check_repeatability()
            step(f"{target}: from files and strings to vectors")
            stages.check_encoder()
            step(f"{target}: searches")
            stages.check_compatibility(recipe, own_searches, others, other_searches)
    return Result(
        bundle=str(bundle.folder),
        fingerprint=manifest.fingerprint,
        is_random=manifest.is_random,
        activation=recipe.matches,
        reference=describe_reference(recipe, device),
        versions=made_with(),
        record=record,
        absent=targets.absent,
        pictures=tuple(entry.name for entry in corpus.pictures),
        crops=expected.crops,
        texts=corpus.texts,
        every=corpus.every,
        seconds=time.monotonic() - started,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _with_other_activation(
    recipe: ModelRecipe, checkpoint: Path | None, device: Device, expected: ReferenceOutputs
) -> BothTowers:
    """The unit vectors of the same weights, computed with the activation that is not theirs."""
    activation = Activation(quick_gelu=not recipe.activation.quick_gelu)
    reference = Reference.build(replace(recipe, activation=activation), checkpoint)
    reference.move(device)
    return compute_vectors(reference, expected.pixels, expected.ids)
