"""A provider in service, by way of test-only providers that go wrong on the nth run."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from standins.faulty.faulty_providers import faulty
from warmclip.errors import BadVectors, BundleError, ProviderUnavailable
from warmclip.inference.arrays import Features, Pixels, Vectors, unit_rows
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU, Provider
from warmclip.inference.selection.canary import Canary
from warmclip.inference.selection.golden import TOLERANCES, Comparison, Feeds, Golden
from warmclip.inference.selection.guard import Guard, GuardContext
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.inference.selection.trial import BATCHES, try_provider
from warmclip.inference.text import Tokenizer

LOADING = 1  # runs that loading takes: the golden rows


@pytest.fixture
def context(demo_bundle: Path, tmp_path: Path) -> GuardContext:
    """What "auto" gives its towers, with a canary every third batch."""
    return make_context(demo_bundle, tmp_path)


def make_context(
    bundle: Path, home: Path, *, canary_every: int = 3, is_insisted: bool = False
) -> GuardContext:
    """What the towers of one Encoder have in common."""
    opened = ModelBundle.open(bundle)
    return GuardContext(
        bundle=opened,
        golden=Golden(opened),
        quarantine=Quarantine(home),
        cache=ModelCache(home),
        threads=0,
        canary_every=canary_every,
        is_insisted=is_insisted,
        distrusted={},
    )


def pixels(n: int, seed: int = 0) -> dict[str, Pixels]:
    """Noise of the right shape."""
    noise = np.random.default_rng(seed).standard_normal((n, 3, 64, 64))
    return {"pixel_values": noise.astype(np.float32)}


def expected(context: GuardContext, feeds: dict[str, Pixels]) -> Vectors:
    """What the CPU makes of them."""
    features = OnnxSession(context.bundle.graph("image", "fp32"), CPU).run(feeds)
    return unit_rows(features, context.bundle.manifest.dim)


def test_provider_that_is_right(context: GuardContext) -> None:
    """It computes every row, whether a canary rides along or not."""
    guard = Guard("image", faulty("none"), context)
    for n in (1, 5, 8, 2):
        checked = guard.run(pixels(n))
        assert checked.provider == "faulty-none"
        np.testing.assert_allclose(checked.vectors, expected(context, pixels(n)), atol=1e-6)
    assert context.quarantine.active() == {}


@pytest.mark.parametrize("fault", ["nan", "zeros", "wrong", "fail"])
def test_wrong_from_the_start(context: GuardContext, fault: str) -> None:
    """It is left before it has computed anything for anybody."""
    checked = Guard("image", faulty(fault), context).run(pixels(3))
    assert checked.provider == "cpu"
    np.testing.assert_allclose(checked.vectors, expected(context, pixels(3)), atol=1e-6)
    assert list(context.quarantine.active()) == [f"faulty-{fault}"]


@pytest.mark.parametrize("fault", ["nannth", "failnth"])
def test_batch_that_goes_wrong(
    context: GuardContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """NaN, or onnxruntime's own error, reaches nobody: the CPU computes the batch again."""
    monkeypatch.setenv("FAULTY_N", str(LOADING + 3))
    guard = Guard("image", faulty(fault), context)
    used = []
    with caplog.at_level(logging.ERROR):
        for seed in range(5):
            checked = guard.run(pixels(4, seed))
            used.append(checked.provider)
            wanted = expected(context, pixels(4, seed))
            np.testing.assert_allclose(checked.vectors, wanted, atol=1e-6)
    assert used == [f"faulty-{fault}"] * 2 + ["cpu"] * 3
    assert guard.provider == "cpu"
    assert len(caplog.records) == 1
    assert f"faulty-{fault} is left for 24 hours" in caplog.text
    assert "The CPU goes on" in caplog.text


def test_drift_is_caught_by_the_canary(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong by 1 %, finite and of the right length: only a golden row can tell.

    What was computed since the last good canary can be told from what was proven by it.
    """
    monkeypatch.setenv("FAULTY_N", str(LOADING + 5))
    guard = Guard("image", faulty("drift"), context)
    checked = [guard.run(pixels(4, seed)) for seed in range(8)]  # canaries ride on 0, 3, 6
    assert [it.provider for it in checked] == ["faulty-drift"] * 6 + ["cpu"] * 2
    proven = [guard.is_proven(it.canary) for it in checked]
    assert proven == [True, True, True, True, False, False, True, True]
    wanted = expected(context, pixels(4, 6))
    np.testing.assert_allclose(checked[6].vectors, wanted, atol=1e-6)
    assert "cosine" in context.quarantine.active()["faulty-drift"].reason


def test_steady_provider_computes_nothing_but_its_rows(context: GuardContext) -> None:
    """A picture that comes alone is one row, and waits for nothing."""
    rows: list[int] = []
    for is_steady in (True, False):
        guard = Guard("image", replace(counting(rows), is_steady=is_steady), context)
        rows.clear()
        assert guard.run(pixels(1), is_last=True).canary is None
        assert rows == [1 if is_steady else 2]


def no_room(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A provider that compiles, from now on beside a disk that is full."""
    full = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    return replace(faulty("none"), buckets=(1, 8), cache_option="compiled_in")


def test_full_disk_is_no_fault_of_a_provider(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The CPU goes on in this process; nothing is quarantined, no picture suspected."""
    checked = Guard("image", no_room(monkeypatch), context).run(pixels(2))
    assert checked.provider == "cpu"
    assert context.quarantine.active() == {}
    assert "of free space are needed" in caplog.text
    assert "suspect" not in caplog.text


def test_disk_that_is_full_later(context: GuardContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled already is used; a batch of another size goes to the CPU."""
    provider = replace(faulty("none"), buckets=(1, 8, 32), cache_option="compiled_in")
    guard = Guard("image", provider, replace(context, canary_every=0))
    no_room(monkeypatch)
    assert guard.run(pixels(8)).provider == provider.name
    loaded_anew = Guard("image", provider, replace(context, canary_every=0))
    assert loaded_anew.run(pixels(8)).provider == provider.name
    assert loaded_anew.run(pixels(20)).provider == "cpu"
    assert context.quarantine.active() == {}


def test_altered_graph_is_no_fault_of_a_provider(demo_bundle: Path, tmp_path: Path) -> None:
    """Nothing is quarantined for what somebody did to the bundle."""
    bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
    graph = bundle / "image.fp32.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    context = make_context(bundle, tmp_path / "home")
    with pytest.raises(BundleError, match="was altered"):
        Guard("image", faulty("none"), context)
    assert context.quarantine.active() == {}


def test_unproven_until_the_next_canary(context: GuardContext) -> None:
    """A row waits for a canary that has a name, and another process never vouches for it."""
    guard, other = (Guard("image", faulty("none"), context) for _ in range(2))
    guard.run(pixels(1))
    checked = guard.run(pixels(1))
    assert checked.canary
    assert not guard.is_proven(checked.canary)
    guard.prove()
    assert guard.is_proven(checked.canary)
    assert not other.is_proven(checked.canary)


@pytest.mark.parametrize(("fault", "told"), [("drift", "cosine"), ("failnth", "Error executing")])
def test_canary_by_itself_fails(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    """The provider is left, and what waited for that canary stays unproven."""
    monkeypatch.setenv("FAULTY_N", str(LOADING + 3))
    guard = Guard("image", faulty(fault), context)
    guard.run(pixels(1))
    checked = guard.run(pixels(1))
    guard.prove()
    assert guard.provider == "cpu"
    assert not guard.is_proven(checked.canary)
    assert told in context.quarantine.active()[f"faulty-{fault}"].reason


def test_every_golden_row_is_a_canary_in_turn(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what a provider computes wrong for some pictures only is found."""
    ridden: list[int] = []
    feeds = Golden.feeds

    def noted(self: Golden, tower: Any, rows: Any) -> Feeds:
        ridden.extend(rows)
        return feeds(self, tower, rows)

    guard = Guard("image", faulty("none"), replace(context, canary_every=1))
    monkeypatch.setattr(Golden, "feeds", noted)
    for _ in range(10):
        guard.run(pixels(1))
    count = context.golden.rows("image")
    assert ridden == [row % count for row in range(10)]


@pytest.mark.parametrize(
    ("text", "canary"),
    [
        ("", None),
        ("0123456789abcdef-7", Canary(guard="0123456789abcdef", number=7)),
        ("a-0", Canary(guard="a", number=0)),
        ("a-b-12", Canary(guard="a-b", number=12)),
        ("b-" + "9" * 18, Canary(guard="b", number=10**18 - 1)),
        ("b-" + "9" * 19, Canary(guard="b-" + "9" * 19, number=0)),
        ("somebody else's", Canary(guard="somebody else's", number=0)),
        ("a-", Canary(guard="a-", number=0)),
        ("a-\u0663", Canary(guard="a-\u0663", number=0)),
        ("a-" + "9" * 5000, Canary(guard="a-" + "9" * 5000, number=0)),
    ],
)
def test_canary_of_a_stored_point(text: str, canary: Canary | None) -> None:
    """The text in a payload, whoever wrote it, is a canary or none; ours comes back as it was."""
    assert Canary.parse(text) == canary
    if canary is not None and not canary.guard.startswith("a-"):
        assert Canary.parse(str(canary)) == canary


def test_canary_of_another_program_is_never_proven(context: GuardContext) -> None:
    """A point with a text that no guard wrote stays unverified, and raises nothing."""
    guard = Guard("image", faulty("none"), context)
    guard.run(pixels(1), is_last=True)
    for text in ("somebody else's", "a-0", "-", "-0"):
        assert not guard.is_proven(Canary.parse(text))


def test_last_batch_of_a_stream_proves_the_stream(context: GuardContext) -> None:
    """Nothing is left waiting when the work is done."""
    guard = Guard("image", faulty("none"), context)
    checked = [guard.run(pixels(2)), guard.run(pixels(2)), guard.run(pixels(2), is_last=True)]
    assert all(guard.is_proven(it.canary) for it in checked)


def test_canaries_switched_off(demo_bundle: Path, tmp_path: Path) -> None:
    """Nothing waits for what never comes."""
    context = make_context(demo_bundle, tmp_path, canary_every=0)
    guard = Guard("image", faulty("none"), context)
    assert {guard.run(pixels(1), is_last=last).canary for last in (False, True)} == {None}


def test_insisted_on(
    demo_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asked for by name it is this provider or nothing: no silent change to the CPU."""
    monkeypatch.setenv("FAULTY_N", str(LOADING + 2))
    context = make_context(demo_bundle, tmp_path, is_insisted=True)
    guard = Guard("image", faulty("nannth"), context)
    guard.run(pixels(4))
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match="doctor --retry-provider faulty-nannth"):
            guard.run(pixels(4))
    assert "nothing goes on" in caplog.text
    with pytest.raises(ProviderUnavailable, match="computes wrong"):
        Guard("image", faulty("wrong"), make_context(demo_bundle, tmp_path, is_insisted=True))


def test_quarantine_that_cannot_be_written(
    context: GuardContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This process leaves the provider all the same, and says that others will not know."""
    (tmp_path / "home").write_text("no folder")
    guard = Guard(
        "image", faulty("nan"), replace(context, quarantine=Quarantine(tmp_path / "home"))
    )
    assert guard.run(pixels(2)).provider == "cpu"
    assert "cannot tell other processes that faulty-nan failed" in caplog.text


def test_nothing_to_prove(context: GuardContext) -> None:
    """Before the first batch, and after a good canary, none is computed."""
    runs: list[int] = []
    guard = Guard("image", counting(runs), context)
    guard.prove()
    assert runs == []
    guard.run(pixels(2))  # with a canary
    guard.prove()
    assert runs == [3]


def test_what_killed_processes_left(
    context: GuardContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is swept before a provider that compiles is loaded, and by no other."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "onnxruntime-0B1C2D3E-0000-0000-0000-000000000000-1-00000000"
    left.mkdir()
    os.utime(left, (1, 1))
    Guard("image", faulty("none"), context)
    assert left.exists()
    Guard("image", replace(faulty("none"), buckets=(1, 8), cache_option="compiled_in"), context)
    assert not left.exists()


def test_both_towers_leave_the_provider(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one tower has seen of a provider counts for the other."""
    text = Guard("text", faulty("nannth"), context)
    monkeypatch.setenv("FAULTY_N", str(LOADING + 1))
    Guard("image", faulty("nannth"), context).run(pixels(2))
    assert text.provider == "cpu"


def test_input_is_to_blame(context: GuardContext) -> None:
    """What the CPU refuses as well is not held against the provider."""
    guard = Guard("image", faulty("none"), context)
    for _ in range(2):  # with a canary, and without
        with pytest.raises(BadVectors):
            guard.run({"pixel_values": np.full((1, 3, 64, 64), np.nan, np.float32)})
    assert guard.provider == "faulty-none"
    assert context.quarantine.active() == {}


def test_strange_lengths_that_the_cpu_confirms(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture unlike any golden one costs a second look, not the provider."""
    monkeypatch.setattr(Golden, "norm_range", lambda *_: (0.0, 1.0))
    guard = Guard("image", faulty("none"), context)
    checked = guard.run(pixels(2))
    np.testing.assert_allclose(checked.vectors, expected(context, pixels(2)), atol=1e-6)
    assert guard.provider == "faulty-none"
    assert context.quarantine.active() == {}


def test_strange_lengths_that_the_cpu_denies(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths that only the provider has are its fault."""
    monkeypatch.setenv("FAULTY_N", str(LOADING + 2))
    guard = Guard("image", faulty("drift"), context)
    guard.run(pixels(2))  # with the canary of the first batch
    monkeypatch.setattr(Golden, "norm_range", lambda *_: (0.0, 1.0))
    checked = guard.run(pixels(2))
    np.testing.assert_allclose(checked.vectors, expected(context, pixels(2)), atol=1e-6)
    assert "outside the golden" in context.quarantine.active()["faulty-drift"].reason


class Changed:
    """A session whose answers are changed, from a run on."""

    def __init__(
        self, session: Any, *, change: Callable[[Features], Features], after: int = LOADING
    ) -> None:
        self._session = session
        self._change = change
        self._left = after  # of the runs that are right

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str], feeds: Feeds, *options: Any) -> Any:
        """Compute, then change what was computed."""
        (features,) = self._session.run(names, feeds, *options)
        self._left -= 1
        return [features if self._left >= 0 else self._change(features)]


def counting(rows: list[int]) -> Provider:
    """A provider that notes how many rows each run computes, once it is loaded."""

    def count(features: Features) -> Features:
        rows.append(len(features))
        return features

    return replace(faulty("none"), around=partial(Changed, change=count))


def spoiling(row: int, *, after: int = 0) -> Provider:
    """A provider that computes one row of each batch wrong: finite, and of the right length."""

    def spoil(features: Features) -> Features:
        if row < len(features):
            features[row] = features[row, ::-1]
        return features

    around = partial(Changed, change=spoil, after=after)
    return replace(faulty("none"), name="faulty-row", around=around)


@pytest.mark.parametrize("row", [0, 3, 7])
def test_one_golden_row_that_is_wrong(context: GuardContext, row: int) -> None:
    """A provider must reproduce every golden row: one that is wrong is enough to leave it."""
    checked = Guard("image", spoiling(row), context).run(pixels(2))
    assert checked.provider == "cpu"
    assert "cosine" in context.quarantine.active()["faulty-row"].reason


@pytest.mark.parametrize("row", [0, 2, 3])
def test_every_row_of_a_strange_batch_must_agree(
    context: GuardContext, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    """Of four rows of strange length the CPU confirms three: the provider is left."""
    guard = Guard("image", spoiling(row, after=LOADING), replace(context, canary_every=0))
    monkeypatch.setattr(Golden, "norm_range", lambda *_: (0.0, 1.0))
    checked = guard.run(pixels(4))
    np.testing.assert_allclose(checked.vectors, expected(context, pixels(4)), atol=1e-6)
    assert "outside the golden" in context.quarantine.active()["faulty-row"].reason


@pytest.mark.parametrize("times", [1e4, 1e-4])
@pytest.mark.parametrize("row", [0, 2, 3])
def test_one_strange_length_is_seen(context: GuardContext, row: int, times: float) -> None:
    """A single row whose raw length no honest input has makes the CPU look at the batch."""

    def lengthen(features: Features) -> Features:
        features[row] = times * features[row, ::-1]
        return features

    provider = replace(faulty("none"), around=partial(Changed, change=lengthen))
    checked = Guard("image", provider, replace(context, canary_every=0)).run(pixels(4))
    assert checked.provider == "cpu"
    np.testing.assert_allclose(checked.vectors, expected(context, pixels(4)), atol=1e-6)
    assert "outside the golden" in context.quarantine.active()["faulty-none"].reason


@pytest.mark.parametrize("canary_every", [0, 1])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda features: features.reshape(-1),
        lambda features: features[..., None],
        lambda features: features[0, 0],
        lambda features: features[:0],
        lambda features: features[:-1],
        lambda features: np.concatenate([features, features]),
        lambda features: features[:, :-1],
    ],
    ids=["flat", "deep", "one number", "no rows", "short", "long", "narrow"],
)
def test_array_of_another_shape(
    context: GuardContext, canary_every: int, spoil: Callable[[Features], Features]
) -> None:
    """A batch that is no array of rows is the provider's fault, with a canary and without."""
    provider = replace(faulty("none"), around=partial(Changed, change=spoil))
    guard = Guard("image", provider, replace(context, canary_every=canary_every))
    checked = guard.run(pixels(4))
    assert checked.provider == "cpu"
    np.testing.assert_allclose(checked.vectors, expected(context, pixels(4)), atol=1e-6)
    assert "returned shape" in context.quarantine.active()["faulty-none"].reason


def compare_rows(context: GuardContext, change: Callable[[Features], None]) -> Comparison:
    """The golden pictures' own features, changed, compared with the golden vectors."""
    golden = context.golden
    rows = np.arange(golden.rows("image"))
    features = OnnxSession(context.bundle.graph("image", "fp32"), CPU).run(
        golden.feeds("image", rows)
    )
    change(features)
    return golden.compare("image", features, rows)


def test_comparison_is_of_the_worst_row(context: GuardContext) -> None:
    """Cosine, difference and length are each that of the row which is furthest off."""
    right = compare_rows(context, lambda _: None)
    assert right.fault(TOLERANCES["fp32"]) is None
    for row in (0, 4, 7):

        def turn(features: Features, row: int = row) -> None:
            features[row] = features[row, ::-1]

        def stretch(features: Features, row: int = row) -> None:
            features[row] *= 1.5

        def shrink(features: Features, row: int = row) -> None:
            features[row] *= 0.5

        turned = compare_rows(context, turn)
        assert turned.cosine < 0.5  # their mean is not
        assert turned.max_abs > 0.05
        assert turned.fault(TOLERANCES["int8"]) is not None
        for change in (stretch, shrink):
            scaled = compare_rows(context, change)
            assert scaled.norm == pytest.approx(0.5, abs=1e-3)
            assert scaled.fault(TOLERANCES["int8"]) is not None


@pytest.mark.parametrize("batch", BATCHES)
def test_trial_is_of_the_worst_batch_size(
    context: GuardContext, tmp_path: Path, batch: int
) -> None:
    """A provider that is wrong at one batch size alone does not pass its trial."""

    class Wrong:
        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def run(self, names: list[str], feeds: Feeds, *options: Any) -> Any:
            (features,) = self._session.run(names, feeds, *options)
            if len(features) == batch:
                features[batch // 2] = features[batch // 2, ::-1]
            return [features]

    provider = replace(faulty("none"), around=Wrong)
    trial = try_provider(
        context.bundle, provider, "image", home=tmp_path, threads=0, stage=lambda _: None
    )
    assert not trial.passed
    assert "cosine" in trial.reason


def texts(context: GuardContext, *words: str) -> Feeds:
    """Texts as a tower takes them."""
    tokenizer = Tokenizer.open(context.bundle.tokenizer(), context.bundle.manifest.tokenizer)
    ids, eot_onehot = tokenizer.encode(words)
    return {"input_ids": ids, "eot_onehot": eot_onehot}


def test_canary_among_texts_of_other_lengths(context: GuardContext) -> None:
    """Golden texts ride along, and every text keeps its own vector, however runs are cut."""
    feeds = texts(context, *("star " * count for count in (1, 60, 3, 25, 90, 7)))
    reference = Guard("text", CPU, context).run(feeds).vectors
    guard = Guard("text", faulty("none"), replace(context, canary_every=1))
    for _ in range(3):  # another golden text each time
        checked = guard.run(feeds)
        assert (checked.provider, checked.canary) == ("faulty-none", None)
        np.testing.assert_allclose(checked.vectors, reference, atol=1e-6)
    assert context.quarantine.active() == {}


def test_texts_computed_wrong(context: GuardContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that drifts is seen by its canary, whichever run of a batch carries it."""
    monkeypatch.setenv("FAULTY_N", "100")
    guard = Guard("text", faulty("drift"), replace(context, canary_every=1))
    feeds = texts(context, "a star", "star " * 50)
    reference = Guard("text", CPU, context).run(feeds).vectors
    assert guard.run(feeds).provider == "faulty-drift"
    monkeypatch.setenv("FAULTY_N", "1")
    checked = guard.run(feeds)
    assert checked.provider == "cpu"
    np.testing.assert_allclose(checked.vectors, reference, atol=1e-6)
    assert list(context.quarantine.active()) == ["faulty-drift"]
