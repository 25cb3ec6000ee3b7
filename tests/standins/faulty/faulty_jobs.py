"""Functions of a user's own, for tests: they sleep, hang, or take their process with them."""

import ctypes
import os
import time


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
