"""The store that the settings name."""

from warmclip.progress import Progress
from warmclip.settings import Settings
from warmclip.store.qdrant import QdrantStore


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
        return QdrantStore.server(
            settings.qdrant_url, settings.qdrant_api_key, options=settings.qdrant_collection
        )
    return QdrantStore.embedded(settings.embedded_store, lock, progress=progress)
