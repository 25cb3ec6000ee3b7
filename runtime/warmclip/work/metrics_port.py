"""A worker's own `/metrics` and `/livez`, on a port that it listens on if asked.

`warmclip serve` tells of all workers what Redis has of them. This tells of one: its quarantine lies
on its machine, and it answers while Redis is away.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from warmclip.errors import SettingsError
from warmclip.settings import Settings
from warmclip.work.counters import CounterBuffer
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.metric_families import Families, build_info, count_families, read_quarantine
from warmclip.work.metrics_address import write_address

log = logging.getLogger(__name__)

_REQUEST_S = 5.0  # for one, from its first byte to the last of its answer
_MOST_AT_ONCE = 16  # requests; one more is hung up on
_POLL_S = 0.2


def read_worker_metrics(
    settings: Settings, counters: CounterBuffer, horse: WarmHorse | None
) -> Sequence[Metric]:
    """The metrics of one worker; without a horse, it has not reached Redis yet."""
    models = GaugeMetricFamily(
        "warmclip_worker_model_loaded", "Models of the horse", labels=["fingerprint"]
    )
    for fingerprint in horse.ready.models if horse is not None else ():
        models.add_metric([fingerprint], 1)
    return [
        build_info(),
        read_quarantine(settings),
        models,
        GaugeMetricFamily(
            "warmclip_worker_horse_up", "Whether it has a horse", bool(horse and horse.pid)
        ),
        *count_families(counters.totals, "warmclip_worker"),
    ]


@contextmanager
def metrics_port(
    address: tuple[str, int], read: Callable[[], Sequence[Metric]]
) -> Iterator[tuple[str, int]]:
    """Answer `/metrics` and `/livez` from threads while the block runs; yields the address.

    Args:
        address: to listen on; port 0: any.
        read: the metrics; called in a thread of the request.

    Raises:
        SettingsError: nobody can listen there.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)

    class Handler(_Handler):
        def answer_metrics(self) -> bytes:
            scrape = CollectorRegistry()
            scrape.register(Families(read()))
            return generate_latest(registry) + generate_latest(scrape)

    try:
        server = _Server(address, Handler)
    except OSError as exc:
        raise SettingsError(
            f"--metrics-port: {write_address(*address)} cannot be listened on: {exc.strerror}"
        ) from exc
    thread = threading.Thread(
        target=server.serve_forever, args=(_POLL_S,), name="warmclip-metrics", daemon=True
    )
    thread.start()
    host, port = str(server.server_address[0]), int(server.server_address[1])
    about = {"action": "metrics", "port": port}
    log.info("metrics on http://%s/metrics", write_address(host, port), extra=about)
    try:
        yield host, port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """A thread for each request: a slow client delays nobody else, nor the worker's end."""

    block_on_close = False  # else it waits for the threads

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._ends: dict[socket.socket, float] = {}  # when each connection's time is up
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many."""
        if len(self._ends) >= _MOST_AT_ONCE:
            self.shutdown_request(request)
            return
        self._ends[request] = time.monotonic() + _REQUEST_S
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._ends.pop(request, None)

    def service_actions(self) -> None:
        """At each poll: hang up on those whose time is up, however often they send a byte."""
        for request, end in list(self._ends.items()):
            if time.monotonic() > end:
                with suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._send(200, b'{"ok":true}', "application/json")
        elif path == "/metrics":
            self._send(200, self.answer_metrics(), CONTENT_TYPE_LATEST)
        else:
            self._send(404, b"use /metrics or /livez\n", "text/plain")

    def answer_metrics(self) -> bytes:
        """All of them, as text."""
        raise NotImplementedError

    def log_message(self, *_: Any) -> None:
        """Nothing: it is asked every few seconds."""

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
