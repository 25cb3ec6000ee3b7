"""Texts and images in, unit vectors out."""

import importlib.metadata
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict, TypeVar, Unpack

import numpy as np
from PIL import Image

from warmclip.activity import Activity, Unwatched
from warmclip.errors import ImagesUnreadable, ImageUnreadable
from warmclip.inference.arrays import Vector, Vectors
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.decoding import Decoded, ImageSource, decode_each
from warmclip.inference.image import normalise
from warmclip.inference.machine import return_freed_memory
from warmclip.inference.ort.fork import refuse_fork
from warmclip.inference.ort.loading import onnxruntime_version
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.ort.text_lengths import text_lengths
from warmclip.inference.providers import AUTO, PROVIDERS
from warmclip.inference.recent_texts import RecentTexts
from warmclip.inference.selection.canary import Canary
from warmclip.inference.selection.golden import Feeds, Golden
from warmclip.inference.selection.guard import Checked, Guard, GuardContext
from warmclip.inference.selection.provider_selection import TOWERS, select_providers
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.inference.text import Tokenizer
from warmclip.progress import Progress
from warmclip.settings import DecodeRule, ExifRule, Limits, Settings

log = logging.getLogger(__name__)

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """One picture's unit vector, shape (dim,), the picture's own size, and what computed it."""

    vector: Vector
    width_px: int
    height_px: int
    provider: str
    canary: Canary | None = None  # that the vector still waits for, see ``Encoder.is_proven``


class EncoderOptions(TypedDict, total=False):
    """What may be said of an Encoder; each has the default of its namesake in ``Settings``.

    Attributes:
        provider: where to compute; ``auto`` is the fastest that passes a trial, which is run once
            where there is more than the CPU. A name is insisted on.
        exif: ``ignore`` the orientation tag as open_clip does, or ``transpose`` by it; the two are
            different embedding spaces.
        decode: ``full`` as open_clip does, or ``scaled``: large pictures by a shortcut, which is
            another embedding space again.
        batch_size: images or texts in one run of the model.
        threads: of one session; 0 for as many as there are cores for this process.
        limits: bounds on what is accepted.
        home: where trials, the quarantine and prepared graphs are kept.
        trial_s: seconds for one provider on one tower.
        canary_every: batches between two golden rows, on a provider that needs them; 0: none.
    """

    provider: str
    exif: ExifRule
    decode: DecodeRule
    batch_size: int
    threads: int
    limits: Limits
    home: Path
    trial_s: int
    canary_every: int


class Encoder:
    """A bundle, warm: its tokenizer and sessions are loaded once and used from any thread.

    Rows of one call never depend on each other: a picture that cannot be read leaves its
    neighbours as they are, and results are matched by key.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        settings: Settings,
        *,
        progress: Progress | None = None,
        activity: Activity | None = None,
    ) -> None:
        """Choose what computes, on this machine; towers are loaded when they are first needed.

        Args:
            bundle: the model.
            settings: all that concerns a model, but for the bundle.
            progress: told how far the trial is, about every second.
            activity: told of each picture, graph and batch before it is at work on it.

        Raises:
            BundleError, SettingsError, ProviderUnavailable, ForkedSessionError: as ``open``.
        """
        manifest = bundle.manifest
        self.bundle = bundle
        self._recipe = manifest.image_with(settings.exif, settings.decode)
        self.fingerprint = manifest.derive_fingerprint(self._recipe)
        self.dim = manifest.dim
        self.versions = {
            "warmclip": importlib.metadata.version("warmclip"),
            "onnxruntime": onnxruntime_version(),
            "pillow": importlib.metadata.version("pillow"),
        }
        self._batch_size = settings.batch_size
        self._limits = settings.limits
        self._activity = activity or Unwatched()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self.selection = select_providers(
            bundle,
            settings.provider,
            home=settings.home,
            threads=settings.threads,
            deadline_s=settings.trial_s,
            progress=progress,
        )
        self._context = GuardContext(
            bundle=bundle,
            golden=Golden(bundle),
            quarantine=Quarantine(settings.home),
            cache=ModelCache(settings.home),
            threads=settings.threads,
            canary_every=settings.canary_every,
            is_insisted=settings.provider != AUTO,
            distrusted={},
            activity=self._activity,
        )
        self._towers: dict[Tower, Guard] = {}
        self._tower_locks = {tower: threading.Lock() for tower in TOWERS}
        self._tokenizer: Tokenizer | None = None
        self._recent_texts = RecentTexts()
        if manifest.is_random:
            log.warning("%s holds RANDOM weights: its vectors carry no meaning", bundle.folder)

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        progress: Progress | None = None,
        activity: Activity | None = None,
        **options: Unpack[EncoderOptions],
    ) -> Self:
        """Open a bundle's folder.

        Args:
            bundle: a folder such as ``models/ViT-B-32-openai``.
            progress: told how far the trial is, about every second.
            activity: told of each picture, graph and batch before it is at work on it.
            options: see ``EncoderOptions``; the environment is not asked.

        Raises:
            BundleError: the folder is no whole bundle.
            SettingsError: there is no provider of that name.
            ProviderUnavailable: this onnxruntime does not have the provider, or it has failed.
            ForkedSessionError: this process was forked from one that had loaded onnxruntime.
        """
        settings = Settings(bundle=Path(bundle), **options)
        return cls.from_settings(settings, progress=progress, activity=activity)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        progress: Progress | None = None,
        activity: Activity | None = None,
    ) -> Self:
        """Open the bundle that the settings name, with all that they say of it."""
        bundle = ModelBundle.open(settings.bundle)
        return cls(bundle, settings, progress=progress, activity=activity)

    @property
    def provider(self) -> str:
        """What the image tower computes on now."""
        return self.providers["image"]

    @property
    def providers(self) -> dict[Tower, str]:
        """What each tower computes on now: the trial's choice, or the CPU after a failure."""
        return {
            tower: self._towers[tower].provider if tower in self._towers else name
            for tower, name in self.selection.chosen.items()
        }

    def is_proven(self, canary: Canary | None) -> bool:
        """Whether vectors with this ``Embedded.canary`` have been proven by a good canary since.

        Those of another process never are: it may have died before its canary.
        """
        if canary is None:
            return True
        return "image" in self._towers and self._towers["image"].is_proven(canary)

    def warm(self) -> None:
        """Load both towers and run each once, so that the first job does not wait for it.

        On the CPU both at once. An accelerator may kill the process, and then one of them did it.
        """
        is_calm = all(PROVIDERS[name].is_steady for name in self.selection.chosen.values())
        at_once = is_calm and not self._activity.one_at_a_time
        with ThreadPoolExecutor(2 if at_once else 1, thread_name_prefix="warmclip-warm") as pool:
            # Pictures first: their tower takes longest, and a tokenizer holds all other Python up.
            for warmed in [pool.submit(self._warm_images), pool.submit(self._warm_texts)]:
                warmed.result()
        return_freed_memory()  # what loading needed

    def _warm_texts(self) -> None:
        self.encode_texts(["warm"])

    def _warm_images(self) -> None:
        self._open_tower("image")
        size_px = self._recipe.size_px
        self.encode_images([Image.new("RGB", (size_px, size_px))])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as unit vectors, shape (n, dim), float32.

        Of texts that are the same only one is computed; the last thousand are remembered.

        Raises:
            TextRefused: one of them is no str, or longer than the limit.
            TypeError: one text was given, not a list of them.
            ForkedSessionError: this is a forked child of the process that opened the Encoder.
        """
        self._refuse_fork()
        ids, eot_onehot = self._open_tokenizer().encode(texts)
        provider = self.providers["text"]
        keys = [(provider, row.tobytes()) for row in ids]
        row_of = {key: row for row, key in enumerate(keys)}  # any of those that are the same
        known = {key: self._recent_texts.find(key) for key in row_of}
        fresh = [key for key, vector in known.items() if vector is None]
        lengths = text_lengths(eot_onehot)
        fresh.sort(key=lambda key: lengths[row_of[key]])  # alike ones together: less to compute
        for start in range(0, len(fresh), self._batch_size):
            batch = fresh[start : start + self._batch_size]
            rows = [row_of[key] for key in batch]
            feeds: Feeds = {"input_ids": ids[rows], "eot_onehot": eot_onehot[rows]}
            for key, vector in zip(batch, self._run("text", feeds).vectors, strict=True):
                known[key] = vector
                self._recent_texts.keep(key, vector.copy())  # not its whole batch
        vectors = np.empty((len(keys), self.dim), np.float32)
        for row, key in enumerate(keys):
            vectors[row] = known[key]
        return vectors

    def find_cut_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Those of the texts whose end the model does not read, as they are too long for it.

        Raises:
            TextRefused: as ``encode_texts``.
        """
        return tuple(texts[place] for place in self._open_tokenizer().find_cut(texts))

    def encode_images(self, images: Sequence[ImageSource]) -> Vectors:
        """Encode images as unit vectors, shape (n, dim), float32, in the order given.

        Raises:
            ImagesUnreadable: one or more could not be read; it names each with its reason.
            TypeError: one image was given, not a list of them.
        """
        if isinstance(images, str | bytes | Path | Image.Image):
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
        """Encode a stream of images, yielding (key, result) as they become ready.

        A large picture holds up none of those that come after it. Decoding runs on threads, at
        most two batches ahead of the model, so that any number of images passes through in
        bounded memory.

        Raises:
            ForkedSessionError: this is a forked child of the process that opened the Encoder.
        """
        self._refuse_fork()
        return self._encode_each(items)

    def _encode_each(
        self, items: Iterable[tuple[K, ImageSource]]
    ) -> Iterator[tuple[K, Embedded | ImageUnreadable]]:
        window: list[tuple[K, Decoded | ImageUnreadable]] = []
        readable = 0
        ahead = 2 * self._batch_size
        for key, decoded in decode_each(
            items, self._recipe, self._limits, ahead=ahead, activity=self._activity
        ):
            # A long run of unreadable files must not grow the window without end.
            if readable == self._batch_size or len(window) == 4 * self._batch_size:
                yield from self._embed(window)
                window, readable = [], 0
            window.append((key, decoded))
            readable += isinstance(decoded, Decoded)
        yield from self._embed(window, is_last=True)

    def _embed(
        self, window: list[tuple[K, Decoded | ImageUnreadable]], *, is_last: bool = False
    ) -> Iterator[tuple[K, Embedded | ImageUnreadable]]:
        crops = [decoded.crop for _, decoded in window if isinstance(decoded, Decoded)]
        vectors: Iterator[Vector] = iter(())
        if crops:
            pixels = normalise(np.stack(crops), self._recipe)
            checked = self._run("image", {"pixel_values": pixels}, is_last=is_last)
            vectors = iter(checked.vectors)
        elif is_last and "image" in self._towers:
            self._towers["image"].prove()
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
                        provider=checked.provider,
                        canary=checked.canary,
                    ),
                )

    def _run(self, tower: Tower, feeds: Feeds, *, is_last: bool = False) -> Checked:
        return self._open_tower(tower).run(feeds, is_last=is_last)

    def _open_tokenizer(self) -> Tokenizer:
        with self._lock:
            if self._tokenizer is None:
                recipe = self.bundle.manifest.tokenizer
                self._tokenizer = Tokenizer.open(self.bundle.tokenizer(), recipe, self._limits)
            return self._tokenizer

    def _open_tower(self, tower: Tower) -> Guard:
        with self._tower_locks[tower]:
            if tower not in self._towers:
                provider = PROVIDERS[self.selection.chosen[tower]]
                self._towers[tower] = Guard(tower, provider, self._context)
            return self._towers[tower]

    def _refuse_fork(self) -> None:
        refuse_fork(self._owner, "Encoder")
