"""A backend that asks workers through the queue ``high``; there is no model in this process."""

import base64
import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from warmclip.client.backend import Deadline, Picture
from warmclip.errors import ImagesUnreadable, ImageUnreadable, JobFailed, SpaceMismatch
from warmclip.inference.arrays import Vectors
from warmclip.settings import Settings
from warmclip.store.protocol import Space
from warmclip.work.broker import BROKER_ERRORS, QUICK_ANSWER_S, as_ours, open_broker
from warmclip.work.call import MOST_SENT_BYTES, call
from warmclip.work.horse.context import current_context, is_horse
from warmclip.work.naming import absolute, chunk_size

if TYPE_CHECKING:
    from PIL import Image

    from warmclip.inference.encoder import Embedded

_UNIT = 1e-3  # how far a vector's length may be from 1


class ThroughQueue:
    """The workers as a backend.

    In a job, where this process is a worker's own, its model answers at once: a call through the
    queue would wait for the worker that makes it. So an application may use one client in routes
    and in jobs.

    The first answer tells the embedding space. Answers of another space are refused from then on:
    workers may be restarted with another bundle while this process lives.
    """

    concurrency = 64  # most calls only wait

    def __init__(self, settings: Settings, *, model: str | None = None) -> None:
        """Connect to Redis, unless this process is a worker's.

        Args:
            settings: of the application, which say where Redis is.
            model: the name of a bundle's folder on the workers' machines, or 12 digits of its
                fingerprint or more; None: the workers' own. A worker that has not loaded it does
                so at the first call, which waits for some seconds.

        Raises:
            QueueUnreachable: it does not answer.
            SettingsError: REDIS_URL or WARMCLIP_HOME cannot be used.
        """
        self._settings = settings
        self._model = model
        self._resources = ExitStack()
        self._connecting = threading.Lock()
        self._connected: Any = None
        self._space: Space | None = None
        if not is_horse():
            self._connect()

    def space(self, deadline: Deadline) -> Space:
        """See ``Backend``; a worker is asked, unless one has answered before."""
        if self._space is None:
            self._call(deadline, "canary")
        assert self._space is not None  # noqa: S101 - _call has set it
        return self._space

    def embed_texts(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        """See ``Backend``."""
        rows: list[list[float]] = []
        size = chunk_size(self._settings)
        for start in range(0, len(texts), size):
            some = list(texts[start : start + size])
            answer = self._call(deadline, "embed_texts", texts=some)
            rows += [_field(answer, "vectors", dict).get(text, []) for text in some]
        return self._check_vectors(rows, deadline)

    def embed_images(self, pictures: Sequence[Picture], deadline: Deadline) -> Vectors:
        """See ``Backend``; a path is opened by a worker, under its roots, all else is sent.

        In a job nothing is sent: pictures of any size go to the model, together.
        """
        rows: dict[int, list[float]] = {}
        reasons: dict[int, str] = {}
        named = {
            index: absolute(os.fspath(picture))
            for index, picture in enumerate(pictures)
            if isinstance(picture, str | Path)
        }
        paths = list(dict.fromkeys(named.values()))
        size = chunk_size(self._settings)
        for start in range(0, len(paths), size):
            answer = self._call(deadline, "embed_images", paths=paths[start : start + size])
            vectors = _field(answer, "vectors", dict)
            unreadable = _field(answer, "unreadable", dict)
            for index, path in named.items():
                if path in vectors:
                    rows[index] = vectors[path]
                elif path in unreadable:
                    reasons[index] = str(unreadable[path])
        others = {
            index: picture
            for index, picture in enumerate(pictures)
            if not isinstance(picture, str | Path)
        }
        if is_horse():
            for index, result in self._embed_here(others):
                if isinstance(result, ImageUnreadable):
                    reasons[index] = f"the picture {result}"
                else:
                    rows[index] = result.vector.tolist()
            others = {}
        for index, picture in others.items():
            try:
                answer = self._call(deadline, "embed_image", data=in_base64(picture))
                rows[index] = _field(answer, "vector", list)
            except ImageUnreadable as exc:
                reasons[index] = str(exc)
        if reasons:
            raise ImagesUnreadable(dict(sorted(reasons.items())))
        return self._check_vectors(
            [rows.get(index, []) for index in range(len(pictures))], deadline
        )

    def close(self) -> None:
        """Close the connection; a private Redis that nobody else uses is stopped."""
        self._resources.close()

    def _connect(self) -> Any:
        with self._connecting:
            if self._connected is None:
                self._connected = self._resources.enter_context(
                    open_broker(self._settings, answer_s=QUICK_ANSWER_S)
                )
            return self._connected

    def _call(self, deadline: Deadline, function: str, **arguments: Any) -> Mapping[str, Any]:
        if self._model is not None:  # which workers of a former version do not know
            arguments["model"] = self._model
        if is_horse():
            from warmclip.work import jobs  # a client elsewhere does without what they need

            answer = getattr(jobs, function)(**arguments)
        else:
            try:
                answer = call(
                    self._connect(),
                    function,
                    arguments,
                    timeout_s=deadline.left_s,
                    is_cancelled=deadline.is_cancelled,
                )
            except BROKER_ERRORS as exc:
                raise as_ours(self._settings, exc) from exc
        fingerprint, dim = _field(answer, "fingerprint", str), _field(answer, "dim", int)
        self._check_space(Space(fingerprint=fingerprint, dim=dim))
        found: Mapping[str, Any] = answer
        return found

    def _embed_here(
        self, pictures: Mapping[int, Any]
    ) -> "Iterator[tuple[int, Embedded | ImageUnreadable]]":
        """Embed pictures with the model of this process, which is a horse."""
        encoder = current_context().encoder_of(self._model)
        self._check_space(Space(fingerprint=encoder.fingerprint, dim=encoder.dim))
        return encoder.encode_each(pictures.items())

    def _check_space(self, space: Space) -> None:
        """Remember the embedding space, or refuse one that is not the first.

        Raises:
            SpaceMismatch: vectors of another model are in use already.
        """
        if self._space is None:
            self._space = space
        elif self._space != space:
            raise SpaceMismatch(
                f"a worker embeds with the model {space.fingerprint[:12]}, and this client has had "
                f"vectors of {self._space.fingerprint[:12]}: give all workers the same "
                "WARMCLIP_BUNDLE, and start this process again if the new one is meant"
            )

    def _check_vectors(self, rows: Sequence[Sequence[float]], deadline: Deadline) -> Vectors:
        """Make one array of the rows, as torch code expects it.

        Raises:
            JobFailed: a worker's answer has no unit vectors, or fewer than it was asked for.
        """
        dim = self.space(deadline).dim
        try:
            vectors: Vectors = np.array(rows, np.float32).reshape(len(rows), dim)
        except (ValueError, TypeError) as exc:
            raise _unexpected(f"vectors that do not have {dim} numbers each") from exc
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=_UNIT):
            raise _unexpected("vectors that are not of unit length")
        return vectors


def in_base64(picture: "bytes | Image.Image") -> str:
    """Encode a picture as a job carries it.

    Raises:
        ImageUnreadable: it is empty, or too large to be sent.
    """
    if not isinstance(picture, bytes):
        picture = _save(picture)
    if not picture:
        raise ImageUnreadable("the picture is empty")
    if len(picture) > MOST_SENT_BYTES:
        raise ImageUnreadable(
            f"the picture has {len(picture):,} bytes, and {MOST_SENT_BYTES:,} may be sent through "
            "the queue: name its path, which workers open under their WARMCLIP_ROOTS, or send the "
            "file's own bytes rather than a picture that is open"
        )
    return base64.b64encode(picture).decode("ascii")


def _save(picture: "Image.Image") -> bytes:
    """Save a picture without loss, with its orientation tag."""
    stream = io.BytesIO()
    kind = "PNG" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "TIFF"
    options: dict[str, Any] = {"compress_level": 1} if kind == "PNG" else {}
    try:
        picture.save(stream, kind, exif=picture.getexif(), **options)
    except (OSError, ValueError) as exc:
        raise ImageUnreadable(
            f"the picture, of mode {picture.mode}, cannot be sent ({exc}): convert it to RGB, or "
            "send its file's bytes"
        ) from exc
    return stream.getvalue()


def _field(answer: Any, name: str, kind: type) -> Any:
    """One field of a worker's answer, which passed through a Redis that others may write to."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise _unexpected(f"no {name}")
    return value


def _unexpected(what: str) -> JobFailed:
    return JobFailed(f"a worker answered with {what}: are client and workers of one warmclip?")
