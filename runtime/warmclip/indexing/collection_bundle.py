"""Which of the bundles here a collection is read and written with: the one of its vectors."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from warmclip.errors import BundleError, NotStored
from warmclip.inference.bundle import MANIFEST, ModelBundle
from warmclip.inference.model_card import find_bundles
from warmclip.settings import Settings, absolute_path

if TYPE_CHECKING:  # a worker's own process imports this module, and stays light
    from warmclip.store.protocol import VectorStore

log = logging.getLogger(__name__)

_SHORTEST_PREFIX = 12  # of a fingerprint, as commands show it


def find_bundle(settings: Settings, fingerprint: str) -> Path | None:
    """The bundle that embeds in a space, with these settings; None if it is not here.

    Looked at are WARMCLIP_BUNDLE, what lies beside it, and the folders of models. What lies there
    and is of another owner than WARMCLIP_BUNDLE, or than this process if that is not there, is
    passed by: its folder may be open to all.
    """
    found = (folder for folder, space in _bundles_here(settings) if space == fingerprint)
    return next(found, None)


def find_fingerprint(settings: Settings, model: str) -> str | None:
    """The space of the bundle that a job names; None if it is not here.

    Args:
        settings: of the worker; see ``find_bundle`` for where is looked.
        model: the name of the bundle's folder, or 12 digits of its fingerprint or more.
    """
    found = None
    for folder, space in _bundles_here(settings):
        if folder.name == model:
            return space
        if len(model) >= _SHORTEST_PREFIX and space.startswith(model):
            found = space  # unless a folder has that very name
    return found


def _bundles_here(settings: Settings) -> Iterator[tuple[Path, str]]:
    """The bundles that may be used, each with the space in which it embeds."""
    folders = [absolute_path(folder) for folder in settings.bundle_folders]
    try:
        owner = settings.bundle.stat().st_uid
    except OSError:
        owner = os.geteuid()
    for folder in (settings.bundle, *find_bundles(folders)):
        try:
            is_trusted = folder == settings.bundle or _owners(folder) == {owner}
            space = bundle_fingerprint(folder, settings) if is_trusted else None
        except (BundleError, OSError) as exc:  # broken, or just being replaced
            log.debug("%s", exc)
            continue
        if space is not None:
            yield folder, space


def bundle_fingerprint(folder: Path, settings: Settings) -> str:
    """The space in which a bundle embeds with these settings; no graph is loaded.

    Raises:
        BundleError: it cannot be used.
    """
    manifest = ModelBundle.open(folder).manifest
    return manifest.derive_fingerprint(manifest.image_with(settings.exif, settings.decode))


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


def _owners(folder: Path) -> set[int]:
    """Who can change what the folder holds: it may be a link, which another user can turn."""
    return {it.st_uid for it in (folder.lstat(), folder.stat(), (folder / MANIFEST).lstat())}
