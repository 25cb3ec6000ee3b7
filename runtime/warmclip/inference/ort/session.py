"""One graph on one provider, owned by one process."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from warmclip.activity import Activity, Stage, Unwatched
from warmclip.errors import (
    BadVectors,
    BundleError,
    CacheUnusable,
    ProviderUnavailable,
    SettingsError,
)
from warmclip.inference.arrays import Features, Inputs
from warmclip.inference.machine import return_freed_memory, usable_cores
from warmclip.inference.ort import prepacked, text_lengths
from warmclip.inference.ort.compiled import CompiledModels
from warmclip.inference.ort.fork import never_destroy_in_children, refuse_fork
from warmclip.inference.ort.loading import (
    foreign_errors,
    load_onnxruntime,
    onnxruntime_build,
    onnxruntime_version,
)
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.ort.placement import Placement, read_placement
from warmclip.inference.providers import Provider

log = logging.getLogger(__name__)

# onnxruntime names the axis in our graphs; pinning it makes every shape static.
_BATCH_AXIS = "batch"
# What a run of more rows has taken it gives back; of fewer, the next run finds it there. One batch
# of 128 pictures left 300 MB of ViT-B-32's for good, where batches of 32 need 100.
_USUAL_ROWS = 32
_PATIENCE_S = 60.0  # with another process that prepares the graph: it takes seconds

Run: TypeAlias = Callable[[Inputs], Features]
Check: TypeAlias = Callable[[Run, bool], None]
"""Raises BadVectors if what is run computes wrong; it looks closer at what was made just now."""

_exclusive = threading.Lock()


class OnnxSession:
    """A tower's graph, loaded.

    A provider with static shapes gets one inner session for each batch size in its buckets, made
    when first needed; a short batch is padded with its own first row and the answer sliced. Such a
    provider computes texts whole, as does a graph of fixed length; others, as long as they are.
    """

    def __init__(
        self,
        graph: Path,
        provider: Provider,
        *,
        threads: int = 0,
        length: int = 0,
        digest: str = "",
        size_bytes: int = 0,
        cache: ModelCache | None = None,
        verify: Callable[[], object] | None = None,
        check: Check | None = None,
        records_placement: bool = False,
        activity: Activity | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: the file.
            provider: where to compute.
            threads: 0 for as many as there are cores for this process.
            length: in tokens, of every text, for a provider with static shapes; pictures have none.
            digest: of its content; what is compiled or prepared is kept under it.
            size_bytes: of the graph with its weights: that needs some times as much on the disk.
            cache: where to keep it, for a provider that can.
            verify: called before the file is read; what it raises passes through. What was
                prepared from the file earlier is loaded without reading it.
            check: of a prepared graph, each time it is loaded; if it raises BadVectors, the graph
                is loaded as it is.
            records_placement: whether ``placement`` will be asked.
            activity: told of each load and run before it begins.
        """
        self.graph = graph.absolute()  # CoreML keeps what it compiles under the path
        self.provider = provider
        self._threads = threads or usable_cores()
        self._length = length
        self._digest = digest
        self._size_bytes = size_bytes
        self._cache = cache
        self._verify = verify or (lambda: None)
        self._check = check or (lambda _run, _is_new: None)
        self._records_placement = records_placement
        self._activity = activity or Unwatched()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[Any] = (
            _exclusive if provider.is_exclusive else contextlib.nullcontext()
        )
        self._sessions: dict[int, Any] = {}
        self._session(provider.buckets[0] if provider.buckets else 0)
        never_destroy_in_children(self)

    def inner_sessions(self) -> list[Any]:
        """Onnxruntime's own, as far as they are loaded."""
        return list(self._sessions.values())

    def run(self, feeds: Inputs) -> Features:
        """Compute ``features``, shape (n, dim), of inputs whose first axis is n >= 1.

        Raises:
            ForkedSessionError: this process is a forked child of the one that made the session.
            ProviderUnavailable: the provider failed while computing.
            BadVectors: the reference provider computes no rows of features, or too few.
        """
        refuse_fork(self._owner, "session")
        n = len(next(iter(feeds.values())))
        if not self.provider.buckets:
            return self._compute(0, feeds)
        parts = []
        largest = self.provider.buckets[-1]
        for start in range(0, n, largest):
            part = {name: array[start : start + largest] for name, array in feeds.items()}
            parts.append(self._run_bucket(part, min(largest, n - start)))
        return np.concatenate(parts)

    def load_all(self) -> None:
        """Load the inner session of every bucket now.

        Raises:
            BundleError, ProviderUnavailable: one of them cannot be loaded.
            CacheUnusable: what is compiled cannot be kept.
        """
        for size in self.provider.buckets:
            self._session(size)

    def placement(self) -> Placement | None:
        """Where the nodes went, the worst of the buckets; None where it cannot be read."""
        if self.provider.execution_provider == prepacked.EXECUTION_PROVIDER:
            return Placement(partitions=1, cpu_nodes=0)
        found = [read_placement(session, self.provider) for session in self._sessions.values()]
        known = [placement for placement in found if placement is not None]
        if not self._records_placement or not known:
            return None
        return max(known, key=lambda placement: (placement.cpu_nodes, placement.partitions))

    def _run_bucket(self, feeds: Inputs, n: int) -> Features:
        size = next(bucket for bucket in self.provider.buckets if bucket >= n)
        padded = {
            name: np.concatenate([array, np.repeat(array[:1], size - n, axis=0)])
            for name, array in feeds.items()
        }
        return self._compute(size, padded)[:n]

    def _compute(self, size: int, feeds: Inputs) -> Features:
        session = self._session(size)
        failures: tuple[type[Exception], ...] = (*foreign_errors(), BadVectors)
        try:
            with self._turn, self._announced("run", rows=len(next(iter(feeds.values())))):
                return _features(session, feeds)
        except failures as exc:
            if isinstance(exc, BadVectors) and self.provider.is_reference:
                raise  # the graph or the input is to blame
            raise ProviderUnavailable(
                f"{self.provider.name} failed on {self.graph.name}: {exc}"
            ) from exc

    def _session(self, size: int) -> Any:
        with self._lock:
            if size not in self._sessions:
                with self._turn, self._announced("load"):
                    self._sessions[size] = self._load(size)
            return self._sessions[size]

    def _announced(self, stage: Stage, *, rows: int = 1) -> AbstractContextManager[object]:
        provider = self.provider.name
        return self._activity.during(stage, self.graph.name, rows=rows, provider=provider)

    def _load(self, size: int) -> Any:
        try:
            session = self._load_cached(size)
            if session is None:
                session = self._load_plain(size, {})
            return session if self.provider.around is None else self.provider.around(session)
        except foreign_errors() as exc:
            # The reference takes every good graph, so that what it cannot load is none.
            blamed = BundleError if self.provider.is_reference else ProviderUnavailable
            raise blamed(
                f"{self.provider.name} in onnxruntime cannot load {self.graph}: {exc}"
            ) from exc

    def _load_cached(self, size: int) -> Any | None:
        """By way of the cache; None if there is none, or it is of no use here."""
        if self._cache is None:
            return None
        if self.provider.cache_option is not None:
            option = self.provider.cache_option
            compiled = CompiledModels(
                graph=self.graph,
                provider=self.provider,
                digest=self._digest,
                size_bytes=self._size_bytes,
                length=self._length,
                cache=self._cache,
            )
            compiled.require_space(size)
            try:
                return self._cache.load(
                    compiled.identity(size),
                    lambda folder: self._load_plain(size, {option: str(folder)}),
                    foreign_errors(),
                )
            except SettingsError as exc:
                raise CacheUnusable(str(exc)) from exc
        if self.provider.execution_provider != prepacked.EXECUTION_PROVIDER or not self._digest:
            return None
        failures: tuple[type[Exception], ...] = (*foreign_errors(), BadVectors, SettingsError)
        try:
            return self._cache.load(
                prepacked.identity_of(self._digest, self.provider, onnxruntime_build(), size),
                lambda folder: self._load_prepared(size, folder),
                (*foreign_errors(), BadVectors),
                is_immutable=True,
                patience_s=_PATIENCE_S,
            )
        except failures as exc:
            _warn_once(str(exc))
            return None

    def _load_plain(self, size: int, more_options: dict[str, str]) -> Any:
        self._verify()
        return self._create(self.graph, self._options(size), more_options)

    def _load_prepared(self, size: int, folder: Path) -> Any:
        graph = prepacked.graph_in(folder)
        is_new = not graph.exists()
        if is_new:
            self._verify()
            prepacked.require_space(folder, self._size_bytes)
            log.info("preparing %s for this processor: seconds, and only once", self.graph.name)
            options = self._options(size)
            prepacked.ask_to_write(options, folder, onnxruntime_version())
            self._create(self.graph, options, {})
            return_freed_memory()
        options = self._options(size)
        prepacked.ask_to_read(options, load_onnxruntime())
        session = self._create(graph, options, {})
        self._check(partial(_features, session), is_new)
        return session

    def _options(self, size: int) -> Any:
        options = load_onnxruntime().SessionOptions()
        options.intra_op_num_threads = self._threads
        # Threads that spin between two operators take the time of whatever else runs here: on a
        # busy machine one picture took 1.6 times as long with them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors: the provider's chatter is no news to a user
        for name, value in self.provider.session_config.items():
            options.add_session_config_entry(name, value)
        if self._records_placement:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if size:
            options.add_free_dimension_override_by_name(_BATCH_AXIS, size)
            if self._length:
                options.add_free_dimension_override_by_name(text_lengths.LENGTH_AXIS, self._length)
        return options

    def _create(self, graph: Path, options: Any, more_options: dict[str, str]) -> Any:
        wanted = self.provider.execution_provider
        session = load_onnxruntime().InferenceSession(
            graph,
            options,
            providers=[(wanted, self.provider.options | more_options)],
            disabled_optimizers=list(self.provider.disabled_optimizers),
        )
        session.disable_fallback()
        if session.get_providers()[0] != wanted:
            raise ProviderUnavailable(
                f"asked for {wanted}, onnxruntime gave {session.get_providers()[0]}"
            )
        return session


def _features(session: Any, feeds: Inputs) -> Features:
    if text_lengths.has_free_lengths(session.get_inputs()):
        return text_lengths.run_trimmed(partial(_run, session), feeds)
    return _run(session, feeds)


def _run(session: Any, feeds: Inputs) -> Features:
    """One run, shape (n, dim).

    Raises:
        BadVectors: there is not one row for each of the input's; which is whose could not be told.
    """
    names, rows = ["features"], len(next(iter(feeds.values())))
    if rows <= _USUAL_ROWS:
        (features,) = session.run(names, dict(feeds))
    else:
        options = load_onnxruntime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        (features,) = session.run(names, dict(feeds), options)
    computed: Features = features
    if computed.ndim != 2 or len(computed) != rows:
        raise BadVectors(f"the model returned shape {computed.shape} for {rows} rows")
    return computed


@cache
def _warn_once(why: str) -> None:
    """Log a reason once, as both towers of a process fail for the same."""
    log.warning("this process packs the model's weights for itself: %s", why)
