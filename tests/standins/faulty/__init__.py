"""Providers that go wrong, for child processes that have this folder on their PYTHONPATH."""

import os
from pathlib import Path


def environment(fault: str | None = None, **more: str) -> dict[str, str]:
    """The variables of a process that knows them, with one of them in front in ``auto``."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}
    if fault is not None:
        variables["FAULTY_AUTO"] = f"faulty-{fault}"
        variables.setdefault("WARMCLIP_PROVIDER", "auto")
    return os.environ | variables
