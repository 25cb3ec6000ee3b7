"""Texts and images in, unit vectors out."""

import importlib.metadata
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from warmclip.activity import Activity, Unwatched
from warmclip.errors import ImagesUnreadable, ImageUnreadable, ProviderUnavailable
from warmclip.inference import image as pictures
from warmclip.inference.arrays import Crop, Vector, Vectors, unit_rows
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.reading import LazyImage
from warmclip.inference.session import OnnxSession, find_provider
from warmclip.inference.text import Tokenizer, one_hot
from warmclip.settings import ExifRule, Limits, Settings

log = logging.getLogger(__name__)

ImageSource: TypeAlias = str | Path | bytes | Image.Image | LazyImage
"""A file's path, its bytes, a picture, or one whose bytes are read when they are needed."""

K = TypeVar("K")

_DECODE_THREADS = min(4, os.cpu_count() or 1)
_MIN_GOLDEN_COSINE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """One picture's unit vector, shape (dim,), and the picture's own size."""

    vector: Vector
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    crop: Crop
    width_px: int
    height_px: int


class Encoder:
    """A bundle, warm: its tokenizer and sessions are loaded once and used from any thread.

    Rows of one call never depend on each other: a picture that cannot be read leaves its
    neighbours as they are, and results are matched by key.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        provider: str = "auto",
        exif: ExifRule = "ignore",
        batch_size: int = 32,
        threads: int = 0,
        limits: Limits | None = None,
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.fingerprint = manifest.derive_fingerprint(exif)
        self.dim = manifest.dim
        self._recipe = manifest.image.model_copy(update={"exif": exif})
        self._provider = find_provider(provider)
        self.provider = self._provider.name
        self.versions = {
            "warmclip": importlib.metadata.version("warmclip"),
            "onnxruntime": importlib.metadata.version("onnxruntime"),
            "pillow": importlib.metadata.version("pillow"),
        }
        self._batch_size = batch_size
        self._threads = threads
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._towers: dict[Tower, OnnxSession] = {}
        self._tokenizer: Tokenizer | None = None
        self.activity: Activity = Unwatched()
        if manifest.is_random:
            log.warning("%s holds RANDOM weights: its vectors carry no meaning", bundle.folder)

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        provider: str = "auto",
        exif: ExifRule = "ignore",
        batch_size: int = 32,
        threads: int = 0,
        limits: Limits | None = None,
    ) -> Self:
        """Open a bundle's folder.

        Args:
            bundle: a folder such as ``models/ViT-B-32-openai``.
            provider: where to compute; ``auto`` is the CPU.
            exif: ``ignore`` the orientation tag as open_clip does, or ``transpose`` by it;
                the two are different embedding spaces.
            batch_size: images or texts in one run of the model.
            threads: of one session; 0 lets onnxruntime choose.
            limits: bounds on what is accepted.

        Raises:
            BundleError: the folder is no whole bundle.
            ProviderUnavailable: this onnxruntime does not have the provider.
        """
        return cls(
            ModelBundle.open(bundle),
            provider=provider,
            exif=exif,
            batch_size=batch_size,
            threads=threads,
            limits=limits,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Open the bundle that the settings name, with all that they say of it."""
        return cls.open(
            settings.bundle,
            provider=settings.provider,
            exif=settings.exif,
            batch_size=settings.batch_size,
            threads=settings.threads,
            limits=settings.limits,
        )

    def warm(self) -> None:
        """Load both towers and run each once, so that the first job does not wait for it."""
        self.encode_texts(["warm"])
        size_px = self._recipe.size_px
        self.encode_images([Image.new("RGB", (size_px, size_px))])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as unit vectors, shape (n, dim), float32.

        Raises:
            TextRefused: one of them is no str, or longer than the limit.
        """
        ids, eot_onehot = self._open_tokenizer().encode(texts)
        vectors = np.empty((len(ids), self.dim), np.float32)
        for start in range(0, len(ids), self._batch_size):
            rows = slice(start, start + self._batch_size)
            vectors[rows] = self._run(
                "text", {"input_ids": ids[rows], "eot_onehot": eot_onehot[rows]}
            )
        return vectors

    def encode_images(self, images: Sequence[ImageSource]) -> Vectors:
        """Encode images as unit vectors, shape (n, dim), float32, in the order given.

        Raises:
            ImagesUnreadable: one or more could not be read; it names each with its reason.
        """
        if isinstance(images, str | bytes):
            raise TypeError("a list of images is needed, not one of them: write [image]")
        vectors = np.empty((len(images), self.dim), np.float32)
        reasons = {}
        for index, result in self.encode_each(enumerate(images)):
            if isinstance(result, ImageUnreadable):
                reasons[index] = str(result)
            else:
                vectors[index] = result.vector
        if reasons:
            raise ImagesUnreadable(reasons)
        return vectors

    def encode_each(
        self, items: Iterable[tuple[K, ImageSource]]
    ) -> Iterator[tuple[K, Embedded | ImageUnreadable]]:
        """Encode a stream of images, yielding (key, result) in the order of the items.

        Decoding runs on threads, at most two batches ahead of the model, so that any number of
        images passes through in bounded memory.
        """
        window: list[tuple[K, _Decoded | ImageUnreadable]] = []
        readable = 0
        for key, decoded in self._decode_each(items):
            window.append((key, decoded))
            readable += isinstance(decoded, _Decoded)
            # A long run of unreadable files must not grow the window without end.
            if readable == self._batch_size or len(window) == 4 * self._batch_size:
                yield from self._embed(window)
                window, readable = [], 0
        yield from self._embed(window)

    def _decode_each(
        self, items: Iterable[tuple[K, ImageSource]]
    ) -> Iterator[tuple[K, _Decoded | ImageUnreadable]]:
        if self.activity.one_at_a_time:
            for key, source in items:
                yield key, self._decode(source)
            return
        ahead: deque[tuple[K, Future[_Decoded | ImageUnreadable]]] = deque()
        pool = ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="warmclip-decode")
        try:
            for key, source in items:
                ahead.append((key, pool.submit(self._decode, source)))
                if len(ahead) >= 2 * self._batch_size:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, source: ImageSource) -> _Decoded | ImageUnreadable:
        try:
            with (
                self.activity.during("decode", _name(source)),
                pictures.decoded(
                    source.read() if isinstance(source, LazyImage) else source, self._limits
                ) as picture,
            ):
                crop = pictures.crop(picture, self._recipe, self._limits)
                return _Decoded(crop=crop, width_px=picture.width, height_px=picture.height)
        except ImageUnreadable as exc:
            return exc

    def _embed(
        self, window: list[tuple[K, _Decoded | ImageUnreadable]]
    ) -> Iterator[tuple[K, Embedded | ImageUnreadable]]:
        crops = [decoded.crop for _, decoded in window if isinstance(decoded, _Decoded)]
        vectors = iter(self._run_crops(crops)) if crops else iter(())
        for key, decoded in window:
            if isinstance(decoded, ImageUnreadable):
                yield key, decoded
            else:
                yield (
                    key,
                    Embedded(
                        vector=next(vectors),
                        width_px=decoded.width_px,
                        height_px=decoded.height_px,
                    ),
                )

    def _run_crops(self, crops: Sequence[Crop]) -> Vectors:
        pixels = pictures.normalise(np.stack(crops), self._recipe)
        return self._run("image", {"pixel_values": pixels})

    def _run(self, tower: Tower, feeds: Mapping[str, npt.NDArray[Any]]) -> Vectors:
        session = self._open_tower(tower)
        rows = len(next(iter(feeds.values())))
        with self.activity.during("run", f"the {tower} tower on {self.provider}", rows=rows):
            features = session.run(feeds)
        return unit_rows(features, self.dim)

    def _open_tokenizer(self) -> Tokenizer:
        with self._lock:
            if self._tokenizer is None:
                recipe = self.bundle.manifest.tokenizer
                self._tokenizer = Tokenizer.open(self.bundle.tokenizer(), recipe, self._limits)
            return self._tokenizer

    def _open_tower(self, tower: Tower) -> OnnxSession:
        with self._lock:
            if tower not in self._towers:
                with self.activity.during("load", f"the {tower} tower on {self.provider}"):
                    graph = self.bundle.graph(tower, self._provider.precision)
                    session = OnnxSession(graph, self._provider, threads=self._threads)
                    if not self._provider.is_reference:
                        self._compare_with_golden(tower, session)
                self._towers[tower] = session
            return self._towers[tower]

    def _compare_with_golden(self, tower: Tower, session: OnnxSession) -> None:
        """Refuse a provider whose vectors of the golden inputs are not the reference's."""
        with np.load(self.bundle.golden(), allow_pickle=False) as golden:
            expected = golden[f"{tower}_vectors"]
            if tower == "image":
                feeds = {"pixel_values": pictures.normalise(golden["crops"], self._recipe)}
            else:
                ids = golden["input_ids"]
                feeds = {"input_ids": ids, "eot_onehot": one_hot(golden["eot"], ids.shape[1])}
        cosine = float(np.min(np.sum(unit_rows(session.run(feeds), self.dim) * expected, axis=1)))
        if not cosine >= _MIN_GOLDEN_COSINE:
            raise ProviderUnavailable(
                f"{self._provider.execution_provider} computes wrong {tower} vectors here: cosine "
                f"{cosine:.5f} to the golden ones, at least {_MIN_GOLDEN_COSINE} is needed; "
                "use WARMCLIP_PROVIDER=cpu"
            )


def _name(source: ImageSource) -> str:
    match source:
        case LazyImage():
            return source.name
        case str() | Path():
            return os.fspath(source)
        case _:
            return ""
