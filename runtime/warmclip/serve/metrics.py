"""Metrics for Prometheus: the server's requests, and what Redis tells of jobs and sessions."""

import time
from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmclip.inference.selection.quarantine import Quarantine
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OUTCOMES = ("indexed", "unchanged", "reused", "skipped")
_STREAM = b"text/event-stream; charset=utf-8"


class RequestTiming:
    """An ASGI middleware that times every request, by its route."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = Histogram(
            "warmclip_request_seconds",
            "Requests, until their answer was sent",
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
        status, is_stream = 500, False

        async def observed_send(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = (b"content-type", _STREAM) in message.get("headers", ())
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            if not is_stream:  # it lasts as long as somebody listens
                self._seconds.labels(method, route, status).observe(time.perf_counter() - began)


class QueueCollector(Collector):
    """Metrics of jobs, sessions and providers, read at each scrape."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        """Describe nothing, so that registering the collector does not ask Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read every metric."""
        counters = self._context.read_counters()
        images = CounterMetricFamily(
            "warmclip_images", "Pictures of training sessions, by outcome", labels=["outcome"]
        )
        for outcome in _OUTCOMES:
            images.add_metric([outcome], counters.get(outcome, 0))
        yield images
        yield CounterMetricFamily(
            "warmclip_session_jobs", "Jobs of training sessions that ran", counters.get("jobs", 0)
        )
        yield CounterMetricFamily(
            "warmclip_session_jobs_wait_seconds",
            "How long these had waited in their queue, all together",
            counters.get("waited_ms", 0) / 1000,
        )
        yield CounterMetricFamily(
            "warmclip_horses_started",
            "Processes that workers had run jobs",
            counters.get("horses", 0),
        )
        yield from self._collect_queues()
        quarantined = GaugeMetricFamily(
            "warmclip_provider_quarantined", "Passed over on this machine", labels=["provider"]
        )
        for provider in Quarantine(self._context.settings.home).active():
            quarantined.add_metric([provider], 1)
        yield quarantined

    def _collect_queues(self) -> Iterator[Metric]:
        status = self._context.read_status()
        jobs = GaugeMetricFamily("warmclip_jobs", "Jobs by state", labels=["queue", "state"])
        for queue in status.queues:
            for state in ("queued", "started", "failed"):
                jobs.add_metric([queue.name, state], getattr(queue, state))
        yield jobs
        yield GaugeMetricFamily("warmclip_workers", "Workers alive", len(status.workers))
        yield GaugeMetricFamily("warmclip_dead_letters", "Pictures set aside", status.dead)
        sessions = len(self._context.sessions.open_sessions())
        yield GaugeMetricFamily("warmclip_sessions_open", "Sessions under way", sessions)
        streams = self._context.streams.open
        yield GaugeMetricFamily("warmclip_event_streams", "Event streams that are open", streams)


def make_router(context: AppContext, registry: CollectorRegistry) -> APIRouter:
    """Make the route of metrics."""
    router = APIRouter(tags=["operation"], responses=RESPONSES)
    queue_registry = CollectorRegistry()
    queue_registry.register(QueueCollector(context))

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "For Prometheus."}},
    )
    def get_metrics() -> Response:
        """Get metrics in Prometheus' text format."""
        text = generate_latest(registry) + generate_latest(queue_registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
