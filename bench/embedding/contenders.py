"""Who is compared: warmclip, what a user would pick instead, and the machine itself."""

import os
from dataclasses import dataclass, field
from typing import Any

from bench.machine import allowed_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to embed, in a process of its own.

    Attributes:
        name: in the table.
        adapter: the class that ``child`` loads.
        options: of that class.
        in_peers_venv: it needs the bench's own virtual environment.
        least_cosine: to open_clip's vectors, or it does not do the same work; None where
            there are no vectors.
        needs_bundle: it embeds, or serves a collection of warmclip's model.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    in_peers_venv: bool = False
    least_cosine: float | None = 0.999
    needs_bundle: bool = True

    @property
    def needs_checkpoint(self) -> bool:
        """Whether its vectors are compared with open_clip's, of the same weights."""
        return self.least_cosine is not None


WARM = "warmclip"
INT8 = "warmclip, int8"
SCALED = "warmclip, scaled decoding"
INT8_SCALED = "warmclip, int8, scaled decoding"
TORCH = "open_clip, torch"
COMPILED = "open_clip, torch.compile"
LOADER = "open_clip, torch, DataLoader"
STOCK = "onnxruntime, stock export"
TRANSFORMERS = "transformers, torch"
FASTEMBED = "fastembed"
SERVICE = "warmclip serve"
SINGLY = "warmclip serve, each search a job"
TILES = "warmclip serve, thumbnails"
GEMM = "matrix products alone"
STORE = "warmclip, embedded store"
LOCAL = "qdrant-client, local mode"
SQLITE = "SQLite and numpy, as rclip searches"

# What departs from open_clip on purpose, in arithmetic or preprocessing, is only kept from being
# nonsense.
_APPROXIMATE = 0.95

CONTENDERS = {
    it.name: it
    for it in (
        Contender(name=WARM, adapter="warmclip"),
        Contender(
            name=SCALED,
            adapter="warmclip",
            options={"decode": "scaled"},
            least_cosine=_APPROXIMATE,
        ),
        Contender(
            name=INT8,
            adapter="warmclip",
            options={"provider": "cpu-int8"},
            least_cosine=_APPROXIMATE,
        ),
        Contender(
            name=INT8_SCALED,
            adapter="warmclip",
            options={"provider": "cpu-int8", "decode": "scaled"},
            least_cosine=_APPROXIMATE,
        ),
        Contender(name=TORCH, adapter="open_clip"),
        Contender(name=COMPILED, adapter="open_clip", options={"compiled": True}),
        Contender(name=LOADER, adapter="open_clip", options={"loaders": allowed_cores()}),
        Contender(name=STOCK, adapter="onnxruntime"),
        Contender(
            name=FASTEMBED, adapter="fastembed", in_peers_venv=True, least_cosine=_APPROXIMATE
        ),
        Contender(
            name=TRANSFORMERS,
            adapter="transformers",
            in_peers_venv=True,
            least_cosine=_APPROXIMATE,
        ),
        Contender(name=SERVICE, adapter="service", least_cosine=None),
        Contender(name=SINGLY, adapter="service", options={"together": False}, least_cosine=None),
        Contender(name=TILES, adapter="gallery", least_cosine=None),
        Contender(name=GEMM, adapter="gemm", least_cosine=None),
        Contender(name=STORE, adapter="embedded-store", least_cosine=None, needs_bundle=False),
        Contender(name=LOCAL, adapter="local-qdrant", least_cosine=None, needs_bundle=False),
        Contender(name=SQLITE, adapter="sqlite-numpy", least_cosine=None, needs_bundle=False),
    )
}

_THREADS = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_")
_OURS = ("WARMCLIP_", "REDIS_", "RQ_", "QDRANT_")


def environment(repository: str) -> dict[str, str]:
    """What every contender sees: nobody's settings, the default threads of its libraries."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_OURS + _THREADS)
    }
    path = os.pathsep.join(filter(None, (repository, kept.get("PYTHONPATH"))))
    # Nobody downloads: whoever needs the network is told so, and says it in the table.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    return kept | offline | {"PYTHONPATH": path}
