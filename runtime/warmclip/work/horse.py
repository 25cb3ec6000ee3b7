"""What the process that runs jobs owns: a warm Encoder, and the store.

In this version that process is the worker itself. Both are opened once, before the first job,
and never cross a fork. The modules that they need are imported only when a horse is opened, so
that a process which names a job loads none.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmclip.errors import ForkedSessionError, JobRefused
from warmclip.indexing.files import canonical_roots
from warmclip.settings import Root, Settings

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.indexing.store import VectorStore
    from warmclip.inference.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Horse:
    """One process's share of a worker."""

    settings: Settings
    roots: tuple[Root, ...]  # of the settings, their folders' real paths
    encoder: "Encoder"
    store: "VectorStore"
    pid: int

    def indexer(self, collection: str) -> "Indexer":
        """An Indexer of one collection, with the warm Encoder and the open store."""
        from warmclip.indexing.indexer import Indexer

        return Indexer.from_settings(self.encoder, self.store, self.settings, collection)


_horse: Horse | None = None


@contextmanager
def open_horse(settings: Settings) -> Iterator[Horse]:
    """Load the model and open the store; inside, ``current`` finds them.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
        StoreHeld: another worker owns the embedded store.
    """
    global _horse  # noqa: PLW0603 - jobs are called by name, so what they need has one place
    from warmclip.indexing.qdrant import open_store
    from warmclip.inference.encoder import Encoder

    encoder = Encoder.from_settings(settings)
    with closing(open_store(settings)) as store:
        encoder.warm()
        _horse = Horse(
            settings=settings,
            roots=canonical_roots(settings.roots),
            encoder=encoder,
            store=store,
            pid=os.getpid(),
        )
        try:
            yield _horse
        finally:
            _horse = None


def current() -> Horse:
    """The horse of this process.

    Raises:
        JobRefused: there is none.
        ForkedSessionError: it belongs to the process that this one was forked from.
    """
    if _horse is None:
        raise JobRefused(
            "no warm model in this process: warmclip's jobs run in `warmclip worker`, "
            "not in `rq worker`"
        )
    if _horse.pid != os.getpid():
        raise ForkedSessionError(
            f"this process was forked from the worker {_horse.pid}, and a forked model crashes "
            "on macOS and slows down elsewhere: use `warmclip worker`, which does not fork"
        )
    return _horse
