"""An application on rq 2 that has warmclip[client], run by an interpreter of its own.

It reads a picture from stdin and asks workers at REDIS_URL. Its answer is one line of JSON.
"""

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import sys
from typing import Any

import warmclip
from warmclip import AsyncClient, Client, ImageUnreadable, Settings, ThroughQueue

TEXTS = ["a red circle", "a blue square", "ein gr\u00fcner Stern"]


def main() -> None:
    """Ask in each of the ways that the client has."""
    settings = Settings.from_env(os.environ)
    picture = sys.stdin.buffer.read()
    answer: dict[str, Any] = {
        "rq": importlib.metadata.version("rq"),
        "missing": [
            name
            for name in ("onnxruntime", "qdrant_client", "pydantic", "PIL", "typer")
            if importlib.util.find_spec(name) is None
        ],
    }
    with Client(ThroughQueue(settings)) as client:
        answer["dim"] = client.space().dim
        answer["texts"] = client.embed_texts(TEXTS).tolist()
        answer["picture"] = client.embed_image(picture).tolist()
        try:
            client.embed_image(b"no picture")
        except ImageUnreadable as exc:
            answer["unreadable"] = str(exc)
    answer["together"] = asyncio.run(_embed_together(settings))
    answer["rq is loaded"] = "rq" in sys.modules
    answer["own job"] = _run_own_job(settings)
    try:
        _ = warmclip.Encoder
    except ModuleNotFoundError as exc:
        answer["encoder"] = str(exc)
    print(json.dumps(answer))  # noqa: T201 - its answer


async def _embed_together(settings: Settings) -> list[list[float]]:
    async with AsyncClient(ThroughQueue(settings)) as client:
        vectors = await asyncio.gather(*map(client.embed_text, TEXTS))
    return [vector.tolist() for vector in vectors]


def _run_own_job(settings: Settings) -> Any:
    """Send a job with the application's own RQ, beside the client."""
    from redis import Redis
    from rq import Queue
    from rq.serializers import JSONSerializer

    assert settings.redis_url is not None
    queue = Queue(connection=Redis.from_url(settings.redis_url), serializer=JSONSerializer)
    job = queue.enqueue("warmclip.work.jobs.embed_texts", TEXTS[:1])
    result = job.latest_result(timeout=60)
    return result.return_value if result else None


if __name__ == "__main__":
    main()
