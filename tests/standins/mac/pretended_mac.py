"""A process on Linux that finds what it would find on macOS, as far as that can be had.

Our modules and tests are told so in their source, as they are imported; libraries know nothing of
it. MAC_REHEARSAL names a folder in which "tmp" stands for /tmp, which is a link on macOS, and
"compiled" keeps what is compiled of them.
"""

import errno
import fcntl
import importlib.machinery
import os
import platform
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

_HERE = Path(__file__).parent
_TOP = Path(os.environ["MAC_REHEARSAL"])
_REPOSITORY = _HERE.parents[2]
_OURS = tuple(
    f"{_REPOSITORY / name}/" for name in ("runtime", "export", "tests", "examples", "bench")
)
_IN_SOURCE = {
    b"sys.platform": b"sys.pretended_platform",
    b"platform.system": b"platform.pretended_system",
    b"platform.machine": b"platform.pretended_machine",
    b"/proc": b"/no-proc",
    b'"/tmp"': f'"{_TOP / "tmp"}"'.encode(),
    b"/usr/sbin/sysctl": os.fsencode(_HERE / "bin" / "sysctl"),
}
# What Python has on Linux alone: mypy knows it, but not in code that a test has as a string.
_ABSENT: dict[ModuleType, tuple[str, ...]] = {
    os: (
        *("waitid", "sched_getaffinity", "sched_setaffinity", "pidfd_open", "memfd_create"),
        *("eventfd", "pipe2", "posix_fadvise", "posix_fallocate", "fdatasync", "splice"),
        *("copy_file_range", "getresuid", "setresuid"),
    ),
    resource: ("prlimit",),
    select: ("epoll",),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
    socket: ("SO_PEERCRED",),
    time: ("CLOCK_BOOTTIME",),
}
_SOCKET_PATH_BYTES = 103
_GETPATH = 50
_COREML = "CoreMLExecutionProvider"
_CPU = "CPUExecutionProvider"
_O_PATH = getattr(os, "O_PATH", 0)


def enter() -> None:
    """Turn this process into one, once."""
    if hasattr(sys, "pretended_platform"):
        return
    sys.meta_path.insert(0, _Finder())
    for module, names in _ABSENT.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    changes: tuple[tuple[Any, str, object], ...] = (
        (sys, "pretended_platform", "darwin"),
        (platform, "pretended_system", lambda: "Darwin"),
        (platform, "pretended_machine", lambda: "arm64"),
        (os, "O_EVTONLY", _O_PATH),
        (os, "O_SYMLINK", os.O_NOFOLLOW),
        (os, "defpath", f"{_HERE / 'bin'}:{os.defpath}"),
        (fcntl, "F_GETPATH", _GETPATH),
        (fcntl, "fcntl", _with_getpath(fcntl.fcntl)),
        (resource, "getrusage", _in_bytes(resource.getrusage)),
        (resource, "setrlimit", _without_address_space(resource.setrlimit)),
        (socket.socket, "bind", _short(socket.socket.bind)),
        (socket.socket, "connect", _short(socket.socket.connect)),
        (socket.socket, "shutdown", _connected(socket.socket.shutdown)),
    )
    for owner, name, value in changes:
        setattr(owner, name, value)
    sys.addaudithook(_refuse_names)


class _Finder(MetaPathFinder):
    """Finds our own modules, and has them read as on a Mac."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        if name == "onnxruntime":
            spec.loader = _Onnxruntime(name, spec.loader.path)
        elif spec.loader.path.startswith(_OURS):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads a module's source with what it would find on a Mac in it."""

    _lock = threading.Lock()

    def get_code(self, fullname: str) -> CodeType | None:
        # Apart from what is compiled of the source as it is.
        with self._lock:
            before, sys.pycache_prefix = sys.pycache_prefix, str(_TOP / "compiled")
            try:
                return super().get_code(fullname)
            finally:
                sys.pycache_prefix = before

    def source_to_code(self, data: Any, path: Any, *, _optimization: int = -1) -> CodeType:  # type: ignore[override]  # typeshed's has other names
        if not str(path).startswith(f"{_HERE}/"):
            for here, there in _IN_SOURCE.items():
                data = data.replace(here, there)
        return super().source_to_code(data, path)


class _Onnxruntime(importlib.machinery.SourceFileLoader):
    """Has CoreML in what it loads."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _pretend_coreml(module)


def _pretend_coreml(onnxruntime: Any) -> None:
    """Let the CPU compute for CoreML, from memory what it was asked before, so that it is fastest.

    It takes a graph whole, and keeps a model in the folder that is named to it.
    """
    sys.path.append(str(_HERE.parent / "faulty"))
    from faulty_providers import (  # type: ignore[import-not-found]  # its folder has just joined
        CompilerOptions,
        FaultySession,
    )

    class Options(CompilerOptions):  # type: ignore[misc]  # as above
        folder = "ModelCacheDirectory"

    class Session(FaultySession):  # type: ignore[misc]  # as above
        def get_providers(self) -> list[str]:
            return [_COREML, _CPU]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            pieces = self._session.get_provider_graph_assignment_info()
            nodes = [node for piece in pieces for node in piece.get_nodes()]
            return [SimpleNamespace(ep_name=_COREML, get_nodes=lambda: nodes)]

    real = onnxruntime.InferenceSession

    def load(graph: Any, options: Any = None, *, providers: Any = (), **more: Any) -> Any:
        match providers:
            case [(str(name), asked), *_] if name == _COREML:
                Options() | asked
                session = real(graph, options, providers=[_CPU], **more)
                return Session(session, lambda features, _: features, remembers=True)
        return real(graph, options, providers=providers, **more)

    onnxruntime.InferenceSession = load
    onnxruntime.get_available_providers = lambda: [_COREML, _CPU]


def _with_getpath(real: Any) -> Any:
    def as_on_a_mac(descriptor: Any, command: int, argument: Any = 0) -> Any:
        if command != _GETPATH:
            return real(descriptor, command, argument)
        path = os.fsencode(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - in bytes
        return path.ljust(len(argument), b"\0")

    return as_on_a_mac


def _in_bytes(real: Any) -> Any:
    def as_on_a_mac(who: int) -> Any:
        fields = list(real(who))
        fields[2] *= 1024  # ru_maxrss: KiB on Linux
        return resource.struct_rusage(fields)

    return as_on_a_mac


def _without_address_space(real: Any) -> Any:
    def as_on_a_mac(limit: int, values: Any) -> Any:
        # The kernel takes none below what is mapped, which is more than any test would set.
        if limit == resource.RLIMIT_AS and values[0] != resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        return real(limit, values)

    return as_on_a_mac


def _short(real: Any) -> Any:
    def as_on_a_mac(self: socket.socket, address: Any) -> Any:
        if isinstance(address, str) and len(os.fsencode(address)) > _SOCKET_PATH_BYTES:
            raise OSError("AF_UNIX path too long")
        return real(self, address)

    return as_on_a_mac


def _connected(real: Any) -> Any:
    def as_on_a_mac(self: socket.socket, how: int) -> Any:
        if self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.ENOTCONN, "Socket is not connected")
        return real(self, how)

    return as_on_a_mac


def _refuse_names(event: str, arguments: tuple[Any, ...]) -> None:
    """As APFS, make no file whose name is not UTF-8."""
    match event, arguments:
        case "open", (path, _, int(flags)) if flags & os.O_CREAT:
            made = path
        case "os.mkdir", (path, *_):
            made = path
        case (("os.rename" | "os.link" | "os.symlink"), (_, path, *_)):
            made = path
        case _:
            return
    if isinstance(made, str | bytes | os.PathLike):
        try:
            os.fsencode(made).decode("utf-8")
        except UnicodeDecodeError:
            raise OSError(errno.EILSEQ, "Illegal byte sequence", made) from None
