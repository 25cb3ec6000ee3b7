"""A cache of the vectors of texts: people search for the same words again."""

import threading
from collections import OrderedDict
from typing import TypeAlias

from warmclip.inference.arrays import Vector

Key: TypeAlias = tuple[str, bytes]
"""The provider that computes it, and the tokens: texts that are cleaned to the same are one."""

_MOST = 1024  # some 3 MB


class RecentTexts:
    """At most 1,024 vectors; the one that was not asked for longest goes first."""

    def __init__(self) -> None:
        self._vectors: OrderedDict[Key, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Key) -> Vector | None:
        """The vector, if it is still known."""
        with self._lock:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
            return vector

    def keep(self, key: Key, vector: Vector) -> None:
        """Remember a vector."""
        with self._lock:
            self._vectors[key] = vector
            self._vectors.move_to_end(key)
            if len(self._vectors) > _MOST:
                self._vectors.popitem(last=False)
