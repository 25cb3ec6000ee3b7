"""onnxruntime, as it is installed here. The only module that imports it."""

import os
from typing import Any

from warmclip.errors import ForkedSessionError, ProviderUnavailable
from warmclip.inference.ort.fork import watch_forks
from warmclip.inference.providers import Candidates, Provider, find_candidates

_loaded_in: int | None = None  # the process that imported onnxruntime here


def load_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    From 1.29 on, importing it starts a thread that talks to the network, and that makes a forked
    child hang at exit (microsoft/onnxruntime#27379). The variable counts only before the import.

    Raises:
        ForkedSessionError: this process was forked from one that has imported it.
        ProviderUnavailable: it is not installed.
    """
    global _loaded_in  # noqa: PLW0603 - a fact about the process
    if _loaded_in is None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        onnxruntime = _import()
        watch_forks()
        _loaded_in = os.getpid()
        _share_memory(onnxruntime)
        return onnxruntime
    if _loaded_in != os.getpid():
        raise ForkedSessionError(
            f"process {os.getpid()} was forked from {_loaded_in}, which had loaded onnxruntime, "
            "whose threads and system services do not survive a fork: run jobs in "
            "`warmclip worker`, which never forks, or start the process with spawn"
        )
    return _import()


def _import() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as exc:
        raise ProviderUnavailable(
            "onnxruntime is not installed: pip install 'warmclip[cpu]', or the one build of it "
            "that suits this machine, such as onnxruntime-gpu or onnxruntime-openvino"
        ) from exc
    if getattr(onnxruntime, "__file__", None) is None:  # folders without what was in them
        raise ProviderUnavailable(
            "onnxruntime is installed in part: two of its builds were installed over each other, "
            "and one was removed. Uninstall all of them, then install one"
        )
    return onnxruntime


def _share_memory(onnxruntime: Any) -> None:
    """Make one arena, for all sessions that ask for it: towers take turns in using the most."""
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        ),
        None,
    )


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


def foreign_errors() -> tuple[type[Exception], ...]:
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
