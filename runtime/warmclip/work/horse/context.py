"""What a horse owns: a warm Encoder, and the store.

The encoder is opened once, before the first job, and never crosses a fork; the store is opened
when a job first needs it. The modules that they need are imported only then, so that a process
which names a job loads none.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from warmclip.activity import Activity, Unwatched
from warmclip.errors import ForkedSessionError, JobRefused
from warmclip.indexing.roots import Roots
from warmclip.progress import Progress
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.inference.encoder import Encoder
    from warmclip.store.protocol import VectorStore


class JobContext:
    """What a job finds in its process: a warm Encoder, the store, and the settings.

    Attributes:
        settings: the worker's.
        roots: of the settings.
        encoder: loaded, and run once.
        progress: told how far a job is.
        pid: the process that this belongs to.
    """

    def __init__(
        self, settings: Settings, encoder: "Encoder", progress: Progress, store_owner: int | None
    ) -> None:
        self.settings = settings
        self.roots = Roots(settings.roots)
        self.encoder = encoder
        self.progress = progress
        self.pid = os.getpid()
        self._store_owner = store_owner

    @cached_property
    def store(self) -> "VectorStore":
        """The store, opened now; a store of the former format is converted, with progress."""
        from warmclip.store.open import open_store

        return open_store(self.settings, self._store_owner, progress=self.progress)

    def indexer(self, collection: str) -> "Indexer":
        """An Indexer of one collection, with the warm Encoder and the open store."""
        from warmclip.indexing.indexer import Indexer

        return Indexer.from_settings(self.encoder, self.store, self.settings, collection)

    def close(self) -> None:
        """Let go of the store, if it was opened."""
        if "store" in self.__dict__:
            self.store.close()


_context: JobContext | None = None


@contextmanager
def open_context(
    settings: Settings,
    *,
    activity: Activity | None = None,
    progress: Progress = lambda _done, _total, _stage: None,
    store_owner: int | None = None,
) -> Iterator[JobContext]:
    """Load the model; inside, ``current_context`` finds it.

    Args:
        settings: which model, and where vectors go.
        activity: told of each piece of native work.
        progress: told how far a job is.
        store_owner: the embedded store's lock, if the worker holds it.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
    """
    global _context  # noqa: PLW0603 - jobs are called by name, so what they need has one place
    from warmclip.inference.encoder import Encoder

    activity = activity or Unwatched()
    with activity.during("load", f"the model {settings.bundle}"):
        encoder = Encoder.from_settings(settings, progress=progress, activity=activity)
        encoder.warm()
    _context = JobContext(settings, encoder, progress, store_owner)
    try:
        yield _context
    finally:
        _context.close()
        _context = None


def is_horse() -> bool:
    """Whether this process is a horse, and so has a context; no child of one that was forked is."""
    return _context is not None and _context.pid == os.getpid()


def current_context() -> JobContext:
    """The context of this process, which is a horse.

    Raises:
        JobRefused: there is none.
        ForkedSessionError: it belongs to the process that this one was forked from.
    """
    if _context is None:
        raise JobRefused(
            "no warm model in this process: warmclip's jobs run in `warmclip worker`, "
            "not in `rq worker`"
        )
    if _context.pid != os.getpid():
        raise ForkedSessionError(
            f"this process was forked from the horse {_context.pid}, and a forked model crashes "
            "on macOS and slows down elsewhere: use the model where it was loaded"
        )
    return _context
