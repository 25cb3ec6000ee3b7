"""An audit's findings made good: what is to be indexed is, then orphans are forgotten.

A run that was killed is completed by the next audit and repair: an orphan goes only after the
file that it was moved to is stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from warmclip.indexing.audit import AuditReport
from warmclip.indexing.files import Scope, canonical_roots
from warmclip.indexing.pruning import check_loss, is_orphan, prunable
from warmclip.indexing.report import IndexReport
from warmclip.indexing.store import VectorStore
from warmclip.settings import Root


def repair(
    store: VectorStore,
    report: AuditReport,
    index_files: Callable[[Sequence[str]], IndexReport],
    *,
    roots: Sequence[Root] = (),
    yes: bool = False,
) -> AuditReport:
    """Index the files that an audit named, forget its orphans, and nothing else.

    Args:
        store: where the collection is.
        report: from ``compare`` or ``find_suspects``.
        index_files: brings files into the collection, here or by workers.
        roots: as for the audit.
        yes: forget even more than a fifth of the collection.

    Raises:
        PruneRefused: before anything was written: what is gone looks like an unmounted disk.
        StoreError: the store failed; what was written stays.
    """
    if report.orphans:
        _check_orphans(report, yes=yes)
    files = report.files_to_index
    done = index_files(files) if files else IndexReport(collection=report.collection)
    doomed = [it.id for it in report.orphans]
    # A file that could not be stored leaves the point of its former place, which has its vector.
    doomed += [it.before.id for it in report.moved if it.path not in done.skipped]
    pruned = _forget(store, report.collection, doomed, canonical_roots(roots))
    return replace(report, repaired=replace(done, pruned=pruned))


def _check_orphans(report: AuditReport, *, yes: bool) -> None:
    """Refuse what looks like an unmounted disk.

    What was moved, or is stored elsewhere as well, is no loss.
    """
    for path in report.paths:
        scope = Scope([path])
        if any(it.path in scope for it in report.orphans):
            prunable(path)
    lost = [it.path for it in report.orphans if not it.elsewhere]
    if not yes:
        check_loss(report.collection, lost, report.points)


def _forget(store: VectorStore, collection: str, ids: Sequence[str], roots: Sequence[Root]) -> int:
    """Delete those of the points that still are orphans."""
    doomed = [point.id for point in store.scroll(collection, ids=ids) if is_orphan(point, roots)]
    if doomed:
        store.delete(collection, doomed)
    return len(doomed)
