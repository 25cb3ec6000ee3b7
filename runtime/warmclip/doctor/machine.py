"""What this machine is: system, chip, memory, Python, and the packages that matter."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from warmclip.inference.machine import (
    chip,
    macos_version,
    memory_bytes,
    os_build,
    usable_cores,
)
from warmclip.sysctl import read_sysctl

_OURS = (
    "warmclip", "numpy", "pillow", "rq", "redis", "qdrant-client", "qdrant-edge-py",
    "tokenizers",
)  # fmt: skip
_RUNTIME = "onnxruntime"
_IF_INSTALLED = ("pillow-heif", "torch", "open_clip_torch", "setproctitle")
_FORMATS_S = 30.0  # for a child that imports Pillow

# Variables that people set against these crashes, and what they do instead.
_INEFFECTIVE_VARIABLES = {
    "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": (
        "it silences Objective-C's own check; a forked child still has no Metal compiler"
    ),
    "PYTORCH_ENABLE_MPS_FALLBACK": (
        "it moves operators that MPS lacks to the CPU; a crash is no lacking operator"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What matters of a machine for what runs on it and what crashes."""

    system: str  # such as "macOS 15.1"
    build: str  # such as "macOS 15.1 24B83"; on Linux the kernel
    architecture: str
    chip: str
    cores: int
    usable_cores: int  # physical ones, by this process
    memory_bytes: int | None
    python: str
    executable: str
    packages: Mapping[str, str | None]  # name -> version; None: not installed
    formats: Mapping[str, bool]  # of pictures -> whether they can be read
    notes: tuple[str, ...]  # warnings about its environment and packages

    def to_dict(self) -> dict[str, Any]:
        """The machine as JSON can carry it."""
        return asdict(self)


def read_machine(environ: Mapping[str, str]) -> Machine:
    """Read what this process runs on.

    Args:
        environ: the environment; some of its variables get a note.
    """
    builds = _distributions_of(_RUNTIME)
    packages = {name: _version(name) for name in (*_OURS, *(builds or (_RUNTIME,)))}
    packages |= {name: found for name in _IF_INSTALLED if (found := _version(name))}
    is_mac = sys.platform == "darwin"
    return Machine(
        system=f"macOS {macos_version()}" if is_mac else _distribution(),
        build=os_build(),
        architecture=platform.machine(),
        chip=chip(),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_bytes=memory_bytes(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=sys.executable,
        packages=packages,
        formats=_formats(),
        notes=tuple(_notes(environ, packages, builds, is_mac=is_mac)),
    )


def _notes(
    environ: Mapping[str, str],
    packages: Mapping[str, str | None],
    builds: Sequence[str],
    *,
    is_mac: bool,
) -> list[str]:
    notes = [
        f"{name} is set: {effect}"
        for name, effect in _INEFFECTIVE_VARIABLES.items()
        if environ.get(name)
    ]
    if len(builds) > 1:
        notes.append(
            f"{' and '.join(builds)} are installed over each other, and what was installed last "
            f"is there: pip uninstall {' '.join(builds)}, then install one of them"
        )
    if is_mac and _is_translated():
        notes.append("this Python is for Intel and runs under Rosetta: install one for arm64")
    if is_mac and packages.get("setproctitle"):
        notes.append("setproctitle is installed: on macOS it crashes forked children (rq/rq#2029)")
    return notes


def _formats() -> dict[str, bool]:
    """Asked in a child: what decodes pictures may crash where it is imported."""
    code = (
        "import json; from warmclip.inference.image import readable_formats; "
        "print(json.dumps(readable_formats()))"
    )
    try:
        told = subprocess.run(  # noqa: S603 - this Python, and code of ours
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            check=True,
            timeout=_FORMATS_S,
        ).stdout
        return dict(json.loads(told))
    except (subprocess.SubprocessError, OSError, ValueError):
        return {}  # Pillow or numpy is not there, which is told among the packages


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distributions_of(package: str) -> list[str]:
    """The installed distributions that bring a package, by name."""
    return sorted(set(importlib.metadata.packages_distributions().get(package, ())))


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return platform.system()


def _is_translated() -> bool:
    """Whether an Intel program runs here on Apple Silicon."""
    return read_sysctl("sysctl.proc_translated") == "1"
