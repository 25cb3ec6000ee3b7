"""Which packages made a bundle or a report, by version."""

import importlib.metadata

_MADE_WITH = (
    "warmclip", "open_clip_torch", "torch", "timm", "transformers", "tokenizers", "onnx",
    "onnxscript", "onnxruntime", "numpy",
)  # fmt: skip


def made_with() -> dict[str, str]:
    """The versions of the packages that decide what is computed."""
    return {name: _version(name) for name in _MADE_WITH}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout
