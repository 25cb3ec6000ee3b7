"""How long work tells how far it is."""

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Told (done, total, stage), such as (64, 300, "indexing"); a total of 0 is not known yet."""
