"""How a job names a function of ours, and a file; how many files it may name."""

import os
from pathlib import Path

from warmclip.settings import Settings

DEFAULT_CHUNK = 32  # images in one job: a second or two of work, which a question waits for


def job_name(function: str) -> str:
    """A function of ``jobs`` as a job names it."""
    return f"warmclip.work.jobs.{function}"


def absolute(path: str) -> str:
    """As a job may name it: without "..", which a worker takes for a way out of its roots."""
    whole = Path(path).absolute()
    return os.path.realpath(whole) if ".." in whole.parts else str(whole)


def chunk_size(settings: Settings, wanted: int = DEFAULT_CHUNK) -> int:
    """How many pictures go into one job: no more than workers take."""
    return min(wanted, settings.limits.job_items)
