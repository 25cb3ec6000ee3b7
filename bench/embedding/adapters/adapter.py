"""What a contender can do, and the plain loop that a program around a model is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.embedding.fixtures import Fixtures, collection

Array: TypeAlias = npt.NDArray[Any]

BATCH = 32
HITS = 10


class Skipped(Exception):
    """This contender cannot run here; the reason is a phrase for the table."""


class Adapter(Protocol):
    """One way to embed. What it cannot do, it is not asked for."""

    def describe(self) -> dict[str, Any]:
        """Its threads and versions."""
        ...

    def pixels(self, pixels: Array) -> Array | None:
        """Ready pictures (n, 3, S, S) as unit vectors (n, dim)."""
        ...

    def texts(self, texts: Sequence[str]) -> Array | None:
        """Texts as unit vectors (n, dim)."""
        ...

    def preprocess(self, path: str) -> object:
        """A file as what its model takes."""
        ...

    def embed(self, paths: Sequence[str]) -> Array:
        """Files as unit vectors (n, dim)."""
        ...

    def folder(self, paths: Sequence[str], target: Path) -> None:
        """Files to vectors to something that can be searched, in a folder that is not there yet."""
        ...

    def vectors(self, paths: Sequence[str], target: Path) -> Array:
        """What ``folder`` stored, (n, dim); no clock runs."""
        ...

    def prepare_search(self) -> None:
        """Set up the collection that ``query`` searches."""
        ...

    def query(self, text: str) -> None:
        """Find the nearest points."""
        ...


class PeerAdapter:
    """A program as one writes it in an afternoon, generous to itself.

    It checks nothing, and where warmclip writes a database, it stacks a matrix in memory and
    saves it; a search is one product with that matrix.
    """

    def __init__(self, fixtures: Fixtures) -> None:
        self.fixtures = fixtures
        self._matrix: Array | None = None

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        raise NotImplementedError

    def pixels(self, pixels: Array) -> Array:
        """See ``Adapter``."""
        raise NotImplementedError

    def texts(self, texts: Sequence[str]) -> Array:
        """See ``Adapter``."""
        raise NotImplementedError

    def preprocess(self, path: str) -> Array:
        """One picture, (3, S, S) float32."""
        raise NotImplementedError

    def embed(self, paths: Sequence[str]) -> Array:
        """Files as unit vectors, one batch after the other."""
        rows = []
        for start in range(0, len(paths), BATCH):
            batch = [self.preprocess(path) for path in paths[start : start + BATCH]]
            rows.append(self.pixels(np.stack(batch)))
        return np.concatenate(rows)

    def folder(self, paths: Sequence[str], target: Path) -> None:
        """See ``Adapter``."""
        target.mkdir()
        np.save(target / "vectors.npy", self.embed(paths))

    def vectors(self, paths: Sequence[str], target: Path) -> Array:  # noqa: ARG002 - see Adapter
        """See ``Adapter``."""
        stored: Array = np.load(target / "vectors.npy")
        return stored

    def prepare_search(self) -> None:
        """See ``Adapter``."""
        self._matrix = collection(self.fixtures.points, self.fixtures.dim)

    def query(self, text: str) -> None:
        """See ``Adapter``."""
        assert self._matrix is not None  # noqa: S101 - the order of the calls
        scores = self._matrix @ self.texts([text])[0]
        best = np.argpartition(scores, -HITS)[-HITS:]
        best[np.argsort(scores[best])[::-1]]


def unit(rows: Array) -> Array:
    """Rows of length one."""
    scaled: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
