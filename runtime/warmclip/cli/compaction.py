"""What commands show while a collection is compacted, by request or at the end of an index."""

from typing import TYPE_CHECKING

from warmclip.cli.console import Terminal
from warmclip.errors import StoreError

if TYPE_CHECKING:
    from warmclip.store.protocol import Optimized, VectorStore


def compact(
    terminal: Terminal, store: "VectorStore", name: str, *, with_graph: bool = False
) -> "Optimized | None":
    """Optimize a collection; see ``VectorStore.optimize_collection``."""
    with terminal.progress("pictures") as progress:
        return store.optimize_collection(name, with_graph=with_graph, progress=progress)


def compact_if_it_pays(terminal: Terminal, store: "VectorStore", name: str) -> None:
    """Compact a collection that was indexed, if so much is new; whatever fails is only a note.

    The pictures are stored, and found, before and after.
    """
    try:
        if not store.wants_compaction(name):
            return
        _remark(terminal, "compacting the collection, so that it opens faster; Ctrl+C leaves it")
        done = compact(terminal, store, name)
        if done is not None:
            _remark(terminal, f"compacted in {done.seconds:.1f} s")
    except StoreError as exc:
        terminal.note(
            f"{exc}. All pictures are stored; `warmclip collections optimize {name}` compacts them"
        )
    except KeyboardInterrupt:
        terminal.note(f"stopped; all is stored. `warmclip collections optimize {name}` compacts it")


def describe_optimized(done: "Optimized") -> str:
    """What was done, as people read it."""
    size = f"{done.size_bytes / 1e6:,.1f} MB on disk"
    if done.size_bytes != done.former_size_bytes:
        size += f", {done.former_size_bytes / 1e6:,.1f} MB before"
    parts = f"{done.segments} segment{'' if done.segments == 1 else 's'}"
    figures = f"{done.points} pictures in {parts}, in {done.seconds:.1f} s; {size}"
    if not done.done:
        return f"there was nothing to do: {figures}"
    if done.has_graph:
        return (
            f"a graph was built: {figures}. Searches are fast and may miss pictures; without "
            "--approximate the same command makes them exact again"
        )
    was = ", its graph is gone" if done.had_graph else ""
    return f"compacted{was}: {figures}. Searches are exact"


def _remark(terminal: Terminal, text: str) -> None:
    if not terminal.as_json:
        terminal.note(text)
