"""The functions that a worker runs. JSON in, JSON out; results are found by name, not by place.

Any RQ producer may enqueue them by name::

    from rq import Queue
    from rq.serializers import JSONSerializer

    queue = Queue(connection=redis, serializer=JSONSerializer)
    queue.enqueue("warmclip.work.jobs.index_images", ["/mnt/photos/a.jpg"], "photos")
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from warmclip.errors import ImagesUnreadable, ImageUnreadable, JobRefused
from warmclip.indexing.files import is_inside, read_picture
from warmclip.inference.reading import LazyImage
from warmclip.settings import Root, Settings, check_collection
from warmclip.work.horse.warm import Horse, current

_MOST_HITS = 1_000


def index_images(paths: list[str], collection: str) -> dict[str, Any]:
    """Bring a collection up to date with these files, and return an IndexReport as a dict.

    Raises:
        JobRefused: a path is outside the roots, or there are too many.
        SpaceMismatch: the collection holds vectors of another model.
        StoreError: the store failed.
    """
    here = current()
    check_paths(paths, here.settings, here.roots)
    return _index(here, paths, check_collection(collection))


def embed_images(paths: list[str]) -> dict[str, Any]:
    """Embed files without storing anything.

    Returns:
        ``vectors``: path -> unit vector, a list of ``dim`` numbers; ``unreadable``: path ->
        reason; ``fingerprint`` of the embedding space; ``dim``.

    Raises:
        JobRefused: a path is outside the roots, or there are too many.
    """
    here = current()
    check_paths(paths, here.settings, here.roots)
    vectors, unreadable = {}, {}
    items = ((path, LazyImage(path, partial(_read, path, here))) for path in dict.fromkeys(paths))
    for path, result in here.encoder.encode_each(items):
        if isinstance(result, ImageUnreadable):
            unreadable[path] = str(result)
        else:
            vectors[path] = result.vector.tolist()
    return _space(here) | {"vectors": vectors, "unreadable": unreadable}


def embed_texts(texts: list[str]) -> dict[str, Any]:
    """Embed texts.

    Returns:
        ``vectors``: text -> unit vector, a list of ``dim`` numbers; ``fingerprint``; ``dim``.

    Raises:
        JobRefused: the texts are no list of str, or too many.
        TextRefused: one is longer than the limit.
    """
    here = current()
    check_items(texts, "texts", here.settings)
    unique = list(dict.fromkeys(texts))
    rows = here.encoder.encode_texts(unique).tolist()
    return _space(here) | {"vectors": dict(zip(unique, rows, strict=True))}


def search(
    collection: str, *, text: str | None = None, image: str | None = None, limit: int = 10
) -> dict[str, Any]:
    """Find the pictures nearest to a text, or to the picture in a file.

    Returns:
        ``hits``: best first, each with score, id and the payload's fields; ``fingerprint``;
        ``dim``.

    Raises:
        JobRefused: not exactly one of text and image, an image outside the roots, or a limit
            that is no number from 1 to 1000.
        ImageUnreadable: the image.
        TextRefused: the text.
        StoreError: there is no such collection.
    """
    here = current()
    indexer = here.indexer(check_collection(collection))
    if type(limit) is not int or not 1 <= limit <= _MOST_HITS:
        raise JobRefused(f"limit={limit!r}: use a whole number from 1 to {_MOST_HITS}")
    match text, image:
        case str(), None:
            hits = indexer.search(text, limit=limit)
        case None, str():
            check_paths([image], here.settings, here.roots)
            try:
                hits = indexer.search(
                    image=LazyImage(image, partial(_read, image, here)), limit=limit
                )
            except ImagesUnreadable as exc:
                raise ImageUnreadable(f"{image!r}: {exc.reasons[0]}") from exc
        case _:
            raise JobRefused("search for a text or for an image: give exactly one of the two")
    return _space(here) | {"hits": [hit.to_dict() for hit in hits]}


def check_items(items: Any, what: str, settings: Settings) -> None:
    """Refuse what is no list of str, or too long.

    Raises:
        JobRefused: with the bound and its variable.
    """
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise JobRefused(f"{what} must be a list of strings")
    most = settings.limits.job_items
    if len(items) > most:
        raise JobRefused(
            f"{len(items)} {what} in one job, at most {most} are accepted "
            "(WARMCLIP_MAX_JOB_ITEMS); cut it into several"
        )


def check_paths(paths: Any, settings: Settings, roots: Sequence[Root]) -> None:
    """Refuse a job that names a file outside the roots, before any file is opened.

    What a path really leads to is checked again when the file is open; a picture that turns out
    to be elsewhere is then skipped by itself.

    Args:
        paths: what the job names.
        settings: whose Redis and bounds to go by.
        roots: from ``canonical_roots``.

    Raises:
        JobRefused: naming the path and WARMCLIP_ROOTS.
    """
    check_items(paths, "paths", settings)
    if not roots and settings.redis_url is not None:
        raise JobRefused(
            "this worker takes jobs from a shared Redis (REDIS_URL) and has no roots, so it opens "
            "no files for them; set WARMCLIP_ROOTS to the folders that jobs may name"
        )
    for path in paths:
        if not _is_plain(path):
            raise JobRefused(f"{path!r} is not an absolute path without '..'")
        # As written, or as it is: a link in a root that leads out costs itself, not its neighbours.
        spellings = (os.path.normpath(path), os.path.realpath(path))
        if roots and not any(is_inside(each, (*settings.roots, *roots)) for each in spellings):
            listed = ", ".join(str(root.folder) for root in roots)
            raise JobRefused(f"{path!r} is outside the roots {listed} (WARMCLIP_ROOTS)")


def _is_plain(path: str) -> bool:
    """Absolute, without a NUL, without "..", which could ask what lies outside; a file's name."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return Path(path).is_absolute() and "\0" not in path and ".." not in Path(path).parts


def _index(here: Horse, paths: list[str], collection: str) -> dict[str, Any]:
    report = here.indexer(collection).index_files(paths, progress=here.progress)
    return report.to_dict()


def _read(path: str, here: Horse) -> bytes:
    return read_picture(path, here.roots, here.settings.limits)[1]


def _space(here: Horse) -> dict[str, Any]:
    return {"fingerprint": here.encoder.fingerprint, "dim": here.encoder.dim}
