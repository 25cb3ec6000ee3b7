"""Which machine this tier runs on, and what it has: a Mac, or any other for a rehearsal.

With APPLE_REHEARSAL set, the CPU provider stands for CoreML and torch's CPU for MPS, so that the
code of the tests runs where there is no Mac. That proves nothing about Apple's frameworks.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from typing import NoReturn

import pytest

from warmclip.inference.machine import chip, os_build
from warmclip.inference.providers import AUTO, PROVIDERS

IS_REHEARSAL = bool(os.environ.get("APPLE_REHEARSAL"))
IS_APPLE_SILICON = sys.platform == "darwin" and platform.machine() == "arm64"

VARIANTS = tuple(
    name
    for name, it in PROVIDERS.items()
    if (it.is_reference if IS_REHEARSAL else it.family == "coreml")
)
CHOICES = (*(name for name in VARIANTS if PROVIDERS[name].in_auto), AUTO)
GPU = "cpu" if IS_REHEARSAL else "mps"  # in torch's words

_PROBE = """
import sys, torch
a = torch.ones(64, 64, device=sys.argv[1])
assert (a @ a).sum().item() == 64**3
"""
_PROBE_S = 300
MOST_CHARS = 200  # of a reason
_PACKAGES = ("onnxruntime", "torch", "open_clip_torch", "rq")


def why_not() -> str | None:
    """Why this tier does not run here."""
    if IS_APPLE_SILICON or IS_REHEARSAL:
        return None
    return (
        f"this is {platform.system()} {platform.machine()}: the tier needs macOS on Apple Silicon "
        "(APPLE_REHEARSAL=1 runs its code with the CPU in place of CoreML and MPS)"
    )


def missing(what: str) -> NoReturn:
    """Skip for want of something that can be installed; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {what}")
    pytest.skip(what)


@cache
def gpu_fault() -> str | None:
    """What torch says when it multiplies on the GPU, in a process of its own; None: all is well.

    A virtual Mac may say that it has MPS and then refuse the first allocation, as GitHub's runners
    do (actions/runner-images#9918, actions/runner-images#11899).
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, GPU],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_S} s"
    if done.returncode == 0:
        return None
    return raised(done.stderr) or f"exit code {done.returncode}"


def raised(stderr: str) -> str:
    """What a program that failed says of it: its exception's first line, else the last of all.

    torch writes a page below that line where it lacks a backend, and all that it has into it.
    """
    _, _, traceback = stderr.partition("Traceback (most recent call last):\n")
    told = [line for line in traceback.splitlines() if line and not line.startswith(" ")]
    line = (told[:1] or stderr.strip().splitlines()[-1:] or [""])[0]
    return line if len(line) <= MOST_CHARS else f"{line[: MOST_CHARS - 1]}…"


def describe() -> str:
    """The machine and the packages, in one line."""
    names = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    parts = [chip(), os_build(), f"Python {platform.python_version()}", *names]
    return ("REHEARSAL, not a Mac: " if IS_REHEARSAL else "") + ", ".join(parts)
