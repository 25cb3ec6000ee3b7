"""Repairs what an audit found: files are indexed, then orphans are deleted.

A run that was killed is completed by the next audit and repair: an orphan is deleted only after the
file that it was moved to is stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from warmclip.indexing.audit_report import AuditReport
from warmclip.indexing.exclusion import ExcludedPaths, Exclusion
from warmclip.indexing.mounts import MountPoints
from warmclip.indexing.pruning import check_folder, check_loss, check_mounted, delete_orphans
from warmclip.indexing.report import IndexReport
from warmclip.indexing.roots import Roots, Scope
from warmclip.settings import Root
from warmclip.store.protocol import VectorStore

_KEPT = (
    "is not stored under the id that it has here, so the point of its former place is kept; "
    "do workers have the same WARMCLIP_ROOTS and QDRANT_URL?"
)


def repair_collection(
    store: VectorStore,
    report: AuditReport,
    index_files: Callable[[Sequence[str]], IndexReport],
    *,
    roots: Sequence[Root] = (),
    home: Path | None = None,
    yes: bool = False,
) -> AuditReport:
    """Index the files that an audit named, delete its orphans, and nothing else.

    Args:
        store: where the collection is.
        report: from ``audit_folders``, or one that has unverified pictures only.
        index_files: brings files into the collection, here or by workers.
        roots: as for the audit.
        home: where mounted disks are remembered; None: nowhere.
        yes: delete even more than a fifth of the collection.

    Raises:
        PruneRefused: before anything was written: what is gone looks like an unmounted disk.
        StoreError: the store failed; what was written stays.
    """
    if report.orphans:
        _check_orphans(report, None if home is None else MountPoints(home), yes=yes)
    files = report.files_to_index
    done = index_files(files) if files else IndexReport(collection=report.collection)
    paths = {it.id: it.path for it in report.orphans}
    paths |= {it.before.id: it.path for it in report.moved}
    allowed = Roots(roots)
    orphans = delete_orphans(
        store,
        report.collection,
        paths,
        allowed,
        excluded=ExcludedPaths(Exclusion(report.exclude, allowed), report.paths),
        moved_to={it.before.id: it.path for it in report.moved},
    )
    kept = {paths[id_]: _KEPT for id_ in orphans.kept}
    return replace(
        report,
        repaired=replace(done, pruned=orphans.deleted, skipped=kept | done.skipped),
    )


def _check_orphans(report: AuditReport, mounts: MountPoints | None, *, yes: bool) -> None:
    """Refuse what looks like an unmounted disk.

    What was moved, or is stored elsewhere as well, is no loss.
    """
    for path in report.paths:
        scope = Scope([path])
        if any(it.path in scope for it in report.orphans):
            check_folder(path, report.collection)
    lost = [it.path for it in report.orphans if not it.elsewhere]
    if not yes:
        check_mounted(mounts, report.collection, lost)
        check_loss(report.collection, lost, report.points)
