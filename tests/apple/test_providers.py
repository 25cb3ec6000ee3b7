"""Each CoreML provider on each tower: whole, right, kept once compiled, and how fast."""

from collections.abc import Callable

import numpy as np
import pytest

from apple.conftest import Trials
from apple.machine import GPU, VARIANTS, gpu_fault
from apple.measurement import finished, leave_witnesses, per_second
from apple.table import MEASURED
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.providers import PROVIDERS
from warmclip.inference.selection.provider_selection import TOWERS
from warmclip.inference.selection.trial import BATCHES, Trial
from warmclip_export.catalog import resolve_model

Record = Callable[[str, object], None]

_BATCH = BATCHES[-1]


def test_trial(
    trials: Trials, bundle: ModelBundle, variant: str, tower: Tower, record_property: Record
) -> None:
    """It passes, or is refused for a stated reason; what crashes or hangs is a failure."""
    trial = trials.of(bundle, variant, tower)
    record_property(MEASURED, _figures(trial))
    assert not trial.died, trial.reason
    assert trial.passed or trial.reason


def test_tower_is_one_partition(
    trials: Trials, bundle: ModelBundle, variant: str, tower: Tower, record_property: Record
) -> None:
    """CoreML takes the whole graph in one piece and leaves no node to the CPU, at any bucket."""
    trial = trials.of(bundle, variant, tower)
    record_property(MEASURED, f"partitions {trial.partitions}, CPU nodes {trial.cpu_nodes}")
    assert (trial.partitions, trial.cpu_nodes) == (1, 0), trial.reason


def test_one_variant_may_serve(
    trials: Trials, bundle: ModelBundle, record_property: Record
) -> None:
    """At least one way of asking for CoreML computes both towers right."""
    record_property(MEASURED, trials.best(bundle))


def test_second_load_builds_nothing(
    trials: Trials, full: ModelBundle, variant: str, record_property: Record
) -> None:
    """Another process loads what the first has compiled, for every bucket of both towers."""
    provider = PROVIDERS[variant]
    cold = {tower: trials.of(full, variant, tower) for tower in TOWERS}
    trials.require(full, variant)
    if provider.cache_option is None:
        pytest.skip(f"{variant} compiles nothing")
    compiled = ModelCache(trials.home).folder
    witnesses = leave_witnesses(compiled)
    assert len(witnesses) >= len(TOWERS) * len(provider.buckets)
    for tower in TOWERS:
        again = trials.again(full, variant, tower)
        seconds = (f"{it.load_s:.1f}" if it.load_s else "?" for it in (cold[tower], again))
        record_property(MEASURED, "{} cold {} s, cached {} s".format(tower, *seconds))
        assert again.passed, again.reason
    assert [str(it.parent) for it in witnesses] == [str(it) for it in finished(compiled)]
    assert all(witness.exists() for witness in witnesses)


def test_images_per_second(trials: Trials, full: ModelBundle, record_property: Record) -> None:
    """For the record: the image tower on CoreML, on the CPU, and in torch on MPS."""
    for name in dict.fromkeys((*VARIANTS, "cpu")):
        trial = trials.of(full, name, "image")
        rate = trial.images_per_s.get(_BATCH)
        record_property(MEASURED, f"{name} {rate:.1f}" if rate else f"{name}: {trial.reason}")
    record_property(MEASURED, f"open_clip on {GPU} {gpu_fault() or f'{_torch_rate():.1f}'}")
    record_property(MEASURED, f"batches of {_BATCH}")
    assert trials.of(full, "cpu", "image").passed


def _torch_rate() -> float:
    """Images a second of open_clip's own image tower."""
    from warmclip_export.reference import Reference, find_device

    reference = Reference.build(resolve_model("ViT-B-32", "random:0"), None)
    reference.move(find_device("cpu" if GPU == "cpu" else "mps"))
    pixels = np.zeros((_BATCH, 3, 224, 224), np.float32)
    return per_second(lambda: reference.image_features(pixels), _BATCH)


def _figures(trial: Trial) -> str:
    if not trial.passed:
        return f"refused: {trial.reason}"
    rates = ", ".join(f"{rate:.1f}/s at {batch}" for batch, rate in trial.images_per_s.items())
    return (
        f"cosine {trial.cosine:.7f}, max-abs {trial.max_abs:.1e}, load {trial.load_s:.1f} s, "
        f"peak {trial.peak_rss_mb:.0f} MiB, {rates}"
    )
