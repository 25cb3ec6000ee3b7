"""What a horse owns: a warm Encoder, and the store.

Both are opened before the first job, and never cross a fork. The store comes first, since other
processes use it through this one. The modules that they need are imported only then, so that a
process which names a job loads none.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from warmclip.activity import Activity, Unwatched
from warmclip.errors import ForkedSessionError, JobRefused, StoreError
from warmclip.indexing.roots import Roots
from warmclip.progress import Progress
from warmclip.settings import Settings

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.inference.encoder import Encoder
    from warmclip.store.protocol import VectorStore

log = logging.getLogger(__name__)


class JobContext:
    """What a job finds in its process: a warm Encoder, the store, and the settings.

    Attributes:
        settings: the worker's.
        roots: of the settings.
        encoder: loaded, and run once.
        progress: told how far a job is.
        pid: the process that this belongs to.
    """

    encoder: "Encoder"

    def __init__(self, settings: Settings, progress: Progress, store_owner: int | None) -> None:
        self.settings = settings
        self.roots = Roots(settings.roots)
        self.progress = progress
        self.pid = os.getpid()
        self._store_owner = store_owner

    @cached_property
    def store(self) -> "VectorStore":
        """The store, opened when it is first asked for, if it was not before.

        Without the embedded store's lock it is used through the process that has it.
        """
        from warmclip.store.open import borrow_store, open_store

        if self._store_owner is None:
            return borrow_store(self.settings)
        return open_store(self.settings, self._store_owner, progress=self.progress)

    def offer_store(self) -> None:
        """Open the embedded store for others to use, if this process owns it.

        One of the former format is converted by the first job that needs it, with progress. Why
        one cannot be opened, that job says.
        """
        from warmclip.store.embedded_catalog import is_of_former_format

        if self._store_owner is not None and not is_of_former_format(self.settings.embedded_store):
            try:
                _ = self.store
            except StoreError as exc:
                log.warning("%s", exc)

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
        store_owner: the embedded store's lock, if the worker holds it; else the store is used
            through the process that holds it.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
    """
    global _context  # noqa: PLW0603 - jobs are called by name, so what they need has one place
    from warmclip.inference.encoder import Encoder

    activity = activity or Unwatched()
    context = JobContext(settings, progress, store_owner)
    try:
        context.offer_store()
        with activity.during("load", f"the model {settings.bundle}"):
            context.encoder = Encoder.from_settings(settings, progress=progress, activity=activity)
            context.encoder.warm()
        _context = context
        yield context
    finally:
        _context = None
        context.close()


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
