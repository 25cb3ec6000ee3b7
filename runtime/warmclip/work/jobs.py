"""The functions that a worker runs. JSON in, JSON out; results are found by name, not by place.

Any RQ producer may enqueue them by name::

    from rq import Queue
    from rq.serializers import JSONSerializer

    queue = Queue(connection=redis, serializer=JSONSerializer)
    queue.enqueue("warmclip.work.jobs.index_images", ["/mnt/photos/a.jpg"], "photos")
"""

import base64
import hashlib
import os
import platform
import socket
import uuid
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from warmclip.errors import (
    ImagesUnreadable,
    ImageUnreadable,
    JobRefused,
    NotStored,
    SpaceMismatch,
    StoreError,
    StoreUnreachable,
    WarmclipError,
)
from warmclip.indexing.files import locate_file, read_picture
from warmclip.indexing.query import Term
from warmclip.inference.machine import chip, os_build
from warmclip.inference.reading import FileReader, LazyImage
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import check_collection
from warmclip.shown import show_path, show_value
from warmclip.store.filter import Filter, check_score, count_hits
from warmclip.store.question import question
from warmclip.work.horse.context import JobContext, current_context
from warmclip.work.horse.models import ModelNeeded
from warmclip.work.job_arguments import (
    check_items,
    check_paths,
    check_questions,
    check_roots,
    decode_picture,
    point_id,
    read_query,
)

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.inference.arrays import Vector
    from warmclip.inference.encoder import Encoder
    from warmclip.store.protocol import Point

_LARGEST_SIDE_PX = 1_024
_MOST_EQUAL = 20  # hits of a canary: more pictures than these may be copies of one
_EQUAL = 0.9999  # a cosine


def index_images(
    paths: list[str], collection: str, *, retry_unreadable: bool = False
) -> dict[str, Any]:
    """Bring a collection up to date with these files, and return an IndexReport as a dict.

    A path outside the roots is skipped with that reason.

    Raises:
        JobRefused: a path is not an absolute one without "..", or there are too many.
        SpaceMismatch: the collection holds vectors of a model that this worker has no bundle of.
        StoreError: the store failed.
    """
    context = current_context()
    check_paths(paths, context.settings)
    indexer = context.indexer(check_collection(collection))
    try:
        report = indexer.index_files(
            paths, retry_unreadable=retry_unreadable is True, progress=context.progress
        )
    except SpaceMismatch as exc:  # it was switched to another model just now
        now = context.store.fingerprint_of(collection)
        raise context.missing_model_error(collection, now) from exc
    context.count_points(collection)
    return report.to_dict()


def forget_images(paths: list[str], collection: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Delete what is stored at or below these paths, whether or not the files are there.

    Paths are those that points have: no link is followed, so that a disk may be gone. The files
    themselves are not touched.

    Args:
        paths: of files or folders.
        collection: where they are stored; vectors that ``migrate`` left are cleared as well.
        dry_run: only count.

    Returns:
        A ForgetReport as a dict: ``pictures`` and ``kept`` were deleted, 20,000 at most; unless
        ``complete``, there are more, and the same job deletes them.

    Raises:
        JobRefused: a path is outside the roots, or as for ``index_images``; nothing was deleted.
        NotStored: there is no such collection.
        StoreError: the store failed.
    """
    from warmclip.indexing.forgetting import MOST_AT_ONCE, forget_pictures

    context = current_context()
    check_paths(paths, context.settings)
    report = forget_pictures(
        context.store,
        check_collection(collection),
        [context.roots.stored_path(path) for path in paths],
        home=context.settings.home,
        dry_run=dry_run is not False,
        most=None if dry_run else MOST_AT_ONCE,
    )
    context.count_points(collection)
    return report.to_dict()


def embed_images(paths: list[str], *, model: str | None = None) -> dict[str, Any]:
    """Embed files without storing anything.

    Args:
        paths: of the files.
        model: the name of a bundle's folder, or 12 digits of its fingerprint or more; None: the
            worker's own. One that is not loaded is loaded first, while the job waits.

    Returns:
        ``vectors``: path -> unit vector, a list of ``dim`` numbers; ``unreadable``: path ->
        reason, such as that it is outside the roots; ``fingerprint`` of the embedding space;
        ``dim``.

    Raises:
        JobRefused: a path is not an absolute one without "..", or there are too many.
        ModelUnknown: there is no such model here.
    """
    context = current_context()
    check_paths(paths, context.settings)
    encoder = context.encoder_of(model)
    vectors, unreadable = {}, {}
    items = (
        (path, LazyImage(path, partial(_read, path, context))) for path in dict.fromkeys(paths)
    )
    for path, result in encoder.encode_each(items):
        if isinstance(result, ImageUnreadable):
            unreadable[path] = str(result)
        else:
            vectors[path] = result.vector.tolist()
    return _space(encoder) | {"vectors": vectors, "unreadable": unreadable}


def embed_texts(texts: list[str], *, model: str | None = None) -> dict[str, Any]:
    """Embed texts.

    Args:
        texts: to embed.
        model: as for ``embed_images``.

    Returns:
        ``vectors``: text -> unit vector, a list of ``dim`` numbers; ``fingerprint``; ``dim``.

    Raises:
        JobRefused: the texts are no list of str, or too many.
        ModelUnknown: there is no such model here.
        TextRefused: one is longer than the limit.
    """
    context = current_context()
    check_items(texts, "texts", context.settings)
    encoder = context.encoder_of(model)
    unique = list(dict.fromkeys(texts))
    rows = encoder.encode_texts(unique).tolist()
    return _space(encoder) | {"vectors": dict(zip(unique, rows, strict=True))}


def embed_image(
    data: str | None = None, *, path: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """Embed one picture that the job carries or names.

    Args:
        data: the file's bytes, in base64; or
        path: where it lies.
        model: as for ``embed_images``.

    Returns:
        ``vector``: a unit vector, a list of ``dim`` numbers; ``width_px``, ``height_px``;
        ``fingerprint``; ``dim``.

    Raises:
        JobRefused: not exactly one of the two, no base64, or a path outside the roots.
        ImageUnreadable: it is no picture, or a larger one than the limits allow.
    """
    context = current_context()
    source: bytes | LazyImage
    match data, path:
        case str(), None:
            name, source = "the picture that was sent", decode_picture(data)
        case None, str():
            name, source = repr(path), _named_image(path, context)
        case _:
            raise JobRefused("embed exactly one of data and path")
    encoder = context.encoder_of(model)
    ((_, result),) = encoder.encode_each([(0, source)])
    if isinstance(result, ImageUnreadable):
        raise ImageUnreadable(f"{name} {result}")
    return _space(encoder) | {
        "vector": result.vector.tolist(),
        "width_px": result.width_px,
        "height_px": result.height_px,
    }


@question()
def search(
    collection: str,
    *,
    text: str | None = None,
    image: str | None = None,
    data: str | None = None,
    like: str | None = None,
    terms: list[dict[str, Any]] | None = None,
    limit: int = 10,
    offset: int = 0,
    folder: str | None = None,
    since: str | None = None,
    until: str | None = None,
    by_file_date: bool = False,
    min_score: float | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """Find the pictures nearest to a text, a picture, one that is stored, or several of these.

    Args:
        collection: where to look.
        text: in words.
        image: a picture's path.
        data: a picture's bytes, in base64.
        like: the id of a stored picture, which is not among its own hits.
        terms: several of these, whose vectors are added up: each an object with one of ``text``,
            ``image``, ``data`` and ``like``, and a ``weight`` (1), below zero to subtract it.
        limit: hits at most.
        offset: hits to leave out before them.
        folder: an absolute path: only what lies below it.
        since: a day such as "2026-11-25": only pictures that were taken on it or later.
        until: a day: only pictures that were taken on it or earlier.
        by_file_date: whether days are those of files' last changes (UTC), not of cameras.
        min_score: the cosine similarity that hits have at least, from -1 to 1.
        model: whose vectors of the collection are searched, as for ``embed_images``; None: those
            that its name leads to.

    Returns:
        ``hits``: best first, each with score, probability (of a text with a model that has one,
        else None), id and the payload's fields; ``cut``: the texts
        whose end the model does not read; ``fingerprint``; ``dim``.

    Raises:
        JobRefused: not exactly one of text, image, data, like and terms; an image or a folder
            outside the roots.
        SearchRefused: a limit and offset that are not together from 1 to 5000; no days; a term,
            a weight or a score that is none; terms that cancel each other out.
        FolderUnreadable: the folder is no absolute path.
        ImageUnreadable: the image.
        TextRefused: the text.
        ModelUnknown: there is no such model here.
        NotStored: there is no such collection, or no such picture or vectors of the model in it.
        StoreError: the store failed.
    """
    from warmclip.indexing.combination import combine_terms
    from warmclip.indexing.probability import with_probability

    context = current_context()
    indexer, encoder = context.searcher(check_collection(collection), model)
    most = count_hits(limit, offset)
    if folder is not None:
        check_roots(context.settings)
    only = Filter.of(folder, since, until, by_file_date=bool(by_file_date))
    least = check_score(min_score)
    query = read_query(text, image, data, like, terms)
    vector = combine_terms(query, partial(_vector_of, indexer=indexer, context=context))
    own = {point_id(term.like) for term in query.terms if term.like is not None}
    found = indexer.search(vector=vector, limit=most + len(own), only=only, min_score=least)
    hits = [hit for hit in found if hit.id not in own][offset:most]
    hits = with_probability(hits, query, encoder.bundle.manifest.logits)
    return _space(encoder) | {
        "hits": [hit.to_dict() for hit in hits],
        "cut": list(encoder.find_cut_texts(query.texts)),
    }


def _vector_of(term: Term, indexer: "Indexer", context: JobContext) -> "Vector":
    if term.like is not None:
        point = _stored(context, indexer.collection, term.like, with_vector=True)
        assert point.vector is not None  # noqa: S101 - it was asked for
        return point.vector
    if term.text is not None:
        return indexer.embed(term.text)
    named = None if term.image is None else _named_image(term.image, context)
    try:
        return indexer.embed(image=decode_picture(term.data) if named is None else named)
    except ImagesUnreadable as exc:
        what = "the picture that was sent" if term.image is None else f"{show_path(term.image)}:"
        raise ImageUnreadable(f"{what} {exc.reasons[0]}") from exc


def search_many(questions: list[dict[str, Any]]) -> dict[str, Any]:
    """Answer several searches; the model computes their texts in one run.

    Args:
        questions: each as the arguments of ``search``, by name.

    Returns:
        ``answers``: in the order of the questions; of each what ``search`` returns, or ``error``,
        the name of the error's class, and ``message``.

    Raises:
        JobRefused: the questions are no list of dicts, too many, or of more than one model.
    """
    check_questions(questions, current_context().settings)
    texts: dict[Any, list[Any]] = {}
    for asked in questions:
        if isinstance(asked.get("text"), str):
            where = asked.get("collection"), asked.get("model")
            texts.setdefault(where, []).append(asked["text"])
    answers: list[dict[str, Any]] = []
    try:
        for (collection, model), some in texts.items():
            _remember(collection, model, some)
        for asked in questions:
            answers.append(_answer(asked))  # noqa: PERF401 - those before an outage are kept
    except StoreUnreachable as exc:  # the others would wait for the same, one after another
        answers += [_error(exc)] * (len(questions) - len(answers))
    return {"answers": answers}


@question()
def _remember(collection: Any, model: Any, texts: list[Any]) -> None:
    """Have an Encoder compute texts together, which it remembers."""
    try:
        _, encoder = current_context().searcher(check_collection(collection), model)
        encoder.encode_texts(texts)
    except StoreUnreachable:
        raise
    except WarmclipError:  # its own search says what is wrong
        pass


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        return search(**asked)
    except (ModelNeeded, StoreUnreachable):  # with the former the job is run again
        raise
    except WarmclipError as exc:
        return _error(exc)


def _error(exc: WarmclipError) -> dict[str, Any]:
    return {"error": type(exc).__name__, "message": str(exc)}


@question()
def thumbnail(collection: str, id: str, side_px: int, known: str | None = None) -> dict[str, Any]:
    """Draw a stored picture small.

    Args:
        collection: where it is stored.
        id: of its point.
        side_px: the longer side at most, from 16 to 1024.
        known: what ``version`` was of the drawings that the caller has.

    Returns:
        ``version``: of the drawing; ``jpeg``: in base64, None if this version is known.

    Raises:
        JobRefused: another size, or a version that is none.
        NotStored: there is no such collection, or no such picture in it.
        ImageUnreadable: its file is gone, or outside the roots.
    """
    from warmclip.indexing.scan import is_as_stored
    from warmclip.indexing.thumbnail import DRAWING, draw_thumbnail
    from warmclip.indexing.thumbnail_cache import ThumbnailCache, version_of

    context = current_context()
    if known is not None and not isinstance(known, str):
        raise JobRefused("known must be the version of a drawing")
    if type(side_px) is not int or not 16 <= side_px <= _LARGEST_SIDE_PX:
        raise JobRefused(
            f"side_px={show_value(side_px)}: use a whole number from 16 to {_LARGEST_SIDE_PX}"
        )
    point = _stored(context, check_collection(collection), id)
    path, limits = point.payload.path, context.settings.limits
    # As for a job that names it: the store may be shared with workers that have other roots.
    image = _named_image(path, context)
    reader, cache = FileReader(limits), ThumbnailCache(context.settings.home)
    try:
        located = reader.read(partial(locate_file, path, context.roots))
        digest, data = point.payload.sha256, None
        if not is_as_stored(located, point):
            data = reader.read(image.read)
            digest = hashlib.sha256(data).hexdigest()
        version = version_of(digest, side_px, DRAWING)
        if known is not None and version in known:
            return {"version": version, "jpeg": None}
        jpeg = cache.get(version)
        if jpeg is None:
            data = reader.read(image.read) if data is None else data
            jpeg = draw_thumbnail(data, side_px, limits)
            if hashlib.sha256(data).hexdigest() == digest:  # it may have changed meanwhile
                cache.put(version, jpeg)
    except ImageUnreadable as exc:
        raise ImageUnreadable(f"{path!r} {exc}") from exc
    return {"version": version, "jpeg": base64.b64encode(jpeg).decode("ascii")}


@question()
def find_image(collection: str, id: str) -> dict[str, Any]:
    """Tell where a stored picture's file is.

    Args:
        collection: where it is stored.
        id: of its point.

    Returns:
        ``path``: as it was indexed; nothing is asked of the file system.

    Raises:
        NotStored: there is no such collection, or no such picture in it.
    """
    return {"path": _stored(current_context(), check_collection(collection), id).payload.path}


@question()
def canary(collection: str | None = None, *, model: str | None = None) -> dict[str, Any]:
    """Embed a text that nobody has embedded before, and find a stored picture.

    Args:
        collection: where a picture is looked for by its own vector; None: nowhere.
        model: without a collection, that of the text's vector, as for ``embed_images``.

    Returns:
        ``providers``: tower -> what it computes on now; ``found``: the id of the stored picture,
        None if nothing is stored; ``in_use``: the fingerprint of the collection's vectors, None
        if there is none; ``fingerprint``; ``dim``.

    Raises:
        StoreError: the store failed, or a search does not find what is stored.
    """
    context = current_context()
    indexer, in_use = None, None
    if collection is None:
        encoder = context.encoder_of(model)
    else:
        in_use = context.model_of(check_collection(collection))
        indexer, encoder = context.searcher(collection)
    (vector,) = encoder.encode_texts([uuid.uuid4().hex])  # checked, as every vector is
    found = None if indexer is None else _find_stored(context, indexer, vector)
    if collection is not None and in_use is not None:
        context.count_points(collection)
    return _space(encoder) | {
        "providers": dict(encoder.providers),
        "found": found,
        "in_use": in_use,
    }


def _find_stored(context: JobContext, indexer: "Indexer", vector: "Vector") -> str | None:
    """The picture nearest to a vector, if a search by the picture's own vector finds it too."""
    collection = indexer.collection
    try:
        (hit,) = indexer.search(vector=vector, limit=1) or (None,)
        points = context.store.scroll(collection, ids=[hit.id] if hit else None, with_vectors=True)
        point = next(iter(points), None)
    except NotStored:  # nothing was indexed so far
        return None
    if point is None:  # nothing is stored, or it was deleted meanwhile
        return None
    nearest = indexer.search(vector=point.vector, limit=_MOST_EQUAL)
    is_crowded = len(nearest) == _MOST_EQUAL and nearest[-1].score > _EQUAL
    if not is_crowded and point.id not in {each.id for each in nearest}:
        raise StoreError(
            f"a search in {collection!r} by the vector of {point.payload.path!r}, which is stored, "
            "does not find it: restart the worker; if it stays so, `warmclip audit` tells more"
        )
    return point.id


def verdict() -> dict[str, Any]:
    """Tell which provider each tower computes on and why; nothing is tried for it.

    Returns:
        ``asked``; ``towers``: tower, chosen, now and why of each; ``trials``; ``passed_over``:
        provider -> reason; ``quarantine``: provider, reason, since and until of each; ``model``,
        ``fingerprint``, ``dim``; ``versions``, ``machine``, ``hostname``, ``pid`` of this worker.
    """
    context = current_context()
    found, now = context.encoder.selection, context.encoder.providers
    quarantined = Quarantine(context.settings.home).active()
    return _space(context.encoder) | {
        "asked": found.asked,
        "towers": [
            {"tower": tower, "chosen": name, "now": now[tower], "why": found.why[tower]}
            for tower, name in found.chosen.items()
        ],
        "trials": [trial.to_dict() for trial in found.trials],
        "passed_over": found.passed_over,
        "quarantine": [{"provider": name, **asdict(it)} for name, it in quarantined.items()],
        "model": str(context.settings.bundle),
        "versions": {"python": platform.python_version(), **context.encoder.versions},
        "machine": f"{chip()}, {os_build()}",
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
    }


def _named_image(path: str, context: JobContext) -> LazyImage:
    """The one picture that a job names.

    Raises:
        JobRefused: it is outside the roots, or as ``check_paths``.
    """
    check_paths([path], context.settings)
    real = FileReader(context.settings.limits).read(partial(os.path.realpath, path))
    if not context.roots.allow(real):
        raise JobRefused(f"{show_path(path)} is outside the roots {context.roots} (WARMCLIP_ROOTS)")
    return LazyImage(path, partial(_read, path, context))


def _stored(
    context: JobContext, collection: str, id_: Any, *, with_vector: bool = False
) -> "Point":
    wanted = point_id(id_)
    for point in context.store.scroll(collection, ids=[wanted], with_vectors=with_vector):
        return point
    raise NotStored(f"there is no picture {wanted} in {collection!r}")


def _read(path: str, context: JobContext) -> bytes:
    return read_picture(locate_file(path, context.roots), context.roots, context.settings.limits)[1]


def _space(encoder: "Encoder") -> dict[str, Any]:
    return {"fingerprint": encoder.fingerprint, "dim": encoder.dim}
