"""Points and spaces without a model: a direction and a payload of its own for each number."""

import uuid
from pathlib import Path

import numpy as np

from warmclip.inference.arrays import Vector
from warmclip.store.protocol import Hit, Payload, Point, Space

DIM = 16
SPACE = Space(fingerprint="0123456789abcdef" * 4, dim=DIM)
OTHER = Space(fingerprint="fedcba9876543210" * 4, dim=DIM)


def vector(number: int) -> Vector:
    """A direction of its own for each number."""
    row = np.random.default_rng(number).standard_normal(DIM).astype(np.float32)
    return row / np.linalg.norm(row)


def point(number: int, space: Space = SPACE) -> Point:
    """A point of its own for each number."""
    return Point(
        id=str(uuid.UUID(int=number + 1)),
        vector=vector(number),
        payload=Payload(
            path=f"/photos/{number % 10}/{number}.jpg",
            sha256=f"{number:064x}",
            size_bytes=number,
            mtime_ns=1_790_000_000_000_000_000 + number,
            width_px=640,
            height_px=480,
            fingerprint=space.fingerprint,
            provider="cpu",
            versions={"warmclip": "0.1.0"},
            indexed_at="2026-11-24T02:00:00+00:00",
        ),
    )


def hit(path: Path | str, score: float = 0.3) -> Hit:
    """A hit of which only path and score matter."""
    payload = Payload(
        path=str(path),
        sha256="",
        size_bytes=0,
        mtime_ns=0,
        width_px=0,
        height_px=0,
        fingerprint="",
        provider="",
        versions={},
        indexed_at="",
    )
    return Hit(score=score, id="", payload=payload)
