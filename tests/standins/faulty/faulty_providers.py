"""Providers for tests of what goes wrong: each computes on the CPU, for real, then misbehaves.

They enter warmclip through its providers table, in child processes that have this folder on
PYTHONPATH. Each can be insisted on (``WARMCLIP_PROVIDER=faulty-nan``).

FAULTY_AUTO=name   the first candidate of ``auto``, before the CPU alone, also where there is
                   CoreML; it answers from memory what it has been asked before, so that it is also
                   the fastest in a trial
FAULTY_N=n         run number n of a session (from 1) is the first that goes wrong, for
                   ``faulty-nth`` and ``faulty-drift``; 20 unless told
FAULTY_SECONDS=s   how long ``faulty-slow`` takes for a run; 0.5 unless told
FAULTY_BEGUN=path  a file that ``faulty-slow`` makes when it begins to take its time
FAULTY_OS=build    the build of the operating system that a process finds

``faulty-compiler`` stands for CoreML: static batches, one run at a time, and a compiled model of
each batch in a folder that its option names. ``faulty-slowcompiler`` then computes slowly.

FAULTY_COMPILE=how       "fails" or "hangs"; else it writes a model
FAULTY_COMPILE_SECONDS=s how long it takes for one; 0 unless told
FAULTY_COMPILE_UNTIL=path a file that it waits for
FAULTY_COMPILED=path     a file with a line for each model: "compiled" or "cached"
"""

import ctypes
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from warmclip.inference.providers import CPU, PROVIDERS, Provider

_MODEL_BYTES = 100_000

_was_forked = False


class FaultySession:
    """onnxruntime's session, and what is done to its answers."""

    def __init__(self, session: Any, spoil: Callable[[Any, int], Any], *, remembers: bool) -> None:
        self._session = session
        self._spoil = spoil
        self._memory: dict[bytes, Any] | None = {} if remembers else None
        self._runs = 0

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Compute, then misbehave."""
        self._runs += 1
        return [self._spoil(self._compute(names, feeds), self._runs)]

    def _compute(self, names: Sequence[str], feeds: Mapping[str, Any]) -> Any:
        if self._memory is None:
            return self._session.run(names, feeds)[0]
        key = b"".join(array.tobytes() for array in feeds.values())
        if key not in self._memory:
            if len(self._memory) == 100:
                self._memory.clear()
            self._memory[key] = self._session.run(names, feeds)[0]
        return self._memory[key].copy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def _note_fork() -> None:
    global _was_forked  # noqa: PLW0603 - what Metal knows of its process is global as well
    _was_forked = True


def _right(features: Any, _: int) -> Any:
    return features


def _abort_if_forked() -> None:
    # As Metal does in a child that was forked and not exec'd.
    if _was_forked:
        os.write(2, b"Unable to reach MTLCompilerService (faulty-fork)\n")
        os.abort()


def _abort_if_forked_run(features: Any, _: int) -> Any:
    _abort_if_forked()
    return features


def _crash() -> None:
    ctypes.string_at(0)


def _abort() -> None:
    os.write(2, b"the compiler is gone (faulty-abort)\n")
    os.abort()


def _fail() -> None:
    raise RuntimeError("Error compiling model (faulty-fail)")


def _hang_load() -> None:
    ctypes.PyDLL(None).pause()


def _first_bad_run() -> int:
    return int(os.environ.get("FAULTY_N", "20"))


def _abort_on_nth(features: Any, run: int) -> Any:
    if run >= _first_bad_run():
        os.write(2, b"aborting on the nth run (faulty-nth)\n")
        os.abort()
    return features


def _fail_on_nth(features: Any, run: int) -> Any:
    if run >= _first_bad_run():
        raise RuntimeError("Error executing model (faulty-fail-nth)")
    return features


def _hang(features: Any, _: int) -> Any:
    ctypes.PyDLL(None).pause()  # holds the GIL: no Python thread runs any more
    return features


def _sleep(features: Any, _: int) -> Any:
    while True:
        time.sleep(3600)
    return features


def _hang_from_nth(features: Any, run: int) -> Any:
    return _hang(features, run) if run >= _first_bad_run() else features


def _sleep_from_nth(features: Any, run: int) -> Any:
    return _sleep(features, run) if run >= _first_bad_run() else features


def _nan(features: Any, _: int) -> Any:
    features[-1] = float("nan")
    return features


def _zeros(features: Any, _: int) -> Any:
    return features * 0


def _wrong(features: Any, _: int) -> Any:
    """Off by 1e-2 of each value, up and down by turns: finite, plausible, of the right length."""
    features[:, ::2] *= 1.01
    features[:, 1::2] *= 0.99
    return features


def _wrong_from_nth(features: Any, run: int) -> Any:
    return _wrong(features, run) if run >= _first_bad_run() else features


def _nan_from_nth(features: Any, run: int) -> Any:
    return _nan(features, run) if run >= _first_bad_run() else features


def _slow(features: Any, _: int) -> Any:
    if begun := os.environ.get("FAULTY_BEGUN"):
        Path(begun).touch()
    time.sleep(float(os.environ.get("FAULTY_SECONDS", "0.5")))
    return features


# name -> (what it does when it is loaded, what it does to the answer of run n)
_FAULTS: dict[str, tuple[Callable[[], None] | None, Callable[[Any, int], Any]]] = {
    "fork": (_abort_if_forked, _abort_if_forked_run),  # dies in a forked process
    "load": (_crash, _right),  # SIGSEGV when loaded
    "abort": (_abort, _right),  # SIGABRT when loaded
    "fail": (_fail, _right),  # raises when loaded
    "loadhang": (_hang_load, _right),  # never gets loaded, and holds the GIL
    "nth": (None, _abort_on_nth),  # SIGABRT on run n
    "failnth": (None, _fail_on_nth),  # raises from run n on
    "hang": (None, _hang),  # never returns, and holds the GIL
    "sleep": (None, _sleep),  # never returns
    "hangnth": (None, _hang_from_nth),
    "sleepnth": (None, _sleep_from_nth),
    "nan": (None, _nan),  # the last row
    "nannth": (None, _nan_from_nth),
    "zeros": (None, _zeros),
    "wrong": (None, _wrong),
    "drift": (None, _wrong_from_nth),  # right in the trial and at first, wrong from run n on
    "slow": (None, _slow),
    "none": (None, _right),  # no fault: the control
    "compiler": (None, _right),
    "slowcompiler": (None, _slow),
}


def faulty(fault: str) -> Provider:
    """The provider of a fault."""
    at_load, spoil = _FAULTS[fault]
    name = f"faulty-{fault}"
    is_in_front = os.environ.get("FAULTY_AUTO") == name

    def around(session: Any) -> Any:
        if at_load is not None:
            at_load()
        # A fault that shows by its slowness must not be the fastest.
        return FaultySession(session, spoil, remembers=is_in_front and spoil is not _slow)

    provider = replace(
        CPU,
        name=name,
        is_reference=False,
        is_steady=False,
        in_auto=is_in_front,
        around=around,
    )
    if not fault.endswith("compiler"):
        return provider
    return replace(
        provider,
        options=CompilerOptions(),
        buckets=(1, 8, 32),
        is_exclusive=True,
        cache_option=CompilerOptions.folder,
    )


class CompilerOptions(dict[str, str]):
    """Options that compile a model when a session's folder joins them: the CPU compiles nothing."""

    folder = "FaultyCacheDirectory"

    def __or__(self, more: dict[str, str]) -> dict[str, str]:  # type: ignore[override]  # that is it
        """Do what CoreML's provider does with a folder: any content is taken for a whole model."""
        if self.folder not in more:
            return {}
        model = Path(more[self.folder]) / "model"
        did = "cached" if model.exists() else "compiled"
        if did == "compiled":
            temporary = tempfile.mkdtemp(prefix="compiling-")  # left there by one that is killed
            try:
                model.write_bytes(bytes(_MODEL_BYTES))
            except OSError as exc:
                raise RuntimeError(f"Error compiling model: {exc} (faulty-compiler)") from exc
            time.sleep(float(os.environ.get("FAULTY_COMPILE_SECONDS", "0")))
            while (until := os.environ.get("FAULTY_COMPILE_UNTIL")) and not Path(until).exists():
                time.sleep(0.05)
            match os.environ.get("FAULTY_COMPILE"):
                case "fails":
                    _fail()
                case "hangs":
                    _hang_load()
            Path(temporary).rmdir()
        if told := os.environ.get("FAULTY_COMPILED"):
            with Path(told).open("a", encoding="utf-8") as stream:
                stream.write(f"{did}\n")
        return {}


def enter() -> None:
    """Add the faulty providers to the table, the one of FAULTY_AUTO before all others."""
    os.register_at_fork(after_in_child=_note_fork)
    if build := os.environ.get("FAULTY_OS"):  # in a rehearsal of macOS, sysctl tells it
        platform.release = lambda: build
    entries = {provider.name: provider for provider in map(faulty, _FAULTS)}
    first = os.environ.get("FAULTY_AUTO")
    if first is not None and first not in entries:
        raise SystemExit(f"FAULTY_AUTO={first!r}: use one of {', '.join(entries)}")
    known = dict(PROVIDERS)
    PROVIDERS.clear()
    if first is not None:
        PROVIDERS[first] = entries.pop(first)
        known = {name: replace(it, in_auto=it.is_reference) for name, it in known.items()}
    PROVIDERS.update(known)
    PROVIDERS.update(entries)
