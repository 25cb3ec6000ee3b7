"""pytest again and again, in forks of one process that has imported the libraries already.

`make mutants` runs the same tests for each mutant. Three quarters of such a run are the start of
Python and the imports of what does not change. The modules of the checkout itself are imported
anew in every fork.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

_FORK = multiprocessing.get_context("fork")


def serve(address: str, arguments: list[str]) -> None:
    """Run the tests once for every client that connects; the first run fills the bytecode cache."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Listener(address) as listener:
        receiver, sender = _FORK.Pipe(duplex=False)
        first = _FORK.Process(target=_first_run, args=(arguments, sender))
        first.start()
        sender.close()  # so that a first run that dies is noticed
        try:
            modules = receiver.recv()
            first.join()
        finally:
            _end(first)
        for name in modules:
            with suppress(ImportError):  # a module that only another one may import
                importlib.import_module(name)
        while True:
            with listener.accept() as connection, tempfile.TemporaryFile() as output:
                run = _FORK.Process(target=_run, args=(arguments, output.fileno()))
                run.start()
                try:
                    wait([run.sentinel, connection])  # a client that is gone was timed out
                finally:
                    _end(run)
                output.seek(0)
                with suppress(BrokenPipeError):
                    connection.send((run.exitcode, output.read()))


def _end(run: ForkProcess) -> None:
    assert run.pid is not None  # it was started
    with suppress(ProcessLookupError, PermissionError):  # the latter for zombies, on macOS
        os.killpg(run.pid, signal.SIGKILL)
    run.kill()  # if it has no group of its own yet
    run.join()


def request(address: str) -> int:
    """Ask the server for one run, print what pytest wrote, and return its exit code."""
    with Client(address) as connection:
        code, output = connection.recv()
    sys.stdout.buffer.write(output)
    return int(code)


def _run(arguments: list[str], output: int) -> None:
    _begin()
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.dont_write_bytecode = True  # a mutant's must not be found by the next one
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(_pytest(arguments))


def _begin() -> None:
    """Have a group of its own, which can be ended, and end as any process does."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _first_run(arguments: list[str], sender: "Connection[list[str], None]") -> None:
    _begin()
    sys.dont_write_bytecode = False
    _pytest(arguments)
    sender.send([name for name, module in sys.modules.items() if _is_of_a_library(module)])


def _pytest(arguments: list[str]) -> int:
    import pytest

    return int(pytest.main([*arguments, "-W", "ignore::pytest.PytestAssertRewriteWarning"]))


def _is_of_a_library(module: object) -> bool:
    spec = getattr(module, "__spec__", None)
    return (
        spec is not None
        and spec.origin is not None
        and not Path(spec.origin).is_relative_to(Path.cwd())
        and type(spec.loader).__name__ != "AssertionRewritingHook"
    )


if __name__ == "__main__":
    command, address, *rest = sys.argv[1:]
    commands: dict[str, Callable[[], int | None]] = {
        "serve": lambda: serve(address, rest),
        "request": lambda: request(address),
    }
    with suppress(KeyboardInterrupt):  # who serves is stopped so
        sys.exit(commands[command]())
