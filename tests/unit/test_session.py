import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmclip.errors import BundleError, CacheUnusable, ProviderUnavailable
from warmclip.inference.arrays import Pixels
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.ort.compiled import CompiledModels
from warmclip.inference.ort.loading import load_onnxruntime
from warmclip.inference.ort.model_cache import COMPLETE, ModelCache
from warmclip.inference.ort.placement import Placement
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU, PROVIDERS, Provider


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


COMPILING = dataclasses.replace(
    CPU, name="compiling", is_reference=False, buckets=(1, 4), cache_option="compiled_in"
)


def compiled(home: Path) -> list[Path]:
    """The models that a home keeps, whole ones."""
    return sorted((home / "compiled").glob(f"*/{COMPLETE}"))


def test_bundle_that_moved_is_compiled_again(graph: Path, tmp_path: Path) -> None:
    """CoreML makes a key of the path: a model of another folder's graph is never taken for it."""
    cache = ModelCache(tmp_path / "home")
    moved = Path(shutil.copy(graph, tmp_path / "image.onnx"))
    found = []
    for path in (graph, graph, moved):
        session = OnnxSession(path, COMPILING, digest="d", cache=cache)
        session.load_all()
        found.append(len(compiled(tmp_path / "home")))
    assert found == [2, 2, 4]
    assert session.run({"pixel_values": pixels(3)}).shape[0] == 3


def test_upgraded_system_compiles_again(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another build of the operating system compiled is not loaded."""
    cache = ModelCache(tmp_path / "home")
    found = []
    for build in ("macOS 26.1 25B78", "macOS 26.1 25B78", "macOS 26.2 25C56"):
        monkeypatch.setattr("warmclip.inference.ort.compiled.os_build", lambda build=build: build)
        OnnxSession(graph, COMPILING, digest="d", cache=cache).load_all()
        found.append(len(compiled(tmp_path / "home")))
    assert found == [2, 2, 4]


def test_cache_that_cannot_be_written(graph: Path, unprivileged: Path) -> None:
    """A read-only folder is no fault of the provider, and is named: ``auto`` goes on without it."""
    cache = ModelCache(unprivileged)
    cache.folder.mkdir()
    cache.folder.chmod(0o500)
    with pytest.raises(CacheUnusable, match=f"{cache.folder} cannot be written into"):
        OnnxSession(graph, COMPILING, digest="d", cache=cache)


def test_cache_that_cannot_be_looked_into(graph: Path, unprivileged: Path) -> None:
    """Whether there is room is not known then, and loading says what is wrong."""
    cache = ModelCache(unprivileged)
    cache.folder.mkdir()
    cache.folder.chmod(0o000)
    models = CompiledModels(
        graph=graph, provider=COMPILING, digest="d", size_bytes=1, length=0, cache=cache
    )
    models.require_space()
    models.remove()
    cache.folder.chmod(0o700)


def test_cache_of_somebody_else(graph: Path, unprivileged: Path) -> None:
    """As after one start with sudo: the owner is named, and what to do."""
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of root's")
    cache = ModelCache(unprivileged)
    me = os.geteuid()
    os.seteuid(0)
    cache.folder.mkdir(mode=0o755)
    os.seteuid(me)
    with pytest.raises(CacheUnusable, match="belongs to the user with the number 0"):
        OnnxSession(graph, COMPILING, digest="d", cache=cache)


def test_what_a_provider_wants_of_the_session(graph: Path) -> None:
    """It is told to onnxruntime, in whose sessions bfloat16 of Arm is switched on."""
    name, value = "mlas.enable_gemm_fastmath_arm64_bfloat16", "1"
    assert PROVIDERS["cpu-bf16"].session_config == {name: value}
    session = OnnxSession(graph, PROVIDERS["cpu-bf16"])
    assert session._options(0).get_session_config_entry(name) == value
    assert session.run({"pixel_values": pixels(1)}).shape[0] == 1


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    """A broken file is a broken bundle."""
    broken = tmp_path / "image.fp32.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot load"):
        OnnxSession(broken, CPU)


def test_exclusive_provider_computes_one_batch_at_a_time(graph: Path) -> None:
    """Two models in one process at once crash CoreML: another session waits, as does a load."""
    busy = threading.Lock()
    overlaps = []

    class Watched:
        def __init__(self, session: Any) -> None:
            self._session = session

        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            if not busy.acquire(blocking=False):
                overlaps.append("run")
                return self._session.run(names, feeds)
            try:
                time.sleep(0.01)
                return self._session.run(names, feeds)
            finally:
                busy.release()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    def overlapping(provider: Provider) -> int:
        overlaps.clear()
        sessions = [OnnxSession(graph, provider) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                list(pool.map(lambda it: it.run({"pixel_values": pixels(1)}), sessions))
        return len(overlaps)

    free = dataclasses.replace(CPU, around=Watched)
    assert overlapping(free) > 0
    assert overlapping(dataclasses.replace(free, is_exclusive=True)) == 0


def test_placement_is_read_back(graph: Path) -> None:
    """A provider that takes nothing is seen to take nothing, whatever it was asked for."""
    onnxruntime = load_onnxruntime()
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers() or not hasattr(
        onnxruntime.InferenceSession, "get_provider_graph_assignment_info"
    ):
        pytest.skip("this onnxruntime has no provider that takes nothing, or does not tell")
    nothing = dataclasses.replace(CPU, execution_provider="AzureExecutionProvider")
    placement = OnnxSession(graph, nothing, records_placement=True).placement()
    assert placement is not None
    assert placement.partitions == 0
    assert placement.cpu_nodes > 50
    assert OnnxSession(graph, CPU, records_placement=True).placement() == Placement(
        partitions=1, cpu_nodes=0
    )


def test_graph_in_a_folder_with_a_space(graph: Path, tmp_path: Path) -> None:
    """Users keep models where they like."""
    folder = tmp_path / "my models é"
    folder.mkdir()
    OnnxSession(Path(shutil.copy(graph, folder)), CPU).run({"pixel_values": pixels(1)})


_LARGE_BATCH = """
import re, sys
from pathlib import Path
import numpy as np
from warmclip.inference.providers import CPU
from warmclip.inference.ort.session import OnnxSession

session = OnnxSession(Path(sys.argv[1]), CPU)
for n in (8, 8, 512, 8):
    session.run({"pixel_values": np.zeros((n, 3, 64, 64), np.float32)})
    print(re.search(r"RssAnon:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells it so")
def test_memory_of_a_large_batch_is_given_back(graph: Path) -> None:
    """One batch out of the ordinary does not make the process larger for good."""
    command = [sys.executable, "-c", _LARGE_BATCH, str(graph)]  # others share the arena here
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, usual, largest, afterwards = (int(line) / 1024 for line in told.split())
    assert afterwards < usual + 20, (usual, largest, afterwards)
