"""Python's looks for garbage, which what ends soon can do without."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = 100_000  # objects between two looks


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Look for garbage rarely meanwhile, and never again among what is there afterwards.

    Each look goes through all objects that there are, and Python takes many while it imports, and
    several as it ends: a fifth of what a search takes, in which there is no garbage. What goes on
    for long needs them: the pictures and models in its cycles would stay.
    """
    usual = gc.get_threshold()
    gc.set_threshold(_RARELY)
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*usual)
