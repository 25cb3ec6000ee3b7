"""What Qdrant's collections hold, read as it gives it: by id, page by page, by nearness."""

from collections.abc import Iterator, Sequence
from typing import Any

from qdrant_client import QdrantClient, models

from warmclip.inference.arrays import Vector
from warmclip.store.calls import Calls

READ_BATCH = 256
"""Points in one answer."""

_EMBEDDED_PAGE = 10_000  # the embedded mode sorts all of its points again for every page


class CollectionReader:
    """Reads collections by their own names."""

    def __init__(self, client: QdrantClient, transport: Calls, *, is_embedded: bool) -> None:
        self._client = client
        self._transport = transport
        self._page_size = _EMBEDDED_PAGE if is_embedded else READ_BATCH

    def retrieve(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False
    ) -> list[models.Record]:
        """Those of these points that are there."""
        return self._transport(
            lambda: self._client.retrieve(collection, list(ids), with_vectors=with_vectors)
        )

    def scroll(
        self, collection: str, chosen: models.Filter | None, *, with_vectors: bool = False
    ) -> Iterator[models.Record]:
        """All points, or those that pass a filter."""
        page, following = self._page(collection, chosen, with_vectors, None)
        yield from page
        while following is not None:
            page, following = self._page(collection, chosen, with_vectors, following)
            yield from page

    def nearest(
        self,
        collection: str,
        vector: Vector,
        limit: int,
        *,
        chosen: models.Filter | None = None,
        with_payload: bool = True,
    ) -> list[models.ScoredPoint]:
        """The nearest of all points, or of those that pass a filter, best first."""
        query = vector.tolist()
        return self._transport(
            lambda: self._client.query_points(
                collection, query=query, query_filter=chosen, limit=limit, with_payload=with_payload
            )
        ).points

    def _page(
        self, collection: str, chosen: models.Filter | None, with_vectors: bool, start: Any
    ) -> tuple[list[models.Record], Any]:
        return self._transport(
            lambda: self._client.scroll(
                collection,
                scroll_filter=chosen,
                limit=self._page_size,
                offset=start,
                with_vectors=with_vectors,
            )
        )
