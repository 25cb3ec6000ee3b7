"""Metrics for Prometheus: requests, the process, and what Redis tells of jobs and sessions."""

import time
from collections.abc import Mapping

from anyio import to_thread
from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, GCCollector, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmclip.doctor.dependencies import find_qdrant_outage
from warmclip.errors import QueueUnreachable
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES
from warmclip.serve.threads import run_redis
from warmclip.work.broker import BROKER_ERRORS
from warmclip.work.counters import POINTS
from warmclip.work.metric_families import Families, build_info, count_families, read_quarantine

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OUTCOMES = ("indexed", "unchanged", "reused", "skipped")
_STREAM = b"text/event-stream; charset=utf-8"
_PAGE = "/page/"
_QDRANT_S = 2.0  # for one answer
_MOST_COLLECTIONS = 100  # each is a label, and others may write to the same Redis
_REDIS_ERRORS: tuple[type[Exception], ...] = (QueueUnreachable, *BROKER_ERRORS)


class RequestTiming:
    """An ASGI middleware that times every request, by its route."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = Histogram(
            "warmclip_request_seconds",
            "Requests, until their response was sent",
            ("method", "route", "status"),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and observe how long it took."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        ended: float | None = None
        status, is_stream = 500, False

        async def observed_send(message: Message) -> None:
            nonlocal status, is_stream, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = (b"content-type", _STREAM) in message.get("headers", ())
            await send(message)
            if message.get("body") or ended is None:  # the rest of the request may be read later
                ended = time.perf_counter()

        try:
            await self._app(scope, receive, observed_send)
        finally:
            if not is_stream:  # it lasts as long as somebody listens
                method = scope["method"] if scope["method"] in _METHODS else "other"
                labels = (method, _route_label(scope), status)
                self._seconds.labels(*labels).observe((ended or time.perf_counter()) - began)


def _route_label(scope: Scope) -> str:
    """The route's path with its parameters' names: as many labels as there are routes."""
    path: str = getattr(scope.get("route"), "path", "none")
    return f"{_PAGE}*" if path.startswith(_PAGE) else path


def read_redis_metrics(context: AppContext) -> list[Metric]:
    """Read what Redis tells: counters, queues, workers and sessions."""
    counters = context.read_counters()
    images = CounterMetricFamily(
        "warmclip_images", "Pictures of training sessions, by outcome", labels=["outcome"]
    )
    for outcome in _OUTCOMES:
        images.add_metric([outcome], counters.get(outcome, 0))
    status = context.read_status()
    jobs = GaugeMetricFamily("warmclip_jobs", "Jobs by state", labels=["queue", "state"])
    oldest = GaugeMetricFamily(
        "warmclip_queue_oldest_seconds", "How long the next job has waited", labels=["queue"]
    )
    for queue in status.queues:
        for state in ("queued", "started", "failed"):
            jobs.add_metric([queue.name, state], getattr(queue, state))
        oldest.add_metric([queue.name], queue.oldest_s or 0.0)
    busy = sum(worker.state == "busy" for worker in status.workers)
    return [
        images,
        CounterMetricFamily(
            "warmclip_session_jobs", "Jobs of training sessions that ran", counters.get("jobs", 0)
        ),
        CounterMetricFamily(
            "warmclip_session_jobs_wait_seconds",
            "How long these had waited in their queue, all together",
            counters.get("waited_ms", 0) / 1000,
        ),
        *count_families(counters),
        _points(counters),
        jobs,
        oldest,
        GaugeMetricFamily("warmclip_workers", "Workers alive", len(status.workers)),
        GaugeMetricFamily("warmclip_workers_busy", "Workers that run a job", busy),
        GaugeMetricFamily("warmclip_dead_letters", "Pictures set aside", status.dead),
        GaugeMetricFamily(
            "warmclip_sessions_open", "Sessions under way", len(context.sessions.open_sessions())
        ),
    ]


def _points(counters: Mapping[str, int]) -> Metric:
    """How many pictures collections held when they were last counted."""
    points = GaugeMetricFamily(
        "warmclip_points", "Pictures stored, when they were last counted", labels=["collection"]
    )
    names = sorted(name for name in counters if name.startswith(POINTS))
    for name in names[:_MOST_COLLECTIONS]:
        points.add_metric([name.removeprefix(POINTS)], counters[name])
    return points


async def read_metrics(context: AppContext) -> list[Metric]:
    """Read every metric but those of requests; what cannot be read is left out, and said so."""
    metrics: list[Metric] = [
        GaugeMetricFamily(
            "warmclip_event_streams", "Event streams that are open", context.streams.open
        ),
        await to_thread.run_sync(read_quarantine, context.settings),
    ]
    try:
        metrics += await run_redis(read_redis_metrics, context)
        is_up = True
    except _REDIS_ERRORS:
        is_up = False
    metrics.append(GaugeMetricFamily("warmclip_redis_up", "Whether Redis answers", is_up))
    if context.settings.qdrant_url is not None:
        outage = await to_thread.run_sync(find_qdrant_outage, context.settings, _QDRANT_S)
        metrics.append(
            GaugeMetricFamily(
                "warmclip_qdrant_up", "Whether the Qdrant server answers", outage is None
            )
        )
    return metrics


def make_router(context: AppContext, registry: CollectorRegistry) -> APIRouter:
    """Make the route of metrics."""
    router = APIRouter(tags=["operation"], responses=RESPONSES)
    registry.register(Families([build_info()]))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "For Prometheus."}},
    )
    async def get_metrics() -> Response:
        """Get metrics in Prometheus' text format, whichever service is away."""
        scrape = CollectorRegistry()
        scrape.register(Families(await read_metrics(context)))
        text = generate_latest(registry) + generate_latest(scrape)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
