import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from warmclip.errors import BundleError, ProviderUnavailable
from warmclip.inference.arrays import Pixels
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.providers import CPU
from warmclip.inference.session import OnnxSession


@pytest.fixture(scope="module")
def graph(demo_bundle: Path) -> Path:
    """The demo model's image tower."""
    return ModelBundle.open(demo_bundle).graph("image", "fp32")


def pixels(n: int, size_px: int = 64) -> Pixels:
    """Noise of the right shape."""
    return np.random.default_rng(0).standard_normal((n, 3, size_px, size_px)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
def test_static_batches_give_the_same_features(graph: Path, n: int) -> None:
    """Padding to a bucket and cutting a long batch up change no row."""
    inputs = {"pixel_values": pixels(n)}
    static = OnnxSession(graph, dataclasses.replace(CPU, buckets=(1, 4)))
    expected = OnnxSession(graph, CPU).run(inputs)
    np.testing.assert_allclose(static.run(inputs), expected, atol=1e-5)


def test_wrong_input_shape(graph: Path) -> None:
    """What onnxruntime refuses becomes one of our errors, with its reason."""
    with pytest.raises(ProviderUnavailable, match="pixel_values"):
        OnnxSession(graph, CPU).run({"pixel_values": pixels(1, size_px=32)})


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    """A broken file is a broken bundle."""
    broken = tmp_path / "image.fp32.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot load"):
        OnnxSession(broken, CPU)


def test_graph_in_a_folder_with_a_space(graph: Path, tmp_path: Path) -> None:
    """Users keep models where they like."""
    folder = tmp_path / "my models é"
    folder.mkdir()
    OnnxSession(Path(shutil.copy(graph, folder)), CPU).run({"pixel_values": pixels(1)})
