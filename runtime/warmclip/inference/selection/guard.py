"""One tower in use: every batch is checked, and a provider that fails once is not used again."""

import logging
import threading
import uuid
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from warmclip.activity import Activity, Unwatched
from warmclip.errors import BadVectors, CacheUnusable, ProviderUnavailable, SettingsError
from warmclip.inference.arrays import Features, Vectors, unit_rows
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort.model_cache import ModelCache, sweep_temporaries
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU, Provider
from warmclip.inference.selection.canary import Canary
from warmclip.inference.selection.golden import Feeds, Golden, tolerance
from warmclip.inference.selection.quarantine import HOURS, Quarantine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardContext:
    """What the towers of one Encoder have in common."""

    bundle: ModelBundle
    golden: Golden
    quarantine: Quarantine
    cache: ModelCache
    threads: int
    canary_every: int  # batches; 0: none
    is_insisted: bool  # the provider was asked for by name: failing is an error, not a fallback
    distrusted: dict[str, str]  # provider -> what it did, or what it lacks
    activity: Activity = field(default_factory=Unwatched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Unit vectors, shape (n, dim), and what has checked them."""

    vectors: Vectors
    provider: str
    canary: Canary | None = None  # that they still wait for


class _CanaryFailed(Exception):
    """The provider computed a golden row wrong."""


class _OutOfRange(Exception):
    """Raw lengths that no honest input is known to have; the vectors may be right all the same."""

    def __init__(self, what: str, vectors: Vectors) -> None:
        super().__init__(what)
        self.vectors = vectors


class Guard:
    """A tower's session, and the CPU behind it.

    Every batch must have the right shape, finite rows, and raw lengths as the golden rows have
    them. Every Nth batch, and the last of a stream, carries a golden row, the canary, unless the
    provider is steady. A provider that fails is quarantined, the batch is computed again on the
    CPU, and the CPU goes on.

    A row is proven by the next good canary. Until then it carries that canary, so that whoever
    stores it can tell what is proven from what is not, even after a crash.
    """

    def __init__(self, tower: Tower, provider: Provider, context: GuardContext) -> None:
        """Load the tower.

        Raises:
            BundleError: the graph cannot be used.
            ProviderUnavailable: the provider was insisted on, and failed.
        """
        self._tower = tower
        self._provider = provider
        self._context = context
        self._canary_every = 0 if provider.is_steady else context.canary_every
        self._lock = threading.Lock()
        self._reference: OnnxSession | None = None
        self._id = uuid.uuid4().hex[:16]
        self._batches = 0
        self._good_canaries = 0
        self._has_unproven = False
        self._session = self._load()

    @property
    def provider(self) -> str:
        """What computes now."""
        return self._active().provider.name

    def run(self, feeds: Feeds, *, is_last: bool = False) -> Checked:
        """Compute and check a batch of n >= 1 rows.

        Args:
            feeds: the tower's inputs.
            is_last: of a stream, so that nothing stays unproven after it.

        Raises:
            BadVectors: not even the CPU makes vectors of them.
            ProviderUnavailable: the provider was insisted on, and failed.
            ForkedSessionError: this is a forked child.
        """
        session = self._active()
        if session.provider.is_reference:
            return self._checked_on(session, feeds)
        with self._lock:
            every = self._canary_every
            carries = every > 0 and (is_last or self._batches % every == 0)
            self._batches += 1
        try:
            vectors = self._compute(session, feeds, carries_canary=carries)
        except CacheUnusable as exc:
            self._leave(str(exc))
            return self.run(feeds)
        except _CanaryFailed as exc:
            self._distrust(str(exc))
            return self.run(feeds)
        except _OutOfRange as exc:
            return self._compare_with_cpu(feeds, exc, is_proven=carries)
        except (BadVectors, ProviderUnavailable) as exc:
            # First on the CPU: if the input is to blame, it raises there as well.
            checked = self._checked_on(self._open_reference(), feeds)
            self._distrust(str(exc))
            return checked
        return Checked(
            vectors=vectors,
            provider=session.provider.name,
            canary=self._next_canary(after_good_one=carries),
        )

    def prove(self) -> None:
        """Run a canary by itself, if rows wait for one.

        Raises:
            ProviderUnavailable: the provider was insisted on, and failed.
        """
        session = self._active()
        if session.provider.is_reference or not self._has_unproven:
            return
        row = self._canary_row()
        try:
            self._inspect(session.run(self._context.golden.feeds(self._tower, row)), row)
        except CacheUnusable as exc:
            self._leave(str(exc))
        except (_CanaryFailed, ProviderUnavailable) as exc:
            self._distrust(str(exc))
        else:
            self._next_canary(after_good_one=True)

    def is_proven(self, canary: Canary | None) -> bool:
        """Whether rows that waited for this canary are proven; those of another Guard never are."""
        if canary is None:
            return True
        return canary.guard == self._id and canary.number < self._good_canaries

    def _active(self) -> OnnxSession:
        if self._session.provider.name in self._context.distrusted:
            self._refuse_if_insisted()
            self._session = self._open_reference()
        return self._session

    def _load(self) -> OnnxSession:
        """The provider's session, once it has reproduced the golden vectors; else the CPU's."""
        if self._provider.name in self._context.distrusted:
            self._refuse_if_insisted()
            return self._open_reference()
        if self._provider.is_reference:
            return self._open_reference()
        if self._provider.cache_option is not None:
            sweep_temporaries()
        try:
            session = self._open_session(self._provider)
            rows = np.arange(self._context.golden.rows(self._tower))
            self._inspect(session.run(self._context.golden.feeds(self._tower, rows)), rows)
        except CacheUnusable as exc:
            self._leave(str(exc))
            return self._open_reference()
        except (_CanaryFailed, ProviderUnavailable) as exc:
            self._distrust(str(exc))
            return self._open_reference()
        return session

    def _compute(self, session: OnnxSession, feeds: Feeds, *, carries_canary: bool) -> Vectors:
        if not carries_canary:
            return self._check(session.run(feeds))
        # In front, so that it shares the batch of the first rows however the session cuts it up.
        row = self._canary_row()
        canary = self._context.golden.feeds(self._tower, row)
        features = session.run(
            {name: np.concatenate([canary[name], array]) for name, array in feeds.items()}
        )
        self._inspect(features[:1], row)
        return self._check(features[1:])

    def _inspect(self, features: Features, rows: npt.NDArray[np.intp]) -> None:
        try:
            comparison = self._context.golden.compare(self._tower, features, rows)
        except BadVectors as exc:
            raise _CanaryFailed(f"of golden {self._tower}s, {exc}") from exc
        fault = comparison.fault(tolerance(self._provider))
        if fault is not None:
            raise _CanaryFailed(f"it computes wrong {self._tower} vectors: {fault}")

    def _check(self, features: Features) -> Vectors:
        vectors = unit_rows(features, self._context.bundle.manifest.dim)
        low, high = self._context.golden.norm_range(self._tower)
        norms = np.linalg.norm(features, axis=1)
        strange = norms[(norms < low) | (norms > high)]
        if strange.size:
            raise _OutOfRange(
                f"raw {self._tower} vectors of length {strange[0]:.4g}, outside the golden "
                f"{low:.4g} to {high:.4g}",
                vectors,
            )
        return vectors

    def _compare_with_cpu(self, feeds: Feeds, strange: _OutOfRange, *, is_proven: bool) -> Checked:
        """Return the CPU's vectors; the provider is at fault only if its own differ from them."""
        checked = self._checked_on(self._open_reference(), feeds)
        cosines = np.sum(strange.vectors * checked.vectors, axis=1)
        if not np.min(cosines) >= tolerance(self._provider).cosine:
            self._distrust(f"it computes {strange}")
        elif is_proven:  # its canary was good
            self._next_canary(after_good_one=True)
        return checked

    def _checked_on(self, session: OnnxSession, feeds: Feeds) -> Checked:
        vectors = unit_rows(session.run(feeds), self._context.bundle.manifest.dim)
        return Checked(vectors=vectors, provider=session.provider.name)

    def _next_canary(self, *, after_good_one: bool) -> Canary | None:
        """The canary that rows computed until now wait for; None if a good one has just come."""
        if self._canary_every == 0:
            return None
        with self._lock:
            if after_good_one:
                self._good_canaries += 1
                self._has_unproven = False
                return None
            self._has_unproven = True
            return Canary(guard=self._id, number=self._good_canaries)

    def _canary_row(self) -> npt.NDArray[np.intp]:
        """Another row each time."""
        return np.array([self._good_canaries % self._context.golden.rows(self._tower)])

    def _leave(self, reason: str) -> None:
        """Leave the provider in this process; the next one looks again for a place to keep models.

        Raises:
            ProviderUnavailable: it was insisted on.
        """
        name = self._provider.name
        self._context.distrusted[name] = reason
        log.warning("%s is not used by this process: %s", name, reason)
        self._refuse_if_insisted()

    def _distrust(self, reason: str) -> None:
        """Quarantine the provider; from here on the CPU computes, or nobody.

        Raises:
            ProviderUnavailable: it was insisted on.
        """
        name = self._provider.name
        with self._lock:
            is_news = name not in self._context.distrusted
            self._context.distrusted[name] = reason
        if is_news:
            self._quarantine(name, reason)
            log.error(
                "%s is left for %d hours: %s. %s; see `warmclip doctor`, and `warmclip audit "
                "--suspect` for pictures that were stored since its last good check",
                name,
                HOURS,
                reason,
                "It was asked for by name, so nothing goes on"
                if self._context.is_insisted
                else "The CPU goes on",
            )
        self._refuse_if_insisted()

    def _quarantine(self, name: str, reason: str) -> None:
        try:
            self._context.quarantine.add(name, reason)
        except (OSError, SettingsError) as exc:  # this process leaves it all the same
            log.warning("cannot tell other processes that %s failed: %s", name, exc)

    def _refuse_if_insisted(self) -> None:
        if self._context.is_insisted:
            name = self._provider.name
            raise ProviderUnavailable(
                f"provider {name!r} was asked for by name and failed: "
                f"{self._context.distrusted[name]}. Use WARMCLIP_PROVIDER=cpu, or try again: "
                f"warmclip doctor --retry-provider {name}"
            )

    def _open_reference(self) -> OnnxSession:
        with self._lock:
            if self._reference is None:
                self._reference = self._open_session(CPU)
            return self._reference

    def _open_session(self, provider: Provider) -> OnnxSession:
        context, tower, precision = self._context, self._tower, provider.precision
        record = context.bundle.graph_record(tower, precision)
        return OnnxSession(
            context.bundle.folder / record.file,
            provider,
            threads=context.threads,
            length=context.bundle.manifest.tokenizer.context_length,
            digest=record.digest,
            size_bytes=record.total_bytes,
            cache=context.cache,
            verify=partial(context.bundle.graph, tower, precision),
            check=partial(context.golden.check, tower, precision),
            activity=context.activity,
        )
