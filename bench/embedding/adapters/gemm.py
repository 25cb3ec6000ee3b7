"""The matrix products of a tower and nothing else: what this machine could do at best."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.embedding.adapters.adapter import Array, Skipped
from bench.embedding.fixtures import Fixtures
from bench.embedding.flops import TowerShape, tower_shape


class Gemm:
    """float32 products with weights of their own for every layer, as a tower has them."""

    def __init__(self, fixtures: Fixtures) -> None:
        self._shapes: dict[str, TowerShape] = {}
        for tower in ("image", "text"):
            shape = tower_shape(fixtures.architecture, tower)
            if shape is None:
                raise Skipped("its towers are not all transformers, whose products are known")
            self._shapes[tower] = shape
        self._weights = {tower: _weights(shape) for tower, shape in self._shapes.items()}

    def describe(self) -> dict[str, Any]:
        """The libraries that compete."""
        return {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def seconds(self, tower: str, items: int, repeats: int) -> float:
        """The products for so many pictures or texts, in the faster one of two libraries."""
        return min(
            self._run(tower, items, repeats, product)
            for product in (_torch_product, _numpy_product)
        )

    def _run(
        self, tower: str, items: int, repeats: int, product: Callable[[Array, Array], object]
    ) -> float:
        sizes = {(items * it.rows, it.inner) for it in self._shapes[tower].gemms}
        inputs = {size: np.ones(size, np.float32) for size in sizes}
        pairs = [
            (inputs[items * gemm.rows, gemm.inner], weight)
            for gemm, weight in zip(self._shapes[tower].gemms, self._weights[tower], strict=True)
        ]
        started = time.perf_counter()
        for _ in range(repeats):
            for left, right in pairs:
                product(left, right)
        return time.perf_counter() - started


def _weights(shape: TowerShape) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((it.inner, it.columns), np.float32) for it in shape.gemms]


@torch.inference_mode()
def _torch_product(left: Array, right: Array) -> object:
    return torch.mm(torch.from_numpy(left), torch.from_numpy(right))


def _numpy_product(left: Array, right: Array) -> object:
    return left @ right
