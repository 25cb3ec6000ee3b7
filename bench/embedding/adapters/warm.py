"""warmclip as it is installed."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.embedding.adapters.adapter import HITS, Array, Skipped
from bench.embedding.adapters.points import COLLECTION, fill
from bench.embedding.fixtures import Fixtures
from warmclip import Encoder, Indexer
from warmclip.activity import Unwatched
from warmclip.errors import ImageUnreadable, WarmclipError
from warmclip.inference.decoding import decode_picture
from warmclip.inference.image import normalise
from warmclip.inference.reading import FileReader
from warmclip.settings import DecodeRule, Settings


class Warmclip:
    """An Encoder, and an Indexer into an embedded store.

    Args:
        fixtures: the bundle.
        provider: instead of the run's own.
        decode: how JPEGs are decoded.
    """

    def __init__(
        self,
        fixtures: Fixtures,
        *,
        provider: str | None = None,
        decode: DecodeRule = "full",
    ) -> None:
        self._fixtures = fixtures
        self._home = fixtures.folder / "home"
        try:
            self._encoder = Encoder.open(
                fixtures.bundle,
                provider=provider or fixtures.provider,
                home=self._home,
                decode=decode,
            )
        except WarmclipError as exc:
            raise Skipped(str(exc)) from exc
        self._searched: Indexer | None = None

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {"providers": self._encoder.providers, **self._encoder.versions}

    def pixels(self, pixels: Array) -> Array:
        """See ``Adapter``; through the checks of every batch, in batches of the encoder's size."""
        # What encode_images does once a picture is decoded: there is no public name for a part.
        run = self._encoder._run
        batch = self._encoder._batch_size
        return np.concatenate(
            [
                run("image", {"pixel_values": pixels[start : start + batch]}).vectors
                for start in range(0, len(pixels), batch)
            ]
        )

    def texts(self, texts: Sequence[str]) -> Array:
        """See ``Adapter``."""
        return self._encoder.encode_texts(texts)

    def preprocess(self, path: str) -> Array:
        """See ``Adapter``: what a decode thread does to a file, and its share of a batch."""
        recipe, limits = self._encoder._recipe, self._encoder._limits
        decoded = decode_picture(path, recipe, limits, Unwatched(), FileReader(limits))
        if isinstance(decoded, ImageUnreadable):
            raise decoded
        row: Array = normalise(decoded.crop[None], recipe)[0]
        return row

    def embed(self, paths: Sequence[str]) -> Array:
        """Files as unit vectors."""
        return self._encoder.encode_images(paths)

    def folder(self, paths: Sequence[str], target: Path) -> None:
        """See ``Adapter``: an index in a store of its own, files synced."""
        # Here, since it brings Qdrant's client: a process that only embeds does not wait for it.
        from warmclip.store.open import open_store

        settings = self._settings(target)
        with open_store(settings) as store:
            report = Indexer.from_settings(self._encoder, store, settings).index(paths)
        if report.indexed != len(paths):
            raise RuntimeError(f"{report.indexed} of {len(paths)} pictures were indexed")

    def vectors(self, paths: Sequence[str], target: Path) -> Array:
        """See ``Adapter``."""
        from warmclip.store.open import open_store

        settings = self._settings(target)
        with open_store(settings) as store:
            points = store.scroll(settings.collection, with_vectors=True)
            found = {point.payload.path: point.vector for point in points}
        return np.array([found[path] for path in paths])

    def prepare_search(self) -> None:
        """See ``Adapter``: the embedded store, in this process."""
        from warmclip.store.qdrant import QdrantStore

        settings = self._settings(self._fixtures.folder / f"points-{uuid.uuid4().hex}")
        store = QdrantStore.embedded(settings.embedded_store)
        fill(store, self._encoder.fingerprint, self._encoder.dim, self._fixtures.points)
        self._searched = Indexer.from_settings(self._encoder, store, settings)

    def query(self, text: str) -> None:
        """See ``Adapter``."""
        assert self._searched is not None  # noqa: S101 - the order of the calls
        self._searched.search(text, limit=HITS)

    def _settings(self, home: Path) -> Settings:
        home.mkdir(mode=0o700, exist_ok=True)
        return Settings(home=home, bundle=self._fixtures.bundle, collection=COLLECTION)
