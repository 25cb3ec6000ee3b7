"""What a horse owns: warm Encoders, and the store.

All are opened before the first job, and never cross a fork. The store comes first, since other
processes use it through this one. The modules that they need are imported only then, so that a
process which names a job loads none.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from warmclip.activity import Activity, Unwatched
from warmclip.errors import (
    BundleError,
    ForkedSessionError,
    JobRefused,
    ModelUnknown,
    NotStored,
    SpaceMismatch,
    StoreError,
)
from warmclip.indexing.roots import Roots
from warmclip.progress import Progress
from warmclip.settings import Settings
from warmclip.work.horse.models import (
    MissedModel,
    ModelChoice,
    ModelNeeded,
    bundles_to_load,
    find_former,
)

if TYPE_CHECKING:
    from warmclip.indexing.indexer import Indexer
    from warmclip.inference.encoder import Encoder
    from warmclip.store.protocol import VectorStore

log = logging.getLogger(__name__)

_COUNT_EVERY_S = 10.0
_STORE_S = 3.0  # for a store at the start, before it is done without


class JobContext:
    """What a job finds in its process: warm Encoders, the store, and the settings.

    Attributes:
        settings: the worker's.
        roots: of the settings.
        encoders: by fingerprint, loaded, and run once.
        progress: told how far a job is.
        pid: the process that this belongs to.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        store_owner: int | None,
        choice: ModelChoice = ModelChoice(),  # noqa: B008 - frozen
    ) -> None:
        self.settings = settings
        self.roots = Roots(settings.roots)
        self.progress = progress
        self.pid = os.getpid()
        self.encoders: dict[str, Encoder] = {}
        self._store_owner = store_owner
        self._choice = choice
        self._missed = MissedModel()
        self._own: str | None = None  # the fingerprint for jobs that name no model
        self._used: list[str] = []  # fingerprints, the latest used first
        self._store_retries = 0
        self._points: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}

    @property
    def encoder(self) -> "Encoder":
        """An Encoder that is loaded: that of ``encoder_of(None)``, if it is."""
        return next(iter(self.encoders.values()))

    def encoder_of(self, model: str | None) -> "Encoder":
        """The Encoder for a job that names no collection.

        Args:
            model: the name of a bundle's folder, or 12 digits of its fingerprint or more; None:
                that of the worker's collection, else WARMCLIP_BUNDLE.

        Raises:
            ModelNeeded: it is loaded first.
            ModelUnknown: there is no such model here.
            SpaceMismatch: it could not be loaded.
        """
        fingerprint = self._own if model is None else self._find_model(model)
        if fingerprint is None:
            return self.encoder
        if fingerprint not in self.encoders:
            told = "a job needs" if model is None else f"a job names {model!r},"
            raise self._missing(fingerprint, f"{told} the model {fingerprint[:12]}")
        return self._use(fingerprint)

    def _find_model(self, model: str) -> str:
        from warmclip.indexing.collection_bundle import find_fingerprint

        if not isinstance(model, str):  # a job may carry anything
            raise JobRefused("a model is named by its folder or its fingerprint")
        # Looked up each time, in about a millisecond: a model may be exported again in its folder.
        found = find_fingerprint(self.settings, model)
        if found is None:
            raise ModelUnknown(
                f"there is no model {model[:100]!r} beside {self.settings.bundle}; "
                "`warmclip models` on the worker's machine lists what is there"
            )
        return found

    def _use(self, fingerprint: str) -> "Encoder":
        """One that is loaded; the one that was used least lately makes room for another."""
        if fingerprint in self._used:
            self._used.remove(fingerprint)
        self._used.insert(0, fingerprint)
        return self.encoders[fingerprint]

    @cached_property
    def store(self) -> "VectorStore":
        """The store, opened when it is first asked for, if it was not before.

        Without the embedded store's lock it is used through the process that has it.
        """
        from warmclip.store.open import borrow_store, open_store

        if self._store_owner is None:
            return borrow_store(self.settings, on_retry=self._count_retry)
        return open_store(self.settings, self._store_owner, progress=self.progress)

    def offer_store(self) -> None:
        """Open the embedded store for others to use, if this process owns it.

        One of the former format is converted by the first job that needs it, with progress. Why
        one cannot be opened, that job says.
        """
        from warmclip.store.embedded_catalog import is_of_former_format

        if self._store_owner is not None and not is_of_former_format(self.settings.embedded_store):
            try:
                _ = self.store
            except StoreError as exc:
                log.warning("%s", exc)

    def indexer(self, collection: str) -> "Indexer":
        """An Indexer of one collection, with the warm Encoder of its model and the open store.

        Raises:
            ModelNeeded: that model is to be loaded first.
            SpaceMismatch: it is not here.
            StoreError: the store failed.
        """
        from warmclip.indexing.indexer import Indexer

        fingerprint = self.model_of(collection)
        if fingerprint is not None and fingerprint not in self.encoders:
            raise self.missing_model_error(collection, fingerprint)
        encoder = self.encoder_of(None) if fingerprint is None else self._use(fingerprint)
        return Indexer.from_settings(encoder, self.store, self.settings, collection)

    def searcher(self, collection: str, model: str | None = None) -> "tuple[Indexer, Encoder]":
        """An Indexer that only searches, whatever the name leads to meanwhile, and its Encoder.

        Where the name leads to a model that is not loaded, it searches the former vectors of one
        that is: so a switch to another model leaves no question unanswered. The worker learns of
        it by ``take_missed``.

        Args:
            collection: where to search.
            model: whose vectors under that name are searched, see ``encoder_of``; None: those
                that the name leads to.

        Raises:
            ModelNeeded, SpaceMismatch, StoreError: as ``indexer``.
            ModelUnknown: there is no such model here.
            NotStored: the collection has no vectors of it; no model is loaded to find that out.
        """
        from warmclip.indexing.indexer import Indexer
        from warmclip.store.protocol import collection_of

        if model is None:
            fingerprint = self.model_of(collection)
        else:
            fingerprint = self._find_model(model)
            self._require_vectors(collection, fingerprint, model)
        if fingerprint is None:
            encoder = self.encoder
            return Indexer.from_settings(encoder, self.store, self.settings, collection), encoder
        if fingerprint not in self.encoders:
            former = None
            if model is None:
                former = find_former(self.store.list_generations(collection), self.encoders)
            if former is None:
                raise self.missing_model_error(collection, fingerprint)
            self._missed = self._as_missed(fingerprint, instead=former)
            fingerprint = former
        encoder = self._use(fingerprint)
        own_name = collection_of(collection, fingerprint)
        return Indexer.from_settings(encoder, self.store, self.settings, own_name), encoder

    def _require_vectors(self, collection: str, fingerprint: str, model: str) -> None:
        from warmclip.store.protocol import collection_of

        if self.store.fingerprint_of(collection) == fingerprint:
            return
        try:
            self.store.count_points(collection_of(collection, fingerprint))
        except NotStored as exc:
            raise NotStored(
                f"collection {collection!r} has no vectors of the model {model[:100]!r}; "
                f"`warmclip migrate {collection} --no-switch` with that model makes them"
            ) from exc

    def missing_model_error(self, collection: str, fingerprint: str) -> SpaceMismatch:
        """The error of a job on a collection whose model is not loaded."""
        told = f"collection {collection!r} holds vectors of the model {fingerprint[:12]}"
        return self._missing(fingerprint, told)

    def _missing(self, fingerprint: str, told: str) -> SpaceMismatch:
        """The error of a job whose model is not loaded: it begins with these words."""
        from warmclip.indexing.collection_bundle import find_bundle

        self._missed = self._as_missed(fingerprint)
        if fingerprint in self._choice.refused:
            return SpaceMismatch(f"{told}, which this worker could not load; its log says why")
        if find_bundle(self.settings, fingerprint) is not None:
            return ModelNeeded(f"{told}, which is loaded first")
        return SpaceMismatch(
            f"{told}, and this worker finds no bundle of it: copy that bundle beside "
            f"{self.settings.bundle} on the worker's machine"
        )

    def _as_missed(self, fingerprint: str, *, instead: str = "") -> MissedModel:
        return MissedModel(fingerprint=fingerprint, instead=instead, loaded=tuple(self._used))

    def take_missed(self) -> MissedModel:
        """The model that the last job has missed."""
        missed, self._missed = self._missed, MissedModel()
        return missed

    def count_points(self, collection: str) -> None:
        """Have metrics tell how many pictures a collection holds; it is counted now and then."""
        if time.monotonic() - self._counted_at.get(collection, float("-inf")) < _COUNT_EVERY_S:
            return
        try:
            self._points[collection] = self.store.count_points(collection)
        except StoreError as exc:  # the job itself was done
            log.info("the pictures of %r were not counted: %s", collection, exc)
        self._counted_at[collection] = time.monotonic()

    def take_points(self) -> dict[str, int]:
        """What the last job has counted."""
        points, self._points = self._points, {}
        return points

    def take_store_retries(self) -> int:
        """How many requests to a server were repeated since the last call."""
        retries, self._store_retries = self._store_retries, 0
        return retries

    def _count_retry(self) -> None:
        self._store_retries += 1

    def model_of(self, collection: str) -> str | None:
        """The fingerprint of a collection's model; None if there is no such collection."""
        try:
            return self.store.fingerprint_of(collection)
        except NotStored:
            return None

    def load(self, progress: Progress, activity: Activity) -> None:
        """Load the models that the worker chose, see ``bundles_to_load``.

        Raises:
            BundleError, ProviderUnavailable: one cannot be used.
        """
        from warmclip.indexing.collection_bundle import find_bundle
        from warmclip.inference.encoder import Encoder

        settings = self.settings
        in_use = self._model_in_use()
        bundles = bundles_to_load(
            self._choice.wanted,
            None if in_use in self._choice.refused else in_use,
            settings.bundle,
            lambda fingerprint: find_bundle(settings, fingerprint),
        )
        for bundle in bundles:
            with activity.during("load", f"the model {bundle}"):
                encoder = Encoder.from_settings(
                    replace(settings, bundle=bundle), progress=progress, activity=activity
                )
                encoder.warm()
            self.encoders[encoder.fingerprint] = encoder
        self._used = list(self.encoders)
        self._own = self._find_own(in_use)
        if self._own in self.encoders:
            self.encoders = {self._own: self.encoders[self._own]} | self.encoders

    def _find_own(self, in_use: str | None) -> str | None:
        """The model for jobs that name none; None: any, as neither can be loaded."""
        from warmclip.indexing.collection_bundle import bundle_fingerprint, find_bundle

        refused = (*self._choice.refused, None)
        if in_use not in refused and find_bundle(self.settings, str(in_use)) is not None:
            return in_use
        try:
            default = bundle_fingerprint(self.settings.bundle, self.settings)
        except BundleError:
            return None
        return None if default in refused else default

    def _model_in_use(self) -> str | None:
        """The model of the worker's collection; None also if the store does not answer soon."""
        from warmclip.store.embedded_catalog import is_of_former_format
        from warmclip.store.open import read_model_in_use

        settings = self.settings
        try:
            if self._store_owner is None:
                return read_model_in_use(settings, patience_s=_STORE_S)
            if is_of_former_format(settings.embedded_store):
                return None
            return self.model_of(settings.collection)
        except StoreError as exc:
            log.info("which model %r is of is not known yet: %s", settings.collection, exc)
            return None

    def close(self) -> None:
        """Let go of the store, if it was opened."""
        if "store" in self.__dict__:
            self.store.close()


_context: JobContext | None = None


@contextmanager
def open_context(
    settings: Settings,
    *,
    activity: Activity | None = None,
    progress: Progress = lambda _done, _total, _stage: None,
    store_owner: int | None = None,
    choice: ModelChoice = ModelChoice(),  # noqa: B008 - frozen
) -> Iterator[JobContext]:
    """Load the model; inside, ``current_context`` finds it.

    Args:
        settings: which model, and where vectors go.
        activity: told of each piece of native work.
        progress: told how far a job is.
        store_owner: the embedded store's lock, if the worker holds it; else the store is used
            through the process that holds it.
        choice: of models.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
    """
    global _context  # noqa: PLW0603 - jobs are called by name, so what they need has one place
    context = JobContext(settings, progress, store_owner, choice)
    try:
        context.offer_store()
        context.load(progress, activity or Unwatched())
        _context = context
        yield context
    finally:
        _context = None
        context.close()


def is_horse() -> bool:
    """Whether this process is a horse, and so has a context; no child of one that was forked is."""
    return _context is not None and _context.pid == os.getpid()


def current_context() -> JobContext:
    """The context of this process, which is a horse.

    Raises:
        JobRefused: there is none.
        ForkedSessionError: it belongs to the process that this one was forked from.
    """
    if _context is None:
        raise JobRefused(
            "no warm model in this process: warmclip's jobs run in `warmclip worker`, "
            "not in `rq worker`"
        )
    if _context.pid != os.getpid():
        raise ForkedSessionError(
            f"this process was forked from the horse {_context.pid}, and a forked model crashes "
            "on macOS and slows down elsewhere: use the model where it was loaded"
        )
    return _context
