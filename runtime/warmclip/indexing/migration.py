"""Carries a collection over to the vectors of another model, and switches to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from warmclip.errors import NotStored, PruneRefused, SettingsError, SourceChanged
from warmclip.indexing.pruning import MOST_LOST
from warmclip.indexing.report import IndexReport
from warmclip.store.protocol import Point, Space, VectorStore, fingerprint_in

_MOST_PASSES = 5  # over what was indexed with the former model meanwhile

Contents = Mapping[str, str]
"""Path -> digest of the content that is stored for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchBack:
    """A name that leads to its former vectors again."""

    collection: str
    former: str  # the fingerprint of the space that the name led to until now
    now: str  # of the one that it leads to again
    behind: int  # pictures that were indexed or changed since, and have no vectors there
    deleted: int  # pictures that were deleted since, and went from there as well

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON can carry it."""
        return asdict(self)


def switch_back(
    store: VectorStore, name: str, fingerprint: str | None = None, *, yes: bool = False
) -> SwitchBack:
    """Let a name lead to its former vectors again: nothing is embedded.

    Args:
        store: where the collection is.
        name: of the collection.
        fingerprint: of the former space; None: the only one that is kept beside the one in use.
        yes: even if more than a fifth of the pictures have no vectors there.

    Raises:
        NotStored: there is no such collection, or no vectors are kept to go back to.
        SettingsError: vectors of several models are kept.
        PruneRefused: too many pictures have no vectors there; nothing was switched.
    """
    in_use, *others = store.list_generations(name)
    kept = [it for it in others if fingerprint in (None, it.fingerprint)]
    if not kept:
        raise NotStored(
            f"{name!r} has no vectors of another model to switch back to; `warmclip migrate "
            f"{name} --bundle ...` embeds its pictures with one"
        )
    if len(kept) > 1:
        raise SettingsError(
            f"{name!r} keeps vectors of several models beside those in use: "
            f"{', '.join(it.fingerprint[:12] for it in kept)}; name the bundle of the one to "
            "switch back to with --bundle"
        )
    target = kept[0]
    contents = _contents(store, name)
    gone, as_now = [], set()
    for point in store.scroll(target.collection):
        if point.payload.path not in contents:
            gone.append(point)
        elif point.payload.sha256 == contents[point.payload.path]:
            as_now.add(point.payload.path)
    behind = len(contents) - len(as_now)
    if not yes and behind > MOST_LOST * len(contents):
        raise PruneRefused(
            f"{behind} of {len(contents)} pictures of {name!r} have no vectors of the model "
            f"{target.fingerprint[:12]}, so that searches would not find them; `warmclip migrate` "
            "with its bundle embeds them and then switches. To switch all the same, repeat with "
            "--yes"
        )
    store.delete_unchanged(target.collection, gone)
    store.switch_alias(name, target.fingerprint)
    return SwitchBack(
        collection=name,
        former=in_use.fingerprint,
        now=target.fingerprint,
        behind=behind,
        deleted=len(gone),
    )


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

    def fill(self) -> IndexReport:
        """Embed what the source has and the target has not; the name leads where it did."""
        target = self._store.create_collection(self._name, self._space)
        contents = _contents(self._store, self._name)
        carried = self._clean(target, contents)
        report = self._sync(target, sorted(contents.keys() - carried))
        return replace(report, unchanged=report.unchanged + len(carried))

    def run(
        self, *, yes: bool, drop: bool, on_switch: Callable[[str], object] = lambda _: None
    ) -> IndexReport:
        """See ``Indexer.migrate``."""
        source = self._store.list_generations(self._name)[0]
        target = self._store.create_collection(self._name, self._space)
        if target == source.collection:
            return self._sync(target, sorted(_contents(self._store, target)))
        former, contents, report = self._carry_over(target, yes=yes)
        if former is not None:
            # A server is not asked and switched at once, and jobs may still write to the former
            # collection: what was written in between is carried over now.
            on_switch(fingerprint_in(former))
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
            contents = _contents(self._store, self._name)
            carried = self._clean(target, contents)
            if attempt == 0:
                report = replace(report, unchanged=len(carried))
            todo = sorted(contents.keys() - carried)
            report = _add(report, self._sync(target, todo), todo)
            if not yes:
                self._check_loss(report, len(contents))
            try:
                former = self._store.switch_alias(
                    self._name, self._space.fingerprint, if_revision=revision
                )
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
        now = _contents(self._store, former)
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

    def _check_loss(self, report: IndexReport, total: int) -> None:
        lost = report.not_stored
        if len(lost) > MOST_LOST * total:
            path, reason = next(iter(lost.items()))
            raise PruneRefused(
                f"{len(lost)} of {total} pictures of {self._name!r} cannot be read, such as "
                f"{path!r} ({reason}); is a disk not mounted? The collection is as before. To "
                "leave them behind, repeat with --yes"
            )


def _contents(store: VectorStore, collection: str) -> Contents:
    return {it.payload.path: it.payload.sha256 for it in store.scroll(collection)}


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
