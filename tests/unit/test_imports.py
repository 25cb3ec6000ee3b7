import os
import subprocess
import sys
from pathlib import Path

import pytest

import warmclip

HEAVY = [
    "torch",
    "open_clip",
    "onnx",
    "onnxruntime",
    "qdrant_client",
    "qdrant_edge",
    "rq",
    "numpy",
    "PIL",
    "pydantic",
]


@pytest.mark.parametrize(
    "module",
    [
        "warmclip",
        "warmclip.cli",
        "warmclip.inference.providers",
        "warmclip.inference.selection.quarantine",
    ],
)
def test_importing_is_light(module: str) -> None:
    """A process that only sends jobs, or prints help, loads nothing that makes forking unsafe."""
    code = f"import sys, {module}; print(*(set({HEAVY}) & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_client_of_workers_is_light() -> None:
    """It needs Redis' client and NumPy: an application may have an RQ of its own, or none."""
    code = (
        "import sys; from warmclip import AsyncClient, Client, Settings, ThroughQueue;"
        f"print(*(set({HEAVY}) & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["numpy"]


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("empty", "onnxruntime is not installed: pip install 'warmclip[cpu]', or"),
        ("onnxruntime/capi", "Uninstall all of them, then install one"),
    ],
)
def test_without_onnxruntime(tmp_path: Path, folder: str, told: str) -> None:
    """Where it is missing, or one of two builds was removed, the error says what to install."""
    (tmp_path / folder).mkdir(parents=True)
    path = os.pathsep.join([str(Path(warmclip.__file__).parents[1]), str(tmp_path)])
    code = "from warmclip.inference.ort.loading import load_onnxruntime; load_onnxruntime()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("warmclip.errors.ProviderUnavailable: ")
    assert told in done.stderr


def test_public_names_resolve() -> None:
    """Each listed name is there, and a wrong one is an AttributeError."""
    assert sorted(warmclip.__all__, key=str.lower) == sorted(set(warmclip.__all__), key=str.lower)
    for name in warmclip.__all__:
        assert getattr(warmclip, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Embedder'"):
        warmclip.Embedder  # noqa: B018 - looking it up is the test
