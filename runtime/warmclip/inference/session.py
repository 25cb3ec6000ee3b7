"""One graph on one provider, owned by one process. The only module that imports onnxruntime."""

import contextlib
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warmclip.activity import Activity, Stage, Unwatched
from warmclip.errors import BundleError, ForkedSessionError, ProviderUnavailable
from warmclip.inference.arrays import Features
from warmclip.inference.fork import never_destroy_in_children, refuse_fork, watch_forks
from warmclip.inference.machine import os_build
from warmclip.inference.model_cache import ModelCache
from warmclip.inference.providers import Candidates, Provider, find_candidates

# onnxruntime names the axis in our graphs; pinning it makes every shape static.
_BATCH_AXIS = "batch"

_loaded_in: int | None = None  # the process that imported onnxruntime here
_exclusive = threading.Lock()


def load_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    From 1.29 on, importing it starts a thread that talks to the network, and that makes a forked
    child hang at exit (microsoft/onnxruntime#27379). The variable counts only before the import.

    Raises:
        ForkedSessionError: this process was forked from one that has imported it.
    """
    global _loaded_in  # noqa: PLW0603 - a fact about the process
    if _loaded_in is None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        watch_forks()
        _loaded_in = os.getpid()
        return onnxruntime
    if _loaded_in != os.getpid():
        raise ForkedSessionError(
            f"process {os.getpid()} was forked from {_loaded_in}, which had loaded onnxruntime, "
            "whose threads and system services do not survive a fork: run jobs in "
            "`warmclip worker`, which never forks, or start the process with spawn"
        )
    import onnxruntime

    return onnxruntime


def candidates(choice: str) -> Candidates:
    """The providers that a choice may come down to, in the onnxruntime that is installed.

    Raises:
        SettingsError: there is no provider of that name.
        ProviderUnavailable: this onnxruntime has none of them, or is too old for it.
    """
    onnxruntime = load_onnxruntime()
    return find_candidates(choice, onnxruntime.get_available_providers(), onnxruntime.__version__)


def find_provider(name: str) -> Provider:
    """The one provider of a name, in the onnxruntime that is installed.

    Raises:
        SettingsError, ProviderUnavailable: as ``candidates``.
    """
    return candidates(name).here[0]


def onnxruntime_version() -> str:
    """Such as "1.32.0", of whichever of its distributions is installed."""
    return str(load_onnxruntime().__version__)


def onnxruntime_build() -> str:
    """The build of onnxruntime, such as "1.32.0, git-commit-id=fab30a4, ..."."""
    onnxruntime = load_onnxruntime()
    return f"{onnxruntime.__version__}, {onnxruntime.get_build_info()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a graph's nodes went."""

    partitions: int  # pieces that the provider took
    cpu_nodes: int  # nodes that it left to the CPU


class OnnxSession:
    """A tower's graph, loaded.

    A provider with static shapes gets one inner session for each batch size in its buckets, made
    when first needed; a short batch is padded with its own first row and the answer sliced.
    """

    def __init__(
        self,
        graph: Path,
        provider: Provider,
        *,
        threads: int = 0,
        digest: str = "",
        cache: ModelCache | None = None,
        records_placement: bool = False,
        activity: Activity | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: the file.
            provider: where to compute.
            threads: 0 lets onnxruntime choose.
            digest: of the file's content; what is compiled is kept under it.
            cache: where to keep it, for a provider that can.
            records_placement: whether ``placement`` will be asked.
            activity: told of each load and run before it begins.
        """
        self.graph = graph
        self.provider = provider
        self._threads = threads
        self._digest = digest
        self._cache = cache
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

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Features:
        """Compute ``features``, shape (n, dim), of inputs whose first axis is n >= 1.

        Raises:
            ForkedSessionError: this process is a forked child of the one that made the session.
            ProviderUnavailable: the provider failed while computing.
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
        """
        for size in self.provider.buckets:
            self._session(size)

    def placement(self) -> Placement | None:
        """Where the nodes went, the worst of the buckets; None where it cannot be read."""
        if self.provider.execution_provider == "CPUExecutionProvider":
            return Placement(partitions=1, cpu_nodes=0)
        found = [_placement(session, self.provider) for session in self._sessions.values()]
        known = [placement for placement in found if placement is not None]
        if not self._records_placement or not known:
            return None
        return max(known, key=lambda placement: (placement.cpu_nodes, placement.partitions))

    def _run_bucket(self, feeds: Mapping[str, npt.NDArray[Any]], n: int) -> Features:
        size = next(bucket for bucket in self.provider.buckets if bucket >= n)
        padded = {
            name: np.concatenate([array, np.repeat(array[:1], size - n, axis=0)])
            for name, array in feeds.items()
        }
        return self._compute(size, padded)[:n]

    def _compute(self, size: int, feeds: Mapping[str, npt.NDArray[Any]]) -> Features:
        session = self._session(size)
        try:
            with self._turn, self._announced("run", rows=len(next(iter(feeds.values())))):
                (features,) = session.run(["features"], dict(feeds))
        except _foreign_errors() as exc:
            raise ProviderUnavailable(
                f"{self.provider.name} failed on {self.graph.name}: {exc}"
            ) from exc
        computed: Features = features
        return computed

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
            if self._cache is None or self.provider.cache_option is None:
                return self._create(size, {})
            option = self.provider.cache_option
            return self._cache.load(
                self._identity(size),
                lambda folder: self._create(size, {option: str(folder)}),
                _foreign_errors(),
            )
        except _foreign_errors() as exc:
            raise BundleError(
                f"{self.provider.name} in onnxruntime cannot load {self.graph}: {exc}"
            ) from exc

    def _create(self, size: int, more_options: dict[str, str]) -> Any:
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Threads that spin between two operators take the time of whatever else runs here: on a
        # busy machine one picture took 1.6 times as long with them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors: the provider's chatter is no news to a user
        if self._records_placement:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if size:
            options.add_free_dimension_override_by_name(_BATCH_AXIS, size)
        wanted = self.provider.execution_provider
        session = onnxruntime.InferenceSession(
            self.graph,
            options,
            providers=[(wanted, self.provider.options | more_options)],
            disabled_optimizers=list(self.provider.disabled_optimizers),
        )
        if self.provider.around is not None:
            session = self.provider.around(session)
        session.disable_fallback()
        if session.get_providers()[0] != wanted:
            raise ProviderUnavailable(
                f"asked for {wanted}, onnxruntime gave {session.get_providers()[0]}"
            )
        return session

    def _identity(self, size: int) -> dict[str, Any]:
        """What decides what is compiled; the path as well, of which CoreML makes its own key."""
        return {
            "graph": self._digest,
            "path": str(self.graph),
            "onnxruntime": onnxruntime_build(),
            "os": os_build(),
            "batch": size,
            "provider": self.provider.identity(),
        }


def _placement(session: Any, provider: Provider) -> Placement | None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None  # before onnxruntime 1.24
    pieces = session.get_provider_graph_assignment_info()
    wanted = provider.execution_provider
    return Placement(
        partitions=sum(piece.ep_name == wanted for piece in pieces),
        cpu_nodes=sum(len(piece.get_nodes()) for piece in pieces if piece.ep_name != wanted),
    )


def _foreign_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: its own classes have no base of their own but Exception.

    OSError is a full disk, for a provider that compiles.
    """
    state = load_onnxruntime().capi.onnxruntime_pybind11_state
    own = (
        state.Fail,
        state.EPFail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    return (*own, RuntimeError, ValueError, OSError)
