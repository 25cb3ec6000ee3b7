"""Graphs prepared for the processor, with real sessions on the demo model's towers."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmclip.errors import BadVectors, BundleError
from warmclip.fsutil import file_lock
from warmclip.inference.arrays import Features
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort import session as sessions
from warmclip.inference.ort.loading import load_onnxruntime
from warmclip.inference.ort.model_cache import COMPLETE, ModelCache
from warmclip.inference.ort.prepacked import ask_to_write, identity_of
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU
from warmclip.inference.selection.golden import Golden

TOWERS: tuple[Tower, ...] = ("image", "text")


class Machine:
    """A bundle and a home, and what is computed with them."""

    def __init__(self, bundle: Path, home: Path) -> None:
        self.bundle = ModelBundle.open(bundle)
        self.golden = Golden(self.bundle)
        self.cache = ModelCache(home)

    def load(self, tower: Tower = "image", **more: Any) -> OnnxSession:
        """A session as a tower in service has it."""
        record = self.bundle.graph_record(tower, "fp32")
        options: dict[str, Any] = {
            "digest": record.digest,
            "size_bytes": record.total_bytes,
            "cache": self.cache,
            "check": partial(self.golden.check, tower, "fp32"),
        }
        return OnnxSession(self.bundle.folder / record.file, CPU, **options | more)

    def features(self, session: OnnxSession, tower: Tower = "image") -> Features:
        """Of the golden inputs."""
        rows = np.arange(self.golden.rows(tower))
        return session.run(self.golden.feeds(tower, rows))

    def plain(self, tower: Tower = "image") -> Features:
        """What onnxruntime computes with the bundle's own file."""
        return self.features(self.load(tower, cache=None), tower)

    @property
    def entries(self) -> list[Path]:
        """The folders that are whole."""
        return [marker.parent for marker in self.cache.folder.glob(f"*/{COMPLETE}")]

    @property
    def weights(self) -> Path:
        """The one entry's mapped file."""
        (entry,) = self.entries
        return entry / "weights.bin"


@pytest.fixture
def machine(demo_bundle: Path, tmp_path: Path) -> Machine:
    """One where nothing is prepared yet."""
    return Machine(demo_bundle, tmp_path / "home")


@pytest.mark.parametrize("tower", TOWERS)
def test_same_features_as_the_plain_graph(machine: Machine, tower: Tower) -> None:
    """Whether it was prepared just now or earlier, not a vector changes."""
    expected = machine.plain(tower)
    for _ in range(2):
        np.testing.assert_allclose(
            machine.features(machine.load(tower), tower), expected, atol=1e-6, rtol=1e-6
        )
    assert len(machine.entries) == 1


def test_prepared_once(machine: Machine) -> None:
    """The second load neither reads nor verifies the bundle's file."""
    read: list[str] = []
    for _ in range(2):
        machine.load(verify=lambda: read.append("verified"))
    assert read == ["verified"]
    gone = OnnxSession(
        Path("gone.onnx"),
        CPU,
        digest=machine.bundle.graph_record("image", "fp32").sha256,
        cache=machine.cache,
    )
    np.testing.assert_array_equal(machine.features(gone), machine.features(machine.load()))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows what is mapped")
def test_weights_are_mapped(machine: Machine) -> None:
    """They are pages of a file, which processes share, and not this process's own memory."""
    machine.load()
    session = machine.load()
    assert str(machine.weights) in Path("/proc/self/maps").read_text()
    packed = machine.weights.stat().st_size
    assert packed > 0.8 * session.graph.stat().st_size


def test_altered_bundle_is_refused_before_anything_is_prepared(machine: Machine) -> None:
    """A wrong digest comes through as it would without a cache."""

    def refuse() -> None:
        raise BundleError("image.fp32.onnx was altered")

    with pytest.raises(BundleError, match="was altered"):
        machine.load(verify=refuse)
    assert machine.entries == []


def test_folder_stands_by_itself(machine: Machine, tmp_path: Path) -> None:
    """Nothing in it leads out of it: a home that was moved is used where it is."""
    expected = machine.features(machine.load())
    home = machine.cache.folder.parent
    machine.cache = ModelCache(home.rename(tmp_path / "moved"))
    witness = machine.weights.stat().st_ino
    np.testing.assert_array_equal(machine.features(machine.load()), expected)
    assert machine.weights.stat().st_ino == witness


def test_copied_home_is_used(machine: Machine, tmp_path: Path) -> None:
    """Other times of change are no damage where the contents are the same."""
    machine.load()
    shutil.copytree(machine.cache.folder.parent, tmp_path / "copy", copy_function=shutil.copyfile)
    machine.cache = ModelCache(tmp_path / "copy")
    machine.cache.folder.chmod(0o700)
    witness = machine.weights.stat().st_ino
    for _ in range(2):
        machine.load()
    assert machine.weights.stat().st_ino == witness


@pytest.mark.parametrize("damage", ["cut short", "overwritten", "gone", "rotten", "no seal"])
def test_damage_is_noticed(machine: Machine, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """The graph is prepared again, with a line in the log, and every vector is right.

    Rotten is what no look at the file tells: its length and time are as they were.
    """
    expected = machine.features(machine.load())
    weights, status = machine.weights, machine.weights.stat()
    match damage:
        case "cut short":
            os.truncate(weights, status.st_size // 2)
        case "overwritten" | "rotten":
            half = status.st_size // 2
            with weights.open("r+b") as stream:
                stream.seek(status.st_size - half)
                stream.write(np.full(half, 0x3F, np.uint8).tobytes())
        case "gone":
            weights.unlink()
        case "no seal":
            (weights.parent / COMPLETE).write_text("")
    if damage == "rotten":
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    # Only rot needs the golden row: all else must be seen by whoever could not notice it.
    more: dict[str, Any] = {} if damage == "rotten" else {"check": None}
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(machine.features(machine.load(**more)), expected)
    assert caplog.text.count("is broken, building it again") == 1
    caplog.clear()
    machine.load()
    assert caplog.text == ""


def test_graph_that_computes_wrong_when_it_is_prepared(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """It is loaded plain, nothing is kept, and the log says why."""
    expected = machine.plain()

    def refuse(run: sessions.Run, is_new: bool) -> None:  # noqa: ARG001 - a Check
        raise BadVectors("it computes wrong image vectors: cosine 0.9")

    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(machine.features(machine.load(check=refuse)), expected)
    assert "cosine 0.9" in caplog.text
    assert machine.entries == []


def test_home_that_cannot_be_written(
    demo_bundle: Path, unprivileged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both towers compute all the same, and one line says why they are slower to load."""
    home = unprivileged / "home"
    home.mkdir(mode=0o500)
    machine = Machine(demo_bundle, home)
    with caplog.at_level(logging.WARNING):
        for tower in TOWERS:
            machine.features(machine.load(tower), tower)
    assert len(caplog.records) == 1
    assert str(home) in caplog.text


def test_disk_that_fills_up(demo_bundle: Path, tmp_path: Path) -> None:
    """What could not be written whole is removed, and the model loads all the same."""
    code = """
import logging, resource, sys
from pathlib import Path
from warmclip import Encoder
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
bundle, home = map(Path, sys.argv[1:])
print(Encoder.open(bundle, provider="cpu", home=home).encode_texts(["a dog"]).shape)
"""
    home = tmp_path / "home"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(demo_bundle),
            str(home),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, ")
    assert done.stderr.count("packs the model's weights for itself") == 1
    assert [path for path in (home / "compiled").iterdir() if path.is_dir()] == []


def test_disk_that_is_nearly_full(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last of the room is left to the index, and nothing is begun."""
    full = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with caplog.at_level(logging.WARNING):
        machine.features(machine.load())
    assert "MB of free space are needed" in caplog.text
    assert machine.entries == []


def test_builder_that_does_not_move(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for another process's build loads the plain graph in the end."""
    machine.load()
    (lock,) = machine.cache.folder.glob(".*.lock")
    monkeypatch.setattr(sessions, "_PATIENCE_S", 0.1)
    with file_lock(lock), caplog.at_level(logging.WARNING):
        machine.features(machine.load())
    assert "another process holds" in caplog.text


def test_what_decides_has_a_folder_of_its_own() -> None:
    """Another graph, onnxruntime, batch or provider never gets this one's."""
    same = ("d1", CPU, "1.32.0", 0)
    others = [
        ("d2", CPU, "1.32.0", 0),
        ("d1", replace(CPU, name="cpu-int8"), "1.32.0", 0),
        ("d1", replace(CPU, disabled_optimizers=("MatMulAddFusion",)), "1.32.0", 0),
        ("d1", CPU, "1.33.0", 0),
        ("d1", CPU, "1.32.0", 8),
    ]
    assert all(identity_of(*other) != identity_of(*same) for other in others)


@pytest.mark.parametrize(("version", "packs"), [("1.24.1", "0"), ("1.31.0", "0"), ("1.32.0", "1")])
def test_weights_are_packed_where_that_can_be_run(tmp_path: Path, version: str, packs: str) -> None:
    """An older onnxruntime, which would die of them, maps weights as they are."""
    options = load_onnxruntime().SessionOptions()
    ask_to_write(options, tmp_path, version)
    asked = options.get_session_config_entry(
        "session.save_external_prepacked_constant_initializers"
    )
    assert asked == packs
