"""Texts computed only as long as they are: the same vectors, from less work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmclip import Encoder
from warmclip.inference.arrays import Features, unit_rows
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.ort.loading import load_onnxruntime
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.ort.text_lengths import same_length_runs, text_lengths
from warmclip.inference.providers import CPU, PROVIDERS
from warmclip.inference.selection.golden import Feeds, Golden
from warmclip.inference.text import Tokenizer

# From two tokens to 77, and beyond: what is longer is cut.
TEXTS = ["a " * count for count in (40, 0, 1, 75, 7, 12, 20, 76, 3, 200, 33, 18, 1)]
LENGTHS = [42, 2, 3, 77, 9, 14, 22, 77, 5, 77, 35, 20, 3]


class Watched:
    """onnxruntime's session, and the shapes of the token ids that it was given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.shapes: list[tuple[int, ...]] = []

    def run(self, names: Sequence[str], feeds: dict[str, Any], options: Any = None) -> Any:
        """Take note, and compute."""
        self.shapes.append(feeds["input_ids"].shape)
        return self._session.run(names, feeds, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture(scope="module")
def feeds(bundle: ModelBundle) -> Feeds:
    """The texts as a tower takes them."""
    tokenizer = Tokenizer.open(bundle.tokenizer(), bundle.manifest.tokenizer)
    ids, eot_onehot = tokenizer.encode(TEXTS)
    return {"input_ids": ids, "eot_onehot": eot_onehot}


@pytest.fixture(scope="module")
def whole(bundle: ModelBundle, feeds: Feeds) -> Features:
    """What the graph makes of them, all 77 tokens computed, without any code of ours."""
    session = load_onnxruntime().InferenceSession(
        bundle.graph("text", "fp32"), providers=["CPUExecutionProvider"]
    )
    features: Features = session.run(["features"], feeds)[0]
    return features


def fixed_graph(bundle: ModelBundle, folder: Path) -> Path:
    """The text graph with its length fixed, as bundles had it until lengths were free."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("length", 77)
    options.optimized_model_filepath = str(folder / "fixed.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(
        bundle.graph("text", "fp32"), options, providers=["CPUExecutionProvider"]
    )
    return folder / "fixed.onnx"


def assert_same(features: Features, expected: Features) -> None:
    """The same unit vectors, but for the order in which floats were added."""
    dim = expected.shape[1]
    np.testing.assert_allclose(unit_rows(features, dim), unit_rows(expected, dim), atol=1e-6)


def test_lengths_are_told_from_the_marks(feeds: Feeds) -> None:
    """A text is as long as where its features are taken, and a long one as long as the model's."""
    assert text_lengths(feeds["eot_onehot"]).tolist() == LENGTHS


def test_short_texts_are_not_lengthened_by_a_long_one(bundle: ModelBundle) -> None:
    """One long text among many short ones is computed by itself, and nothing is padded to 77."""
    tokenizer = Tokenizer.open(bundle.tokenizer(), bundle.manifest.tokenizer)
    ids, eot_onehot = tokenizer.encode(["a red star"] * 15 + ["star " * 90] + ["a star"] * 16)
    session = OnnxSession(bundle.graph("text", "fp32"), replace(CPU, around=Watched))
    session.run({"input_ids": ids, "eot_onehot": eot_onehot})
    (inner,) = session.inner_sessions()
    assert sorted(inner.shapes) == [(1, 77), (15, 5), (16, 4)]


@pytest.mark.parametrize("together", [1, 2, 5, 13])
def test_every_length_gives_the_same_vector(
    bundle: ModelBundle, feeds: Feeds, whole: Features, together: int
) -> None:
    """Alone and among others, in the order given: what all 77 tokens would have given."""
    session = OnnxSession(bundle.graph("text", "fp32"), CPU)
    parts = [
        session.run({name: array[start : start + together] for name, array in feeds.items()})
        for start in range(0, len(TEXTS), together)
    ]
    assert_same(np.concatenate(parts), whole)


def test_what_follows_the_end_decides_nothing(bundle: ModelBundle) -> None:
    """A text that ends early by a literal end token has the vector of what stands before it."""
    encoder = Encoder.open(bundle.folder, provider="cpu")
    plain, ended = encoder.encode_texts(["a red star", "a red star<end_of_text> " + "cat " * 70])
    np.testing.assert_allclose(ended, plain, atol=1e-6)


def test_static_shapes_compute_whole_texts(
    bundle: ModelBundle, feeds: Feeds, whole: Features
) -> None:
    """A provider that wants static shapes gets both axes fixed, and gives the same."""
    static = replace(CPU, buckets=(1, 8), around=Watched)
    session = OnnxSession(bundle.graph("text", "fp32"), static, length=77)
    features = session.run(feeds)
    shapes = [[it.shape for it in inner.get_inputs()] for inner in session.inner_sessions()]
    assert sorted(shapes) == [[[1, 77], [1, 1, 77]], [[8, 77], [8, 1, 77]]]
    assert {shape for inner in session.inner_sessions() for shape in inner.shapes} == {(8, 77)}
    assert_same(features, whole)


def test_graph_of_fixed_length_still_works(
    bundle: ModelBundle, feeds: Feeds, whole: Features, tmp_path: Path
) -> None:
    """An older bundle's text graph computes all its tokens, as it always did."""
    session = OnnxSession(fixed_graph(bundle, tmp_path), replace(CPU, around=Watched), length=77)
    features = session.run(feeds)
    (inner,) = session.inner_sessions()
    assert inner.shapes == [(13, 77)]
    assert_same(features, whole)


def test_encoder_cuts_and_keeps_the_order(
    bundle: ModelBundle, whole: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call's texts are sorted by length before they are cut into batches; each gets its own
    vector.
    """
    seen: list[Watched] = []

    def around(session: Any) -> Watched:
        seen.append(Watched(session))
        return seen[-1]

    watched = replace(CPU, name="watched", around=around, is_reference=False)
    monkeypatch.setitem(PROVIDERS, "watched", watched)
    encoder = Encoder.open(bundle.folder, provider="watched", batch_size=4, canary_every=0)
    encoder.encode_texts(["warm"])
    (inner,) = seen
    inner.shapes.clear()
    vectors = encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(vectors, unit_rows(whole, encoder.dim), atol=1e-6)
    # "a" stands twice, and the three long ones are the same once they are cut.
    computed = sum(rows * length for rows, length in inner.shapes)
    assert sum(rows for rows, _ in inner.shapes) == len(set(LENGTHS))
    assert computed < 1.2 * sum(set(LENGTHS))


def test_golden_texts_are_of_many_lengths(bundle: ModelBundle) -> None:
    """A trial that reproduces them has tried short texts and longer ones."""
    golden = Golden(bundle)
    lengths = text_lengths(golden.feeds("text", np.arange(golden.rows("text")))["eot_onehot"])
    assert lengths.min() <= 3
    assert lengths.max() >= 15
    assert len(set(lengths.tolist())) >= 8


@pytest.mark.parametrize("seed", range(5))
def test_no_run_pads_more_than_another_would_cost(seed: int) -> None:
    """Every row is in one run, and a run's padding is bounded, however lengths are mixed."""
    lengths = np.random.default_rng(seed).integers(2, 78, 40)
    groups = same_length_runs(lengths)
    assert sorted(np.concatenate(groups).tolist()) == list(range(40))
    for rows in groups:
        assert (lengths[rows].max() - lengths[rows]).sum() <= 10
    assert len(same_length_runs(np.full(32, 8))) == 1
