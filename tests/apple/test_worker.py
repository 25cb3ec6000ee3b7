"""A real worker whose warm horse computes on CoreML."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apple.conftest import DEADLINE_S, Trials
from apple.machine import CHOICES
from apple.measurement import footprint_mb, growth
from apple.table import MEASURED
from faults.conftest import Rig
from running import Running, children, environment_of, eventually, outcome, running_worker
from serving import draw, running_server
from warmclip import Encoder
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.providers import AUTO, PROVIDERS
from warmclip.inference.selection.golden import TOLERANCES
from warmclip.inference.selection.provider_selection import TOWERS, select_providers
from warmclip.settings import Settings

Record = Callable[[str, object], None]

TEXTS = ["a red circle", "a blue square on a green ground"]
_GROUND = 200  # batches, after which memory may be expected to be level
_BATCHES = int(os.environ.get("APPLE_BATCHES", "2000"))
_MOST_GROWTH = 0.2
_PATIENCE_S = int(2 * DEADLINE_S)  # the first job loads the model
_SLEEP_S = float(os.environ.get("SLEEP_SECONDS", "12"))  # more than two heartbeats

pytestmark = pytest.mark.usefixtures("server_binary")


@contextmanager
def worker(trials: Trials, bundle: ModelBundle, choice: str, **more: str) -> Iterator[Running]:
    """A worker of the home where the trials have left what was compiled."""
    environment = environment_of(
        trials.home,
        bundle.folder,
        WARMCLIP_PROVIDER=choice,
        WARMCLIP_TRIAL_SECONDS=str(int(DEADLINE_S)),
        **more,
    )
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


def answer(running: Running, function: str, items: list[str]) -> dict[str, Any]:
    """What one of warmclip's jobs returns."""
    job = running.enqueue(f"warmclip.work.jobs.{function}", items, job_timeout=_PATIENCE_S)
    value = outcome(job, _PATIENCE_S).return_value
    assert value is not None, running.log.read_text()
    found: dict[str, Any] = value
    return found


@pytest.fixture
def pictures(tmp_path: Path, demo_bundle: Path) -> list[str]:
    """Fifty small pictures, each with its own content."""
    return Rig(tmp_path, demo_bundle).pictures(50)


@pytest.mark.parametrize("choice", CHOICES)
def test_warm_horse_computes(
    trials: Trials,
    bundle: ModelBundle,
    choice: str,
    pictures: list[str],
    record_property: Record,
) -> None:
    """Pictures and texts have the CPU's vectors, from one horse that stays."""
    if choice == AUTO:
        decided = select_providers(bundle, AUTO, home=trials.home, deadline_s=DEADLINE_S)
        chosen = decided.chosen
        record_property(MEASURED, "; ".join(f"{it}: {decided.why[it]}" for it in decided.why))
    else:
        trials.require(bundle, choice)
        chosen = dict.fromkeys(TOWERS, choice)
    cpu = Encoder.open(bundle.folder, provider="cpu", home=trials.home)
    expected = {"image": cpu.encode_images(pictures), "text": cpu.encode_texts(TEXTS)}
    with worker(trials, bundle, choice) as running:
        texts = answer(running, "embed_texts", TEXTS)["vectors"]
        horse = running.horse
        images = answer(running, "embed_images", pictures)["vectors"]
        assert running.horse == horse
    found: dict[Tower, Any] = {
        "image": np.array([images[it] for it in pictures]),
        "text": np.array([texts[it] for it in TEXTS]),
    }
    for tower, vectors in found.items():
        lowest = float((vectors * expected[tower]).sum(axis=1).min())
        record_property(MEASURED, f"{tower} on {chosen[tower]}, cosine to the CPU {lowest:.6f}")
        assert lowest >= TOLERANCES[PROVIDERS[chosen[tower]].precision].cosine


def test_next_job_runs_after_a_kill(
    trials: Trials, full: ModelBundle, variant: str, record_property: Record
) -> None:
    """SIGKILL of a horse that has CoreML open: a new one loads the model and answers the same."""
    trials.require(full, variant)
    with worker(trials, full, variant) as running:
        before = answer(running, "embed_texts", TEXTS)["vectors"]
        killed = running.kill_horse(signal.SIGKILL)
        started = time.monotonic()
        after = answer(running, "embed_texts", TEXTS)["vectors"]
        record_property(MEASURED, f"the next answer after {time.monotonic() - started:.1f} s")
        assert running.horse != killed
    for text in TEXTS:
        np.testing.assert_allclose(after[text], before[text], atol=1e-3)


def test_session_goes_on_after_a_sleep(
    trials: Trials, full: ModelBundle, tmp_path: Path, record_property: Record
) -> None:
    """A training session whose worker, horse and server stand still for a while ends whole.

    With ``SLEEP_SECONDS=120`` there is time to close the lid of the Mac meanwhile, and open it.
    """
    provider = trials.best(full)
    folder = tmp_path / "pictures"
    draw(folder, 512)
    roots = {"WARMCLIP_ROOTS": str(folder)}
    environment = environment_of(trials.home, full.folder, WARMCLIP_PROVIDER=provider, **roots)
    with (
        worker(trials, full, provider, **roots) as running,
        running_server(environment) as served,
    ):
        started = time.monotonic()
        session = served.begin(folder)
        eventually(lambda: served.get(session)["done"] > 0, _PATIENCE_S)
        pids = (served.process.pid, running.process.pid, *children(running.process.pid))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(_SLEEP_S)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        so_far = served.get(session)
        assert so_far["state"] == "running", so_far
        eventually(lambda: served.get(session)["state"] == "finished", _PATIENCE_S)
        ended = served.get(session)
    seconds = time.monotonic() - started - _SLEEP_S
    record_property(MEASURED, f"{so_far['done']} of {ended['images']} before {_SLEEP_S:.0f} s")
    record_property(MEASURED, f"{ended['images'] / seconds:.0f} images/s without them")
    assert (ended["images"], ended["done"], ended["skipped"]) == (512, 512, 0), ended


def test_memory_is_level(
    trials: Trials,
    full: ModelBundle,
    variant: str,
    pictures: list[str],
    record_property: Record,
) -> None:
    """Over 2,000 batches of one picture, a horse grows by no more than a fifth after the 200th."""
    trials.require(full, variant)
    with worker(trials, full, variant, WARMCLIP_BATCH_SIZE="1") as running:
        samples = []
        for done in range(len(pictures), _BATCHES + 1, len(pictures)):
            assert len(answer(running, "embed_images", pictures)["vectors"]) == len(pictures)
            if done >= _GROUND:
                samples.append(footprint_mb(running.horse))
    record_property(
        MEASURED,
        f"{samples[0]:.0f} MiB after {_GROUND} batches, at most {max(samples):.0f} "
        f"until {_BATCHES}: {growth(samples):+.1%}",
    )
    assert growth(samples) <= _MOST_GROWTH
