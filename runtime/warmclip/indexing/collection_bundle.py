"""Which of the bundles here a collection is read and written with: the one of its vectors."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from warmclip.errors import BundleError, NotStored
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.model_card import find_bundles
from warmclip.settings import Settings

if TYPE_CHECKING:  # a worker's own process imports this module, and stays light
    from warmclip.store.protocol import VectorStore

log = logging.getLogger(__name__)


def find_bundle(settings: Settings, fingerprint: str) -> Path | None:
    """The bundle that embeds in a space, with these settings; None if it is not here.

    Looked at are WARMCLIP_BUNDLE, what lies beside it, and the folders of models. What lies there
    and is of another owner than WARMCLIP_BUNDLE is passed by: its folder may be open to all.
    """
    folders = {it.absolute(): None for it in (settings.bundle.parent, *settings.model_folders)}
    owner = _owner(settings.bundle)
    for folder in (settings.bundle, *find_bundles(folders)):
        if owner is None or _owner(folder) == owner:
            try:
                found = bundle_fingerprint(folder, settings)
            except BundleError as exc:
                log.debug("%s", exc)
            else:
                if found == fingerprint:
                    return folder
    return None


def bundle_fingerprint(folder: Path, settings: Settings) -> str:
    """The space in which a bundle embeds with these settings; no graph is loaded.

    Raises:
        BundleError: it cannot be used.
    """
    manifest = ModelBundle.open(folder).manifest
    recipe = {"exif": settings.exif, "decode": settings.decode}
    return manifest.derive_fingerprint(manifest.image.model_copy(update=recipe))


def follow_collection(settings: Settings, store: "VectorStore") -> Settings:
    """The settings with the bundle whose vectors the collection holds, if that one is here.

    They stay as they are for a collection that is not there yet.

    Raises:
        StoreError: the store failed.
    """
    try:
        fingerprint = store.fingerprint_of(settings.collection)
    except NotStored:
        return settings
    bundle = find_bundle(settings, fingerprint)
    return settings if bundle is None else replace(settings, bundle=bundle)


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None
