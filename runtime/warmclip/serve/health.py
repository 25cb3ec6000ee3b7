"""Health: whether Redis, a worker, Qdrant and sessions work, by trying them."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from warmclip.doctor.dependencies import check_qdrant
from warmclip.errors import WarmclipError
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.settings import Settings
from warmclip.work.broker import BROKER_ERRORS, as_ours

_DEADLINE_S = 10.0  # a worker may be at a chunk of pictures
_FRESH_S = 2.0  # an answer is shared for so long: each canary costs a worker some milliseconds


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


class HealthMonitor:
    """Checks every service, at most every two seconds."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._latest: HealthResponse | None = None
        self._checked_at = float("-inf")

    def check(self) -> HealthResponse:
        """The health now, or less than two seconds ago."""
        with self._lock:
            if self._latest is None or time.monotonic() - self._checked_at > _FRESH_S:
                checks = {
                    "redis": _run_check(self._redis, self._context.settings),
                    "worker": _run_check(self._worker, self._context.settings),
                    "qdrant": self._qdrant(),
                    "sessions": self._sessions(),
                }
                self._latest = HealthResponse(
                    ok=all(check.ok for check in checks.values()), **checks
                )
                self._checked_at = time.monotonic()
            return self._latest

    def _redis(self) -> str:
        status = self._context.read_status()
        waiting = {queue.name: queue.queued for queue in status.queues}
        depths = ", ".join(f"{count} in {name!r}" for name, count in waiting.items())
        return f"jobs that wait: {depths or 'none'}; workers: {len(status.workers)}"

    def _worker(self) -> str:
        began = time.monotonic()
        answer = self._context.workers.call("canary", timeout_s=_DEADLINE_S)
        towers = ", ".join(f"{tower} on {name}" for tower, name in _pairs(answer["providers"]))
        took_s = time.monotonic() - began
        return f"a text was embedded in {took_s:.2f} s, wait included; towers: {towers}"

    def _qdrant(self) -> HealthCheck:
        if self._context.settings.qdrant_url is None:
            return HealthCheck(ok=True, detail="embedded: a worker owns it")
        state, detail = check_qdrant(self._context.settings)
        return HealthCheck(ok=state == "ok", detail=detail)

    def _sessions(self) -> HealthCheck:
        trouble = self._context.scheduler.trouble()
        return HealthCheck(ok=trouble is None, detail=trouble or "their scheduler runs")


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of health."""
    router = APIRouter(tags=["operation"], responses=RESPONSES)
    monitor = HealthMonitor(context)

    @router.get(
        "/healthz",
        responses={
            503: {
                "model": HealthResponse,
                "description": "A service does not work; the body says which.",
            }
        },
    )
    def get_health() -> HealthResponse:
        """Have a worker embed a new text within a deadline; check Redis, Qdrant and sessions."""
        health = monitor.check()
        if not health.ok:
            return JSONResponse(health.model_dump(), status_code=503)  # type: ignore[return-value]  # as FastAPI takes it
        return health

    @router.get("/readyz")
    def get_readiness() -> Mapping[str, bool]:
        """Check that Redis answers, so that requests can be taken. Needs no token."""
        context.sessions.ping()
        return {"ok": True}

    return router


def _run_check(check: Callable[[], str], settings: Settings) -> HealthCheck:
    try:
        return HealthCheck(ok=True, detail=check())
    except (WarmclipError, Problem) as exc:
        return HealthCheck(ok=False, detail=as_utf8(str(exc)))
    except BROKER_ERRORS as exc:
        return HealthCheck(ok=False, detail=as_utf8(str(as_ours(settings, exc))))


def _pairs(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), str(value)) for key, value in mapping.items()]
