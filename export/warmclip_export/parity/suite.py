"""The whole comparison of a bundle with open_clip: every stage, every provider, both activations.

Unlike the gate of an export it stops at nothing that strays: each stage gets the reference's own
input, so that one spoils none behind it, and all are reported. Only the stages called "end to
end" run through the real Encoder and see what its users see.
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
from warmclip_export.parity.comparison import BothTowers, queries
from warmclip_export.parity.corpus import Corpus
from warmclip_export.parity.input_stages import check_pixels, check_reference, check_tokens
from warmclip_export.parity.reference_outputs import Truth, embed, observe
from warmclip_export.parity.result import Outcome, Record
from warmclip_export.parity.retrieval import searches
from warmclip_export.parity.target_stages import RUNS, WayStages
from warmclip_export.parity.targets import Ways
from warmclip_export.reference import Device, Reference, describe
from warmclip_export.versions import made_with
from warmclip_export.weights import fetch

Step: TypeAlias = Callable[[str], None]
"""Called with what is done next."""


def steps(ways: Ways) -> int:
    """How many steps ``check_bundle`` takes."""
    return 7 + 4 * len(ways.present)


def check_bundle(
    bundle: ModelBundle,
    recipe: ModelRecipe,
    corpus: Corpus,
    ways: Ways,
    device: Device,
    *,
    step: Step,
) -> Outcome:
    """Measure every stage; what strays is in the outcome, not raised.

    Args:
        bundle: whose files are measured.
        recipe: the model it was made of.
        corpus: the pictures and texts.
        ways: in which the bundle is computed.
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
    checkpoint = fetch(recipe.weights)
    step("build open_clip's model")
    reference = Reference.build(recipe, checkpoint)
    if reference.tensors_sha256() != manifest.tensors_sha256:
        raise ExportRefused(
            f"{recipe.weights.name!r} are not the weights of {bundle.folder}, which were "
            f"{manifest.weights.source} {manifest.weights.name!r}; name them with --pretrained"
        )
    step(f"run open_clip on {len(corpus.pictures)} pictures and {len(corpus.texts)} texts")
    reference.move(device)
    truth = observe(reference, corpus)
    if device != "cpu":
        check_reference(record, reference, truth)
    step("run open_clip with the other activation")
    others = _with_other_activation(recipe, checkpoint, device, truth)
    step("check tokens and pixels")
    check_tokens(record, bundle, corpus, truth)
    check_pixels(record, bundle, corpus, truth)
    step("search open_clip's own vectors")
    with (
        searches(truth.vectors["image"], queries(truth.vectors)) as own_searches,
        searches(others["image"], queries(others)) as other_searches,
    ):
        for way in ways.present:
            stages = WayStages(record, bundle, corpus, truth, way)
            step(f"{way}: both towers")
            stages.check_towers()
            stages.check_emulated()
            step(f"{way}: in other batches, and {RUNS} times over")
            stages.check_steadiness()
            step(f"{way}: from files and strings to vectors")
            stages.check_encoder()
            step(f"{way}: searches")
            stages.rule(recipe, own_searches, others, other_searches)
    return Outcome(
        bundle=str(bundle.folder),
        fingerprint=manifest.fingerprint,
        is_random=manifest.is_random,
        activation=recipe.matches,
        reference=describe(recipe, device),
        versions=made_with(),
        record=record,
        absent=ways.absent,
        pictures=tuple(exhibit.name for exhibit in corpus.pictures),
        crops=truth.crops,
        texts=corpus.texts,
        seconds=time.monotonic() - started,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _with_other_activation(
    recipe: ModelRecipe, checkpoint: Path | None, device: Device, truth: Truth
) -> BothTowers:
    """The unit vectors of the same weights, computed with the activation that is not theirs."""
    activation = Activation(quick_gelu=not recipe.activation.quick_gelu)
    reference = Reference.build(replace(recipe, activation=activation), checkpoint)
    reference.move(device)
    return embed(reference, truth.pixels, truth.ids)
