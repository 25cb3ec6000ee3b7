"""How fast this machine is: medians of interleaved rounds, so that a noisy moment hits every case.

Figures of one run compare with each other; two runs on a shared machine may not.
"""

import io
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from warmclip.inference.encoder import Encoder
from warmclip.inference.image import make_crop, open_image
from warmclip.progress import Progress
from warmclip.settings import Settings

_BATCHES = (1, 8, 32)
_PICTURE_SIDE_PX = 1024  # one megapixel, as JPEG


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What was timed, and the median rate."""

    name: str
    batch: int
    per_second: float
    ms_each: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One run on one machine."""

    model: str
    provider: str
    machine: str
    cores: int
    load_s: float
    rounds: int
    cases: tuple[Case, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can carry them."""
        return asdict(self)


def measure(settings: Settings, *, rounds: int = 7, progress: Progress | None = None) -> Benchmark:
    """Time decoding, both towers at several batch sizes, and whole images end to end.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
    """
    started = time.perf_counter()
    encoder = Encoder.from_settings(settings)
    encoder.warm()
    load_s = time.perf_counter() - started
    work = _work(encoder, settings)
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in work}
    for done in range(rounds + 1):
        for case, run in work.items():
            started = time.perf_counter()
            run()
            if done:  # the first round warms caches and allocates
                seconds[case].append(time.perf_counter() - started)
        if progress is not None:
            progress(done, rounds, "measuring")
    return Benchmark(
        model=encoder.bundle.manifest.name,
        provider=encoder.provider,
        machine=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        load_s=load_s,
        rounds=rounds,
        cases=tuple(_case(name, batch, times) for (name, batch), times in seconds.items()),
    )


def _work(encoder: Encoder, settings: Settings) -> dict[tuple[str, int], Callable[[], object]]:
    recipe = encoder.bundle.manifest.image
    jpeg = _jpeg()
    crop = make_crop(open_image(jpeg, settings.limits), recipe, settings.limits)
    square = Image.fromarray(crop)
    numbers = itertools.count()
    work: dict[tuple[str, int], Callable[[], object]] = {
        ("decode and crop a 1 MP JPEG", 1): lambda: make_crop(
            open_image(jpeg, settings.limits), recipe, settings.limits
        ),
    }
    for batch in _BATCHES:
        squares, jpegs = [square] * batch, [jpeg] * batch
        work["cropped images", batch] = partial(encoder.encode_images, squares)
        work["1 MP JPEGs, end to end", batch] = partial(encoder.encode_images, jpegs)
        work["texts", batch] = partial(_encode_new_texts, encoder, numbers, batch)
    return work


def _encode_new_texts(encoder: Encoder, numbers: Iterator[int], count: int) -> None:
    """Texts that were never asked for: the encoder remembers others."""
    encoder.encode_texts([f"a photo of cat {number}" for number in islice(numbers, count)])


def _jpeg() -> bytes:
    """A picture with the detail of a photograph: smooth noise, seeded."""
    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    side = (_PICTURE_SIDE_PX, _PICTURE_SIDE_PX)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _case(name: str, batch: int, times: list[float]) -> Case:
    median_s = statistics.median(times)
    return Case(
        name=name, batch=batch, per_second=batch / median_s, ms_each=1000 * median_s / batch
    )
