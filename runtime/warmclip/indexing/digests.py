"""Which points of an embedded collection have which content.

A server has an index for that. The embedded mode compares every digest that is asked for with
every point there is: 2.3 s for 256 of them among 10,000 points.
"""

from collections import defaultdict
from collections.abc import Iterable


class Digests:
    """One collection's points by digest, as the store's one owner has written them."""

    def __init__(self, points: Iterable[tuple[str, str]] = ()) -> None:
        """Start from (id, digest) of what is there."""
        self._digest: dict[str, str] = {}
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        for point_id, digest in points:
            self.put(point_id, digest)

    def put(self, point_id: str, digest: str) -> None:
        """A point was written, perhaps over another content."""
        self.remove(point_id)
        self._digest[point_id] = digest
        self._ids[digest].add(point_id)

    def remove(self, point_id: str) -> None:
        """A point was deleted; one that is not there is no error."""
        digest = self._digest.pop(point_id, None)
        if digest is not None:
            self._ids[digest].discard(point_id)
            if not self._ids[digest]:
                del self._ids[digest]

    def find(self, digests: Iterable[str]) -> list[str]:
        """The ids of the points that have one of these contents."""
        return sorted(id_ for digest in digests for id_ in self._ids.get(digest, ()))
