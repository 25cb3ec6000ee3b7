"""warmclip: OpenCLIP as a warm, fork-safe ONNX embedding backend.

Importing this package loads no onnxruntime: each public name is resolved when it is first used
(PEP 562), so that a process which only sends jobs stays light and safe to fork.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warmclip.client.client import AsyncClient, Client
    from warmclip.client.in_process import InProcess
    from warmclip.client.through_queue import ThroughQueue
    from warmclip.errors import ImagesUnreadable, ImageUnreadable, WarmclipError
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.report import IndexReport
    from warmclip.inference.bundle import ModelBundle
    from warmclip.inference.encoder import Encoder
    from warmclip.settings import Settings
    from warmclip.store.protocol import Hit, Point, VectorStore

__all__ = [
    "AsyncClient",
    "Client",
    "Encoder",
    "Hit",
    "ImageUnreadable",
    "ImagesUnreadable",
    "InProcess",
    "IndexReport",
    "Indexer",
    "ModelBundle",
    "Point",
    "Settings",
    "ThroughQueue",
    "VectorStore",
    "WarmclipError",
]

__version__: str
"""The installed version, such as ``0.1.0``."""

_HOME = {
    "AsyncClient": "warmclip.client.client",
    "Client": "warmclip.client.client",
    "Encoder": "warmclip.inference.encoder",
    "Hit": "warmclip.store.protocol",
    "ImageUnreadable": "warmclip.errors",
    "ImagesUnreadable": "warmclip.errors",
    "IndexReport": "warmclip.indexing.report",
    "InProcess": "warmclip.client.in_process",
    "Indexer": "warmclip.indexing.indexer",
    "ModelBundle": "warmclip.inference.bundle",
    "Point": "warmclip.store.protocol",
    "Settings": "warmclip.settings",
    "ThroughQueue": "warmclip.client.through_queue",
    "VectorStore": "warmclip.store.protocol",
    "WarmclipError": "warmclip.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes longer to import than the rest of this

        return version("warmclip")
    if name not in _HOME:
        raise AttributeError(f"module 'warmclip' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as exc:
        from warmclip.errors import missing_package

        package = missing_package(exc)
        extra = "client" if _HOME[name].startswith("warmclip.client") else "cpu"
        raise ModuleNotFoundError(
            f"warmclip.{name} needs {package}: pip install 'warmclip[{extra}]'", name=package
        ) from exc


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
