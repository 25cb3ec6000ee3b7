"""Health: whether this process, its services, and the whole of embedding and search work."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Generic, TypeVar

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from warmclip.doctor.dependencies import check_qdrant, find_qdrant_outage
from warmclip.errors import SpaceMismatch, WarmclipError
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.serve.threads import run_redis
from warmclip.serve.workers import read_answer
from warmclip.settings import Settings
from warmclip.work.broker import BROKER_ERRORS, as_ours
from warmclip.work.model_switch import find_differences

_CANARY_S = 10.0  # a worker may be at a chunk of pictures
_QDRANT_S = 2.0  # for one answer
_FRESH_S = 2.0  # an answer is shared for so long: each canary costs a worker some milliseconds

T = TypeVar("T")


class HealthCheck(BaseModel):
    """Whether one service works, and a sentence about it."""

    ok: bool
    detail: str


class HealthResponse(BaseModel):
    """Every service, and whether all of them work."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ok": True,
                    "redis": {"ok": True, "detail": "2 jobs wait, 1 worker"},
                    "worker": {"ok": True, "detail": "a text was embedded in 0.02 s on cpu"},
                    "qdrant": {"ok": True, "detail": "embedded, in a worker"},
                    "sessions": {"ok": True, "detail": "their scheduler runs"},
                }
            ]
        }
    )

    ok: bool
    redis: HealthCheck
    worker: HealthCheck
    qdrant: HealthCheck
    sessions: HealthCheck


class Cached(Generic[T]):
    """Calls a function at most once in so many seconds, however many ask."""

    def __init__(self, function: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._called_at = float("-inf")

    async def __call__(self) -> T:
        """What it returns now, or returned just now."""
        async with self._lock:
            if self._value is None or time.monotonic() - self._called_at > self._seconds:
                self._value = await self._function()
                self._called_at = time.monotonic()
            return self._value


async def check_health(context: AppContext) -> HealthResponse:
    """Check every service, all at once."""
    settings = context.settings
    redis, worker, qdrant = await asyncio.gather(
        _run_check(partial(_check_redis, context), settings),
        _run_check(partial(_check_worker, context), settings),
        _check_store(settings),
    )
    checks = {
        "redis": redis,
        "worker": worker,
        "qdrant": qdrant,
        "sessions": _check_sessions(context),
    }
    return HealthResponse(ok=all(check.ok for check in checks.values()), **checks)


async def find_outages(context: AppContext) -> list[str]:
    """Which of the services that every request needs do not answer, and why."""
    redis, qdrant = await asyncio.gather(
        _run_check(partial(_ping, context), context.settings),
        to_thread.run_sync(find_qdrant_outage, context.settings, _QDRANT_S),
    )
    return [*([] if redis.ok else [redis.detail]), *([] if qdrant is None else [qdrant])]


async def _ping(context: AppContext) -> str:
    await run_redis(context.sessions.ping)
    return "it answers"


async def _check_redis(context: AppContext) -> str:
    status = await run_redis(context.read_status)
    waiting = {queue.name: queue.queued for queue in status.queues}
    depths = ", ".join(f"{count} in {name!r}" for name, count in waiting.items())
    return f"jobs that wait: {depths or 'none'}; workers: {len(status.workers)}"


async def _check_worker(context: AppContext) -> str:
    began = time.monotonic()
    collection = context.settings.collection
    answer = await context.workers.call("canary", timeout_s=_CANARY_S, collection=collection)
    took_s = time.monotonic() - began
    providers, stored, in_use = read_answer(
        answer, lambda it: (dict(it["providers"]), it["found"], it.get("in_use"))
    )
    workers = (await run_redis(context.read_status)).workers
    differences = find_differences(workers, collection, in_use)
    if any(worker.trouble for worker in workers):
        raise SpaceMismatch("; ".join(differences))
    towers = ", ".join(f"{tower} on {name}" for tower, name in providers.items())
    found = "a stored picture was found" if stored else "nothing is stored yet"
    told = f"a text was embedded and {found} in {took_s:.2f} s, wait included; towers: {towers}"
    return "; ".join([told, *differences])


async def _check_store(settings: Settings) -> HealthCheck:
    if settings.qdrant_url is None:
        return HealthCheck(ok=True, detail="embedded: a worker owns it")
    state, detail = await to_thread.run_sync(check_qdrant, settings, _QDRANT_S)
    return HealthCheck(ok=state == "ok", detail=as_utf8(detail))


def _check_sessions(context: AppContext) -> HealthCheck:
    trouble = context.scheduler.trouble()
    return HealthCheck(ok=trouble is None, detail=trouble or "their scheduler runs")


async def _run_check(check: Callable[[], Awaitable[str]], settings: Settings) -> HealthCheck:
    try:
        return HealthCheck(ok=True, detail=as_utf8(await check()))
    except (WarmclipError, Problem) as exc:
        return HealthCheck(ok=False, detail=as_utf8(str(exc)))
    except BROKER_ERRORS as exc:
        return HealthCheck(ok=False, detail=as_utf8(str(as_ours(settings, exc))))


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of health; some monitors ask for the status alone (HEAD)."""
    router = APIRouter(tags=["operation"], responses=RESPONSES)
    health = Cached(partial(check_health, context), _FRESH_S)
    outages = Cached(partial(find_outages, context), _FRESH_S)

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez")
    async def get_liveness() -> Mapping[str, bool]:
        """Answer, as this process does. Needs no token; asks no service."""
        return {"ok": True}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz")
    async def get_readiness() -> Mapping[str, bool]:
        """Check that Redis, and a Qdrant server if one is used, answer. Needs no token."""
        if found := await outages():
            raise Problem(503, "; ".join(found))
        return {"ok": True}

    @router.head("/healthz", include_in_schema=False)
    @router.get(
        "/healthz",
        response_model=HealthResponse,
        responses={
            503: {
                "model": HealthResponse,
                "description": "A service does not work; the body says which.",
            }
        },
    )
    async def get_health() -> JSONResponse:
        """Have a worker embed a new text and find a stored picture; check Redis, Qdrant, sessions.

        The worker has 10 seconds, waiting included.
        """
        found = await health()
        return JSONResponse(found.model_dump(), status_code=200 if found.ok else 503)

    return router
