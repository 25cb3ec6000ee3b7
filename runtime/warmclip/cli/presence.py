"""Whether the files of hits are there."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from warmclip.errors import ImageUnavailable
from warmclip.indexing.files import is_file_gone
from warmclip.inference.reading import FileReader
from warmclip.settings import Limits
from warmclip.store.protocol import Hit

_LOOK_S = 3.0  # for a disk to tell whether a file is there


class Presence:
    """Which files are there; after one look that takes too long, nothing more is looked at."""

    def __init__(self, limits: Limits) -> None:
        """Nothing is looked at yet."""
        self._reader = FileReader(limits)
        self._is_late = False
        self._there: dict[str, bool] = {}

    def is_there(self, path: str) -> bool | None:
        """Whether there is such a file here now; None: it was not looked at, or too slowly."""
        if path not in self._there:
            is_gone = self._look(partial(is_file_gone, path))
            if is_gone is not None:
                self._there[path] = not is_gone
        return self._there.get(path)

    def is_folder(self, path: Path) -> bool | None:
        """Whether there is such a folder here now; None: likewise."""
        return self._look(path.is_dir)

    def keep_existing(self, hits: Sequence[Hit], limit: int) -> list[Hit]:
        """The first of those whose files are not gone."""
        kept = (hit for hit in hits if self.is_there(hit.payload.path) is not False)
        return list(islice(kept, limit))

    def _look(self, ask: Callable[[], bool]) -> bool | None:
        if not self._is_late:
            try:
                return self._reader.read(ask, seconds=_LOOK_S)
            except ImageUnavailable:
                self._is_late = True
        return None
