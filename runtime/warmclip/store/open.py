"""The store that the settings name."""

import contextlib
from collections.abc import Callable

from warmclip.errors import NotStored, StoreHeld
from warmclip.progress import Progress
from warmclip.settings import Settings
from warmclip.store.qdrant import QdrantStore
from warmclip.store.question import question


def open_store(
    settings: Settings, lock: int | None = None, *, progress: Progress | None = None
) -> QdrantStore:
    """Open a Qdrant server's store, or the embedded one under ``home``.

    Args:
        settings: with the server's address, or the home.
        lock: of the embedded store, from ``lock_store``; without it, it is taken here.
        progress: told how far it is, while an embedded store of the former format is converted.

    Raises:
        StoreHeld: another process owns the embedded store.
        SettingsError: ``qdrant_collection`` is none of Qdrant's.
        StoreError: the embedded store cannot be used. A server is not asked yet.
    """
    if settings.qdrant_url is not None:
        return _open_server(settings, settings.qdrant_url, lambda: None)
    return QdrantStore.embedded(settings.embedded_store, lock, progress=progress)


def share_store(settings: Settings, *, progress: Progress | None = None) -> QdrantStore:
    """Open the store beside others: whoever was first to open an embedded one serves the rest.

    Only rebuilding and optimizing a collection raise StoreHeld while another process owns it.

    Args:
        settings: as for ``open_store``.
        progress: likewise.

    Raises:
        SettingsError, StoreError: likewise; never StoreHeld.
    """
    with contextlib.suppress(StoreHeld):
        return open_store(settings, progress=progress)
    return QdrantStore.remote(settings.embedded_store, take_over=True)


def read_model_in_use(settings: Settings, *, patience_s: float) -> str | None:
    """The fingerprint of the model that the settings' collection is of; None if there is none.

    Args:
        settings: of the store and the collection. An embedded store is asked through its owner.
        patience_s: how long an answer is waited for.

    Raises:
        StoreError: the store failed, or nobody owns the embedded one.
    """
    if settings.qdrant_url is None:
        store = QdrantStore.remote(settings.embedded_store, patience_s=patience_s)
    else:
        store = QdrantStore.server(settings.qdrant_url, settings.qdrant_api_key)
    with store, question(patience_s), contextlib.suppress(NotStored):
        return store.fingerprint_of(settings.collection)
    return None


def borrow_store(
    settings: Settings, *, on_retry: Callable[[], object] = lambda: None
) -> QdrantStore:
    """As ``share_store``, but an embedded one is left to its owner, and never owned here.

    Args:
        settings: likewise.
        on_retry: called before a request to a server is repeated.

    Raises:
        SettingsError: likewise.
    """
    if settings.qdrant_url is not None:
        return _open_server(settings, settings.qdrant_url, on_retry)
    return QdrantStore.remote(settings.embedded_store)


def _open_server(settings: Settings, url: str, on_retry: Callable[[], object]) -> QdrantStore:
    return QdrantStore.server(
        url, settings.qdrant_api_key, options=settings.qdrant_collection, on_retry=on_retry
    )
