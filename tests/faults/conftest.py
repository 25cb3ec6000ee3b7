"""Workers in which something goes wrong."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from running import Running, environment_of, running_worker
from warmclip.settings import Settings
from warmclip.store.open import open_store
from warmclip.store.protocol import Point

FAULTY = Path(__file__).parents[1] / "standins" / "faulty"
FUNCTIONS = (
    *("sleep", "die", "leave", "hang", "hold", "grind", "eat", "embed", "process", "echo"),
    *("answer", "count", "count_slowly", "count_and_fail", "close_descriptors", "scribble"),
    "repeat_answers",
    *("end_children", "leave_child"),
)


class Rig:
    """A home, a model and pictures, for as many workers as a test needs."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = folder
        self._bundle = bundle

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of a worker that knows faulty providers and functions."""
        listed = {
            "WARMCLIP_JOBS": ",".join(f"faulty_jobs:{name}" for name in FUNCTIONS),
            "WARMCLIP_HANG_SECONDS": "5",
            "PYTHONPATH": os.pathsep.join([str(FAULTY), os.environ.get("PYTHONPATH", "")]),
        }
        return environment_of(self.folder / "home", self._bundle, **(listed | more))

    @contextmanager
    def worker(self, *arguments: str, **more: str) -> Iterator[Running]:
        """One worker, listening."""
        environment = self.environment(**more)
        settings = Settings.from_env({k: v for k, v in environment.items() if v})
        with running_worker(settings, environment, *arguments) as running:
            yield running

    def pictures(self, count: int) -> list[str]:
        """So many small pictures, each with its own content."""
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        paths = []
        for number in range(count):
            tiles = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            path = folder / f"{number:03}.png"
            Image.fromarray(tiles).resize((64, 64)).save(path)
            paths.append(str(path))
        return paths

    def poison(self, how: str, name: str = "poison.jpg") -> str:
        """A picture that kills its decoder (segv, abort, kill, hang), or takes a second (slow)."""
        path = self.folder / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        seed = sum(name.encode())
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, "JPEG", comment=f"poison: {how}".encode())
        return str(path)

    def stored(self, **more: str) -> list[Point]:
        """What the store of a home holds, with vectors; no worker may have it."""
        settings = Settings.from_env(self.environment(**more))
        with open_store(settings) as store:
            return list(store.scroll("images", with_vectors=True))


@pytest.fixture
def rig(tmp_path: Path, demo_bundle: Path, server_binary: None) -> Rig:  # noqa: ARG001 - needed
    """A home of the test's own."""
    return Rig(tmp_path, demo_bundle)


def name_of(number: int) -> str:
    """A signal as messages name it."""
    return signal.Signals(number).name
