"""Carries a collection over to the vectors of another model, and switches to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from warmclip.errors import PruneRefused, SourceChanged
from warmclip.indexing.pruning import MOST_LOST
from warmclip.indexing.report import IndexReport
from warmclip.store.protocol import Point, Space, VectorStore

_MOST_PASSES = 5  # over what was indexed with the former model meanwhile

Contents = Mapping[str, str]
"""Path -> digest of the content that is stored for it."""


class Migration:
    """One run. The former vectors, called the source, answer searches until the switch.

    Of the new collection nothing is taken for granted: an earlier migration may have left it, or
    one that was killed. What it has of other pictures or other contents than the source is deleted
    before the switch, so that no deleted picture comes back.
    """

    def __init__(
        self,
        store: VectorStore,
        name: str,
        space: Space,
        sync: Callable[[str, Sequence[str]], IndexReport],
    ) -> None:
        """Nothing is done yet.

        Args:
            store: where the collection is.
            name: of the collection.
            space: of the new vectors.
            sync: brings files into a collection by its own name.
        """
        self._store = store
        self._name = name
        self._space = space
        self._sync = sync

    def run(self, *, yes: bool, drop: bool) -> IndexReport:
        """See ``Indexer.migrate``."""
        source = self._store.list_generations(self._name)[0]
        target = self._store.create_collection(self._name, self._space)
        if target == source.collection:
            return self._sync(target, sorted(self._read_contents(target)))
        former, contents, report = self._carry_over(target, yes=yes)
        if former is not None:
            # A server is not asked and switched at once: what was written in between is carried
            # over now.
            report = self._follow(former, target, contents, report)
            if drop:
                self._store.delete_collection(former)
        return report

    def _carry_over(self, target: str, *, yes: bool) -> tuple[str | None, Contents, IndexReport]:
        """Fill the target until it equals the source, then switch.

        Returns:
            The former collection, what it held at the switch, and what was done.
        """
        report = IndexReport(collection=self._name)
        for attempt in range(_MOST_PASSES):
            revision = self._store.revision(self._name)
            contents = self._read_contents(self._name)
            carried = self._clean(target, contents)
            if attempt == 0:
                report = replace(report, unchanged=len(carried))
            todo = sorted(contents.keys() - carried)
            report = _add(report, self._sync(target, todo), todo)
            if not yes:
                self._check_loss(report, len(contents))
            try:
                former = self._store.switch_alias(self._name, self._space, if_revision=revision)
            except SourceChanged:
                if attempt == _MOST_PASSES - 1:
                    raise
            else:
                break
        return former, contents, report

    def _follow(
        self, former: str, target: str, contents: Contents, report: IndexReport
    ) -> IndexReport:
        """Carry over what has changed in the former collection since its contents were read."""
        now = self._read_contents(former)
        todo = sorted(path for path, digest in now.items() if contents.get(path) != digest)
        if todo:
            report = _add(report, self._sync(target, todo), todo)
        if removed := contents.keys() - now.keys():
            points = [it for it in self._store.scroll(target) if it.payload.path in removed]
            self._store.delete_unchanged(target, points)
        return report

    def _clean(self, target: str, contents: Contents) -> set[str]:
        """Delete from the target what the source has not; return the paths that it has as well."""
        carried = set()
        others: list[Point] = []
        for point in self._store.scroll(target):
            payload = point.payload
            if contents.get(payload.path) != payload.sha256:
                others.append(point)
            elif payload.fingerprint == self._space.fingerprint and not payload.canary:
                carried.add(payload.path)
        self._store.delete_unchanged(target, others)
        return carried

    def _read_contents(self, collection: str) -> Contents:
        return {it.payload.path: it.payload.sha256 for it in self._store.scroll(collection)}

    def _check_loss(self, report: IndexReport, total: int) -> None:
        lost = report.not_stored
        if len(lost) > MOST_LOST * total:
            path, reason = next(iter(lost.items()))
            raise PruneRefused(
                f"{len(lost)} of {total} pictures of {self._name!r} cannot be read, such as "
                f"{path!r} ({reason}); is a disk not mounted? The collection is as before. To "
                "leave them behind, repeat with --yes"
            )


def _add(report: IndexReport, more: IndexReport, paths: Sequence[str]) -> IndexReport:
    """Add a pass over some paths, whose earlier outcome no longer counts."""
    again = set(paths)
    return (
        replace(
            report,
            skipped={path: why for path, why in report.skipped.items() if path not in again},
            unreadable={path: why for path, why in report.unreadable.items() if path not in again},
        )
        + more
    )
