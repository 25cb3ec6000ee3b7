"""Which collection stands behind a name, and how a name comes to another one.

A name as users say it is an alias of Qdrant's; the vectors of one space lie in
``<name>__<fingerprint>`` behind it.
"""

import difflib
from collections.abc import Sequence

from warmclip.errors import NotStored, SpaceMismatch, StoreError
from warmclip.store.backfill import complete_folders
from warmclip.store.engine import Engine
from warmclip.store.protocol import Space, collection_of, fingerprint_in


class Aliases:
    """The names of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def names(self) -> tuple[str, ...]:
        """See ``VectorStore.list_names``: aliases of collections that are none of ours are left."""
        pairs = self._engine.read_aliases().items()
        return tuple(sorted(name for name, it in pairs if it.startswith(f"{name}__")))

    def target(self, name: str) -> str | None:
        """The collection that a name leads to; the own name of a collection is kept."""
        return name if "__" in name else self._engine.read_aliases().get(name)

    def require(self, name: str) -> str:
        """The collection that a name leads to.

        Raises:
            NotStored: it leads to none.
        """
        target = self.target(name)
        if target is None:
            raise NotStored(self._why_missing(name))
        return target

    def require_space(self, name: str, space: Space) -> str:
        """The collection that a name leads to, if it holds this space.

        Raises:
            NotStored: the name leads to none.
            SpaceMismatch: it holds another space.
        """
        target = self.require(name)
        if target != collection_of(name, space.fingerprint):
            raise SpaceMismatch(self._why_mismatched(name, target, space))
        return target

    def fingerprint(self, name: str) -> str:
        """See ``VectorStore.fingerprint_of``."""
        return fingerprint_in(self.require(name))

    def _why_mismatched(self, name: str, target: str, space: Space) -> str:
        theirs = fingerprint_in(target)
        told = (
            f"collection {name!r} holds vectors of the model {theirs[:12]}, this model is "
            f"{space.fingerprint[:12]}; "
        )
        if collection_of(name, space.fingerprint) in self.others(name):
            # The former model, or one that is not switched to yet: whoever asks with it is to
            # come along, not to take the name back.
            return told + (
                "its own vectors are kept, and not in use: name the bundle of the model in use "
                "with --bundle or WARMCLIP_BUNDLE (`warmclip models` lists bundles)"
            )
        return told + (
            "name the bundle of that one with --bundle or WARMCLIP_BUNDLE, or choose another name "
            f"with WARMCLIP_COLLECTION; `warmclip migrate {name}` gives the collection this model "
            "for good"
        )

    def _why_missing(self, name: str) -> str:
        kept = self.others(name)
        if kept:
            return (
                f"the name {name!r} leads to no collection, though the store has "
                f"{', '.join(kept)}, as after a snapshot was restored: run `warmclip index` with "
                "its model, after which the name leads there again"
            )
        # By likeness only: whoever asks need not learn what else the store has.
        near = difflib.get_close_matches(name, self.names(), 1)
        if near:
            return (
                f"there is no collection {name!r}; did you mean {near[0]!r}? If not, run "
                "`warmclip index` first"
            )
        return (
            f"there is no collection {name!r} yet; run `warmclip index` first"
            f"{self._engine.when_missing}"
        )

    def ensure(self, name: str, space: Space) -> None:
        """See ``VectorStore.ensure_collection``."""
        target = self.target(name)
        existing = self._engine.list_collections()
        if target not in existing:  # an alias of a collection that is gone is led to this one
            target = None
        if target is None or target == collection_of(name, space.fingerprint):
            collection = self._create(name, space, existing)
            if target is None:
                self._engine.set_alias(name, collection, former=self.target(name))
        # Asked again also after making it: another process may have been first.
        self.require_space(name, space)

    def create(self, name: str, space: Space) -> str:
        """See ``VectorStore.create_collection``."""
        return self._create(name, space, self._engine.list_collections())

    def _create(self, name: str, space: Space, existing: Sequence[str]) -> str:
        collection = collection_of(name, space.fingerprint)
        if name in existing and name != collection:
            raise StoreError(
                f"the store has a collection {name!r} that warmclip did not make; "
                "choose another name with WARMCLIP_COLLECTION"
            )
        if collection not in existing:
            self._engine.create_collection(collection, space.dim)
        self._engine.prepare_collection(collection, space.dim)
        complete_folders(self._engine, collection)
        return collection

    def switch(self, name: str, fingerprint: str) -> str | None:
        """See ``VectorStore.switch_alias``."""
        collection = collection_of(name, fingerprint)
        former = self.target(name)
        if former == collection:
            return None
        if collection not in self._engine.list_collections():
            raise NotStored(f"there is no collection {collection!r} that {name!r} could lead to")
        self._engine.set_alias(name, collection, former=former)
        return former

    def delete(self, name: str, *, dry_run: bool) -> tuple[str, ...]:
        """See ``VectorStore.delete_name``."""
        target = self.target(name)
        others = self.others(name)
        if target is None and not others:
            raise NotStored(self._why_missing(name))
        found = (*others, *([] if target is None else [target]))
        if dry_run:
            return found
        for collection in others:
            self._engine.delete_collection(collection)
        if target is not None:
            self._engine.delete_alias(name)
            self._engine.delete_collection(target)
        return found

    def others(self, name: str) -> list[str]:
        """The collections of a name that it does not lead to, sorted."""
        in_use = self.target(name)
        return sorted(
            it
            for it in self._engine.list_collections()
            if it.startswith(f"{name}__") and it != in_use
        )

    def check_unused(self, collection: str) -> None:
        """Refuse a collection that a name leads to.

        Raises:
            StoreError: a name leads to it, or it is a name.
        """
        if "__" not in collection or collection in self._engine.read_aliases().values():
            raise StoreError(
                f"{collection!r} is in use; only a collection that no name leads to is deleted "
                "or cleared"
            )
