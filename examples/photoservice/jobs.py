"""What workers do: WARMCLIP_JOBS='photoservice.jobs:*'. Every job may run twice."""

import functools
import hashlib
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from redis import Redis
from rq.job import Job
from sqlalchemy import func, select

from photoservice import looks, vectors
from photoservice.database import COMPLETED, FAILED, Picture, transaction
from photoservice.embedding import embedding_service
from photoservice.tasks import set_status, submit

__all__ = ["cluster", "hash_pictures", "note_failure", "shrink_pictures", "train", "train_batch"]

P = ParamSpec("P")
R = TypeVar("R")
BATCH = 32


def task(function: Callable[P, R]) -> Callable[Concatenate[str, P], R]:
    """A job that keeps its row in the database up to date; the row's id is its first argument."""

    @functools.wraps(function)
    def run(id_: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        set_status(id_, "running")
        result = function(*args, **kwargs)
        set_status(id_, COMPLETED)
        return result

    return run


def note_failure(job: Job, _connection: Redis, _kind: type, error: Exception, _trace: Any) -> None:
    """Called after each failure, and for a job whose process died once no retry is left."""
    set_status(job.id, "queued" if job.retries_left else FAILED, str(error))


@task
def train(album: str, folder: str) -> int:
    """Find the pictures of a folder, and queue them in batches."""
    paths = sorted(str(path) for path in Path(folder).iterdir() if path.is_file())
    with transaction() as session:
        known = set(session.scalars(select(Picture.path).where(Picture.album == album)))
        session.add_all(Picture(album=album, path=path) for path in paths if path not in known)
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        name = hashlib.sha256("\n".join(batch).encode()).hexdigest()[:16]
        submit("train_batch", f"{album}-{name}", album, batch)
    return len(paths)


@task
def train_batch(album: str, paths: list[str]) -> int:
    """Embed pictures and store their vectors; the last batch of an album queues what follows."""
    found = embedding_service().embed_images_batch(paths)
    indexed = {path: it for path, it in zip(paths, found, strict=True) if it is not None}
    vectors.write(indexed)
    with transaction() as session:
        for picture in session.scalars(select(Picture).where(Picture.path.in_(paths))):
            picture.status = "indexed" if picture.path in indexed else "unreadable"
    with transaction() as session:
        new = select(func.count()).where(Picture.album == album, Picture.status == "new")
        is_last = session.scalar(new) == 0
    if is_last:
        submit("hash_pictures", album, album, queue="low")
        submit("shrink_pictures", album, album, queue="low")
    return len(indexed)


@task
def hash_pictures(album: str) -> int:
    """Hash an album in processes of its own, which are new programs: nothing is forked."""
    todo = _indexed(album)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        hashes = pool.map(looks.difference_hash, [it.path for it in todo])
    with transaction() as session:
        for picture, look in zip(todo, hashes, strict=True):
            session.merge(picture).look = look
    submit("cluster", album, album, queue="low")
    return len(todo)


@task
def cluster(album: str) -> int:
    """Count pairs that look alike: one long call of native code."""
    hashes = [it.look for it in _indexed(album) if it.look is not None]
    return looks.count_alike(hashes, int(os.environ.get("CLUSTER_ROUNDS", "1")))


@task
def shrink_pictures(album: str) -> int:
    """Make the thumbnails of an album."""
    todo = _indexed(album)
    for picture in todo:
        to = thumbnail(picture.id)
        if not to.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            looks.shrink(picture.path, to)
    return len(todo)


def thumbnail(picture: int) -> Path:
    """Where the small copy of a picture is."""
    return Path(os.environ["PHOTOS_DATA"], "thumbnails", f"{picture}.jpg")


def _indexed(album: str) -> list[Picture]:
    with transaction() as session:
        which = select(Picture).where(Picture.album == album, Picture.status == "indexed")
        return list(session.scalars(which))
