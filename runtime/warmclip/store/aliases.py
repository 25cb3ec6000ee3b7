"""Which collection of Qdrant stands behind a name.

A name as users say it is an alias; the vectors of one space lie in ``<name>__<fingerprint>``
behind it.
"""

from collections.abc import Callable

from qdrant_client import QdrantClient, models

from warmclip.errors import NotStored, SpaceMismatch, StoreError
from warmclip.store.calls import Calls
from warmclip.store.protocol import Space


def collection_of(name: str, fingerprint: str) -> str:
    """The collection that holds one space of a name; a collection's own name is kept."""
    return name if "__" in name else f"{name}__{fingerprint}"


class Aliases:
    """The names of a store: each leads to one collection, and can be switched to another."""

    def __init__(
        self, client: QdrantClient, transport: Calls, on_created: Callable[[str], None]
    ) -> None:
        """Read and switch names.

        Args:
            client: of the store.
            transport: how it is called.
            on_created: told of a collection that was made, before anything is written into it.
        """
        self._client = client
        self._transport = transport
        self._on_created = on_created

    def ensure(self, name: str, space: Space) -> None:
        """See ``VectorStore.ensure``."""
        if self.target(name) is None:
            self.stage(name, space)
            self.switch(name, space)
        # Asked again also after making it: another process may have been first.
        self.require_space(name, space)

    def stage(self, name: str, space: Space) -> str:
        """See ``VectorStore.stage``."""
        collection = collection_of(name, space.fingerprint)
        if not self._exists(collection):
            if self._exists(name):
                raise StoreError(
                    f"the store has a collection {name!r} that warmclip did not make; "
                    "choose another name with WARMCLIP_COLLECTION"
                )
            self._create(collection, space.dim)
        return collection

    def switch(self, name: str, space: Space) -> str | None:
        """See ``VectorStore.switch``."""
        collection = collection_of(name, space.fingerprint)
        former = self.target(name)
        if former == collection:
            return None
        steps: list[models.AliasOperations] = []
        if former is not None:
            steps.append(
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
            )
        steps.append(
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=collection, alias_name=name)
            )
        )
        self._transport(lambda: self._client.update_collection_aliases(steps))
        return former

    def drop(self, collection: str) -> None:
        """See ``VectorStore.drop``."""
        if "__" not in collection or self.target(collection.partition("__")[0]) == collection:
            raise StoreError(f"{collection!r} is in use; only a former collection is dropped")
        self._transport(lambda: self._client.delete_collection(collection))

    def target(self, name: str) -> str | None:
        """The collection that a name leads to; a collection's own name is kept."""
        if "__" in name:
            return name
        aliases = self._transport(self._client.get_aliases).aliases
        return next((it.collection_name for it in aliases if it.alias_name == name), None)

    def beside(self, name: str) -> list[str]:
        """The collections of a name's other spaces, sorted."""
        in_use = self.target(name)
        listed = self._transport(self._client.get_collections).collections
        return sorted(
            it.name for it in listed if it.name.startswith(f"{name}__") and it.name != in_use
        )

    def require(self, name: str) -> str:
        """The collection that a name leads to.

        Raises:
            NotStored: to none.
        """
        target = self.target(name)
        if target is None:
            raise NotStored(f"there is no collection {name!r} yet; run `warmclip index` first")
        return target

    def require_space(self, name: str, space: Space) -> str:
        """The collection that a name leads to, if it holds this space.

        Raises:
            NotStored: the name leads to none.
            SpaceMismatch: it holds another space.
        """
        target = self.require(name)
        if target != collection_of(name, space.fingerprint):
            theirs = target.removeprefix(f"{name}__")
            raise SpaceMismatch(
                f"collection {name!r} holds vectors of the model {theirs[:12]}, this model is "
                f"{space.fingerprint[:12]}; run `warmclip migrate {name}` to embed its pictures "
                "with this one, or choose another name with WARMCLIP_COLLECTION"
            )
        return target

    def _exists(self, collection: str) -> bool:
        listed = self._transport(self._client.get_collections).collections
        return any(it.name == collection for it in listed)

    def _create(self, collection: str, dim: int) -> None:
        params = models.VectorParams(size=dim, distance=models.Distance.COSINE)
        try:
            self._transport(lambda: self._client.create_collection(collection, params))
        except StoreError:
            # Another process made it meanwhile, or an earlier attempt did whose answer was lost.
            if not self._exists(collection):
                raise
        self._on_created(collection)
