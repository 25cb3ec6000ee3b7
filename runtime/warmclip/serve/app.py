"""The app: every route, every problem, and the gate in front of them."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI, Security
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry

from warmclip.serve import (
    assets,
    doctor,
    embedding,
    events,
    health,
    metrics,
    problems,
    search,
    sessions,
    thumbnails,
)
from warmclip.serve.admission import AdmissionMiddleware
from warmclip.serve.auth import Token
from warmclip.serve.context import THREADS, AppContext
from warmclip.serve.rate_limiter import RateLimiter
from warmclip.serve.unknown_parameters import refuse_unknown_parameters

_ABOUT = """
Pictures into Qdrant and out again, through warm workers that never fork a model.

Every error is a problem (RFC 9457) whose `detail` says what to do.
"""


@asynccontextmanager
async def _threads(_app: FastAPI) -> AsyncIterator[None]:
    """More threads than are the rule: most of them only wait."""
    current_default_thread_limiter().total_tokens = THREADS
    yield


def create_app(
    services: AppContext, token: Token | None = None, rate: RateLimiter | None = None
) -> FastAPI:
    """The app on these services.

    Args:
        services: what it stands on; its foreman is started and stopped by the caller.
        token: that requests must show.
        rate: how often one address may ask.
    """
    registry = CollectorRegistry()
    app = FastAPI(
        title="warmclip",
        version=importlib.metadata.version("warmclip"),
        description=_ABOUT,
        openapi_url="/openapi.json",
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_threads,
        dependencies=[
            *([Security(HTTPBearer(auto_error=False))] if token else []),
            Depends(refuse_unknown_parameters),
        ],
    )
    problems.install(app, services.settings)
    page = assets.read_assets()
    for routes in (
        assets.router(page),
        events.router(services),
        sessions.router(services),
        search.router(services),
        thumbnails.router(services),
        embedding.router(services),
        health.router(services),
        doctor.router(services),
        metrics.router(services, registry),
    ):
        app.include_router(routes)
    app.add_middleware(
        AdmissionMiddleware, hosts=services.hosts, token=token, open_paths=page, rate=rate
    )
    app.add_middleware(metrics.RequestTiming, registry=registry)
    return app
