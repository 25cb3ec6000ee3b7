"""Functions of a user's own, for tests: they sleep, hang, or take their process with them."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any


def sleep(seconds: float) -> float:
    """Wait, in Python."""
    time.sleep(seconds)
    return seconds


def die(signum: int) -> None:
    """Be killed by a signal, as by a native library's fault."""
    os.kill(os.getpid(), signum)
    time.sleep(60)


def leave(code: int) -> None:
    """Leave without a word."""
    os._exit(code)


def hang() -> None:
    """Never come back from native code, and let no Python thread run meanwhile."""
    ctypes.PyDLL(None).pause()


def hold(seconds: int) -> int:
    """Stay in native code for some time, as a clustering does, and let no Python thread run."""
    ctypes.PyDLL(None).sleep(seconds)
    return seconds


def grind() -> int:
    """Stay in native code for good, whatever signal comes, and let no Python thread run."""
    return sum(range(10**12))


def echo(value: Any) -> Any:
    """Return what was given."""
    return value


def answer(size: int) -> str:
    """Return so many characters."""
    return "x" * size


def count(trace: str, number: int | str, seconds: float = 0.05) -> int | str:
    """Take some time, and leave a line that says which job has run."""
    time.sleep(seconds)
    with Path(trace).open("a", encoding="utf-8") as stream:
        stream.write(f"{number}\n")
    return number


def count_slowly(trace: str, seconds: int) -> int:
    """Leave a line at the beginning and at the end, and take some time in between."""
    with Path(trace).open("a", encoding="utf-8") as stream:
        stream.write("begin\n")
        stream.flush()
        for _ in range(seconds * 10):
            time.sleep(0.1)
        stream.write("end\n")
    return seconds


def count_and_fail(trace: str, number: int | str) -> None:
    """The same, and fail."""
    raise ValueError(count(trace, number))


def close_descriptors() -> None:
    """Close all that it did not open, as a job does that becomes a daemon."""
    os.closerange(3, 256)


def scribble() -> str:
    """Write into every descriptor but the usual three."""
    for descriptor in range(3, 256):
        try:
            os.write(descriptor, b'half a line, and {"done": "another", "outcome": "success"')
        except OSError:
            continue
    return "scribbled"


def repeat_answers() -> str:
    """From now on, have the horse answer for another job before its own answer, and that twice."""
    from warmclip.work.horse.reporter import Reporter

    send = Reporter.send

    def send_thrice(self: Reporter, **message: Any) -> None:
        if "done" in message:
            send(self, **message | {"done": "another", "text": '"of another"'})
            send(self, **message)
        send(self, **message)

    Reporter.send = send_thrice  # type: ignore[method-assign]  # that is the fault
    return "more than once"


def end_children(how: str) -> list[int]:
    """Start programs or processes, ask each to end, and return their codes."""
    match how:
        case "popen":
            child = subprocess.Popen(["sleep", "50"])
            child.terminate()
            return [child.wait(20)]
        case "shell":
            pipeline = subprocess.Popen(["sh", "-c", "sleep 50 | cat"], process_group=0)
            os.killpg(pipeline.pid, signal.SIGTERM)
            return [pipeline.wait(20)]
        case _:
            context: Any = multiprocessing.get_context(how)
            with context.Pool(2) as pool:  # which is terminated at the end of the block
                pool.map(time.sleep, [0.01] * 4)
            pool.join()
            process = context.Process(target=time.sleep, args=(50,))
            process.start()
            time.sleep(0.5)
            process.terminate()
            process.join(20)
            return [process.exitcode or 0]


def leave_child(command: list[str]) -> None:
    """Start a program, and go on working."""
    subprocess.Popen(command)
    time.sleep(500)


def eat() -> None:
    """Ask for more memory than there may be, piece by piece, as a leak does."""
    eaten = []
    while True:
        eaten.append(bytearray(64 * 1024 * 1024))


def embed(paths: list[str]) -> list[int]:
    """Use the warm model, as a ported training function does."""
    from warmclip.work import encoder

    return list(encoder().encode_images(paths).shape)


def process() -> int:
    """Tell which process runs jobs."""
    return os.getpid()
