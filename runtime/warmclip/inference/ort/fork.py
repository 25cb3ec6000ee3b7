"""A model in a forked child: using it is refused at once, and it is never destroyed there."""

import ctypes
import os
import weakref
from typing import Any, Protocol

from warmclip.errors import ForkedSessionError


class SessionOwner(Protocol):
    """Something that holds native sessions."""

    def inner_sessions(self) -> list[Any]:
        """Those that are loaded."""
        ...


_owners: "weakref.WeakSet[SessionOwner]" = weakref.WeakSet()


def refuse_fork(owner: int, what: str) -> None:
    """Raise in a forked child of the owner, before any lock that was held at the fork.

    Raises:
        ForkedSessionError: this process is not the owner.
    """
    if os.getpid() != owner:
        raise ForkedSessionError(
            f"this {what} was made in process {owner} and is used in its forked child "
            f"{os.getpid()}, where it may hang or abort: run jobs in `warmclip worker`, which "
            "never forks a model, or start the process with spawn"
        )


def watch_forks() -> None:
    """Protect the children of this process from what they inherit. Once a process."""
    os.register_at_fork(after_in_child=_keep_inherited)


def never_destroy_in_children(owner: SessionOwner) -> None:
    """Let a forked child keep the owner's sessions for ever.

    Destroying one waits for its threads, which exist in the parent only.
    """
    _owners.add(owner)


def _keep_inherited() -> None:
    for owner in _owners:
        for session in owner.inner_sessions():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
