"""One graph on one provider, owned by one process. The only module that imports onnxruntime."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warmclip.errors import BundleError, ForkedSessionError, ProviderUnavailable
from warmclip.inference.arrays import Features
from warmclip.inference.providers import Provider, choose

# onnxruntime names the axis in our graphs; pinning it makes every shape static.
_BATCH_AXIS = "batch"


def load_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    From 1.29 on, importing it starts a thread that talks to the network, and that makes a forked
    child hang at exit (microsoft/onnxruntime#27379). The variable counts only before the import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def find_provider(choice: str) -> Provider:
    """The provider for a choice, in the onnxruntime that is installed.

    Raises:
        ProviderUnavailable: this onnxruntime does not have it, or is too old for it.
    """
    onnxruntime = load_onnxruntime()
    return choose(choice, onnxruntime.get_available_providers(), onnxruntime.__version__)


class OnnxSession:
    """A tower's graph, loaded.

    A provider with static shapes gets one inner session for each batch size in its buckets, made
    when first needed; a short batch is padded with its own first row and the answer sliced.
    """

    def __init__(self, graph: Path, provider: Provider, *, threads: int = 0) -> None:
        self.graph = graph
        self.provider = provider
        self._threads = threads
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._sessions: dict[int, Any] = {}
        self._session(provider.buckets[0] if provider.buckets else 0)

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Features:
        """Compute ``features``, shape (n, dim), of inputs whose first axis is n >= 1.

        Raises:
            ForkedSessionError: this process is a forked child of the one that made the session.
            ProviderUnavailable: the provider failed while computing.
        """
        self._refuse_fork()
        n = len(next(iter(feeds.values())))
        if not self.provider.buckets:
            return self._compute(0, feeds)
        parts = []
        largest = self.provider.buckets[-1]
        for start in range(0, n, largest):
            part = {name: array[start : start + largest] for name, array in feeds.items()}
            parts.append(self._run_bucket(part, min(largest, n - start)))
        return np.concatenate(parts)

    def _run_bucket(self, feeds: Mapping[str, npt.NDArray[Any]], n: int) -> Features:
        size = next(bucket for bucket in self.provider.buckets if bucket >= n)
        padded = {
            name: np.concatenate([array, np.repeat(array[:1], size - n, axis=0)])
            for name, array in feeds.items()
        }
        return self._compute(size, padded)[:n]

    def _compute(self, size: int, feeds: Mapping[str, npt.NDArray[Any]]) -> Features:
        try:
            (features,) = self._session(size).run(["features"], dict(feeds))
        except _foreign_errors() as exc:
            raise ProviderUnavailable(
                f"{self.provider.execution_provider} failed on {self.graph.name}: {exc}"
            ) from exc
        computed: Features = features
        return computed

    def _session(self, size: int) -> Any:
        with self._lock:
            if size not in self._sessions:
                self._sessions[size] = self._load(size)
            return self._sessions[size]

    def _load(self, size: int) -> Any:
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3  # errors: the provider's chatter is no news to a user
        if size:
            options.add_free_dimension_override_by_name(_BATCH_AXIS, size)
        wanted = self.provider.execution_provider
        try:
            session = onnxruntime.InferenceSession(
                self.graph,
                options,
                providers=[(wanted, self.provider.options)],
                disabled_optimizers=list(self.provider.disabled_optimizers),
            )
            if self.provider.around is not None:
                session = self.provider.around(session)
        except _foreign_errors() as exc:
            raise BundleError(f"onnxruntime cannot load {self.graph}: {exc}") from exc
        session.disable_fallback()
        if session.get_providers()[0] != wanted:
            raise ProviderUnavailable(
                f"asked for {wanted}, onnxruntime gave {session.get_providers()[0]}"
            )
        return session

    def _refuse_fork(self) -> None:
        if os.getpid() != self._owner:
            raise ForkedSessionError(
                f"this session was made in process {self._owner} and is used in its forked child "
                f"{os.getpid()}: start jobs with `warmclip worker`, which never forks a model"
            )


def _foreign_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: its own classes have no base of their own but Exception."""
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
    return (*own, RuntimeError, ValueError)
