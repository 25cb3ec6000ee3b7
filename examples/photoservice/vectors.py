"""The application's collection in Qdrant: its own ids and payloads."""

import os
import uuid
from functools import cache
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.models import Distance, PointStruct, VectorParams

COLLECTION = "photoservice"


@cache
def client() -> QdrantClient:
    """This process's connection."""
    return QdrantClient(
        url=os.environ["QDRANT_URL"],
        trust_env=False,  # both ask macOS for its proxies
        check_compatibility=False,
    )


def point_id(path: str) -> str:
    """Made of the path, so that a job which runs twice writes the same point."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))


@cache
def create(dim: int) -> None:
    """Make the collection, if it is not there."""
    try:
        client().create_collection(
            COLLECTION, vectors_config=VectorParams(size=dim, distance=Distance.COSINE)
        )
    except UnexpectedResponse as exc:
        if exc.status_code != 409:  # it is there
            raise


def write(vectors: dict[str, list[float]]) -> None:
    """Store the vector of each path."""
    points = [
        PointStruct(id=point_id(path), vector=vector, payload={"path": path})
        for path, vector in vectors.items()
    ]
    if points:
        create(len(next(iter(vectors.values()))))
        client().upsert(COLLECTION, points)


def nearest(vector: list[float], limit: int) -> list[dict[str, Any]]:
    """The paths nearest to a vector, with their scores."""
    found = client().query_points(COLLECTION, query=vector, limit=limit).points
    return [{"path": (hit.payload or {})["path"], "score": hit.score} for hit in found]
