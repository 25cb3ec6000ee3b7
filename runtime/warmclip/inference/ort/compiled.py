"""What providers such as CoreML compile of a graph, a model for each batch size, and keep."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmclip.errors import CacheUnusable
from warmclip.inference.machine import os_build
from warmclip.inference.ort.loading import onnxruntime_build
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.providers import Provider

_KEPT_COPIES = 2  # of the weights for each batch: CoreML keeps its package and what it compiles


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModels:
    """The compiled models of one graph on one provider.

    Attributes:
        graph: the file.
        provider: what compiles it.
        digest: of its content.
        size_bytes: of the graph with its weights.
        length: in tokens, of every text.
        cache: where they are kept.
    """

    graph: Path
    provider: Provider
    digest: str
    size_bytes: int
    length: int
    cache: ModelCache

    def identity(self, size: int) -> dict[str, Any]:
        """What decides what is compiled; the path as well, of which CoreML makes its own key."""
        return {
            "graph": self.digest,
            "path": str(self.graph.absolute()),
            "onnxruntime": onnxruntime_build(),
            "os": os_build(),
            "batch": size,
            "length": self.length,
            "provider": self.provider.identity(),
        }

    def require_space(self, size: int | None = None) -> None:
        """See that those which are not compiled yet fit on the disk.

        Args:
            size: of the batch whose model is wanted: if that is there, nothing is asked.

        Raises:
            CacheUnusable: they do not.
        """
        try:
            missing = [it for it in self._sizes if not self.cache.has(self.identity(it))]
            # One more copy is somewhere while it is compiled.
            needed = (_KEPT_COPIES * len(missing) + 1) * self.size_bytes
            free = shutil.disk_usage(self.cache.nearest_folder).free
        except OSError:  # such as a folder of somebody else: whoever loads says what is wrong
            return
        if not missing or free >= needed or (size is not None and size not in missing):
            return
        raise CacheUnusable(
            f"{needed / 1e6:.0f} MB of free space are needed for what it compiles, in "
            f"{self.cache.folder}; there are {free / 1e6:.0f}"
        )

    def remove(self) -> None:
        """Delete them; what another process is at just now stays."""
        for size in self._sizes:
            self.cache.remove(self.identity(size))

    @property
    def _sizes(self) -> tuple[int, ...]:
        """The batches that a model is compiled for; none: this provider keeps nothing."""
        return () if self.provider.cache_option is None else self.provider.buckets
