"""Compacts the files of one collection, in a process of its own.

``python -m warmclip.store.embedded_compactor REQUEST`` does it: the engine holds the interpreter
lock as long as it works, and nothing else runs meanwhile. The files are a copy that nobody else
has. Its stdin stays open as long as somebody waits, and its answer is a line of JSON on stdout.
"""

import fcntl
import json
import os
import select
import sys
from pathlib import Path

from warmclip.errors import StoreError
from warmclip.fsutil import write_out
from warmclip.store.embedded_layout import make_config, note_files, read_dim
from warmclip.store.embedded_shard import Shard


def compact(path: Path, *, with_graph: bool) -> bool:
    """Compact a collection's files; returns whether there was anything to do.

    Args:
        path: of the files, which no other process has open.
        with_graph: whether to build one, or to leave one out that is there.

    Raises:
        StoreError: it failed, and the files are of no use.
    """
    shard = Shard.load(path, config=make_config(read_dim(path), with_graph=with_graph))
    try:
        shard.renew_indexes()
        done = shard.optimize()
    except StoreError:
        shard.abandon()
        raise
    shard.close()
    note_files(path)
    for file in (path, *path.rglob("*")):  # the engine leaves what it has built to the system
        write_out(file)
    return done


def _leave_with_parent() -> None:
    """Have the system end this process when its stdin ends; macOS ignores the signal."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # it has ended already
        os._exit(1)


def main() -> None:
    """Answer the request that is the first argument."""
    _leave_with_parent()
    request = json.loads(sys.argv[1])
    answer: dict[str, bool | str]
    try:
        answer = {"done": compact(Path(request["path"]), with_graph=request["with_graph"])}
    except (StoreError, OSError) as exc:
        answer = {"error": str(exc)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
