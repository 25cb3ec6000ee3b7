"""A Qdrant server's REST interface over its own engine (qdrant-edge), with faults on demand.

It answers what our store asks and nothing else, in the shapes of Qdrant's OpenAPI description.
It is no proof of what a real server does: for that, the same suite runs with QDRANT_URL set.
"""

import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qdrant_edge as edge

_READS = re.compile(r"^GET |^POST .*/points(/scroll|/count|/query)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a request instead of, or besides, an answer."""

    status: int | None = None  # answer with it, and do nothing
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0  # before anything else
    reset: bool = False  # cut the connection instead of answering ...
    done_before: bool = False  # ... after the work was done: only the answer is lost
    text: str | None = None  # answer with this instead of JSON
    cut: bool = False  # close the connection in the middle of the answer
    drip: bytes = b""  # answer with this, and then with a byte now and then, without end
    coded: bytes | None = None  # answer with this, which is said to be compressed
    coding: str = "gzip"  # and how


class Refused(Exception):
    """The engine or the interface says no: answered with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictMode:
    """Bounds of requests, as ``strict_mode_config`` has them; a request beyond one is refused."""

    max_query_limit: int = 10**9
    upsert_max_batchsize: int = 10**9
    filter_max_conditions: int = 10**9
    condition_max_size: int = 10**9
    status: int = 403  # since 1.17; 400 before

    def check(self, value: int, bound: str) -> None:
        """Refuse a value beyond a bound."""
        most = getattr(self, bound)
        if value > most:
            raise Refused(
                self.status,
                f'Forbidden: Limit exceeded {value} > {most} for "{bound}". '
                f"Help: Reduce it to or below {most}.",
            )

    def check_filter(self, only: Any) -> None:
        """Refuse a filter with too many conditions, or one with too many values."""
        conditions = list(_flat(only or {}))
        self.check(len(conditions), "filter_max_conditions")
        for it in conditions:
            values = it.get("has_id") or it.get("match", {}).get("any") or ()
            self.check(len(values), "condition_max_size")


def _flat(only: dict[str, Any]) -> Iterator[dict[str, Any]]:
    clauses = [it for name in ("must", "must_not", "should") for it in only.get(name) or []]
    for it in clauses:
        if it.keys() & {"must", "must_not", "should"}:
            yield from _flat(it)
        else:
            yield it


class Engine:
    """Collections and aliases over one shard each.

    Attributes:
        strict_mode: what requests are held to.
        read_only: whether every key may only read.
        hides_aliases: whether aliases are hidden, as from a key for some collections.
    """

    def __init__(self, folder: Path) -> None:
        self.strict_mode = StrictMode()
        self.read_only = False
        self.hides_aliases = False
        self._folder = folder
        self._shards: dict[str, edge.EdgeShard] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._aliases: dict[str, str] = {}
        self._created = 0

    def close(self) -> None:
        """Release the shards."""
        for shard in self._shards.values():
            shard.close()

    def list_aliases(self) -> dict[str, Any]:
        """GET /aliases."""
        pairs = () if self.hides_aliases else self._aliases.items()
        return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in pairs]}

    def change_aliases(self, actions: list[dict[str, Any]]) -> bool:
        """POST /collections/aliases: all or nothing, so it is worked out on a copy."""
        aliases = dict(self._aliases)
        for action in actions:
            match action:
                case {"delete_alias": {"alias_name": alias}}:
                    aliases.pop(alias, None)
                case {"create_alias": {"alias_name": alias, "collection_name": collection}}:
                    if collection not in self._shards:
                        raise Refused(404, f"Not found: Collection `{collection}`")
                    if alias in self._shards:
                        raise Refused(409, f"Collection `{alias}` already exists!")
                    aliases[alias] = collection
                case _:
                    raise Refused(400, f"unknown action {action}")
        self._aliases = aliases
        return True

    def list_collections(self) -> dict[str, Any]:
        """GET /collections."""
        return {"collections": [{"name": name} for name in self._shards]}

    def create(self, name: str, config: dict[str, Any]) -> bool:
        """PUT /collections/{name}."""
        if name in self._shards or name in self._aliases:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        if config["vectors"]["distance"] != "Cosine":
            raise Refused(400, "only Cosine is tested")
        self._created += 1
        path = self._folder / str(self._created)
        path.mkdir(parents=True)
        params = edge.EdgeVectorParams(
            size=config["vectors"]["size"], distance=edge.Distance.Cosine
        )
        self._shards[name] = edge.EdgeShard.create(str(path), edge.EdgeConfig(vectors=params))
        self._configs[name] = config
        return True

    def info(self, name: str) -> dict[str, Any]:
        """GET /collections/{name}."""
        shard = self._shard(name)
        told = shard.info()
        kinds = {
            field: {"data_type": str(it.data_type).rpartition(".")[2].lower(), "points": it.points}
            for field, it in told.payload_schema.items()
        }
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": told.segments_count,
            "points_count": told.points_count,
            "indexed_vectors_count": told.indexed_vectors_count,
            "config": _config(self._configs[self._aliases.get(name, name)]),
            "payload_schema": kinds,
        }

    def create_index(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """PUT /collections/{name}/index."""
        kinds = {
            "keyword": edge.PayloadSchemaType.Keyword,
            "integer": edge.PayloadSchemaType.Integer,
        }
        self._shard(name).update(
            edge.UpdateOperation.create_field_index(body["field_name"], kinds[body["field_schema"]])
        )
        return {"operation_id": 0, "status": "completed"}

    def drop(self, name: str) -> bool:
        """DELETE /collections/{name}, and its aliases with it."""
        self._shards.pop(name).close()
        self._aliases = {a: c for a, c in self._aliases.items() if c != name}
        return True

    def upsert(self, name: str, points: list[dict[str, Any]]) -> dict[str, Any]:
        """PUT /collections/{name}/points."""
        self.strict_mode.check(len(points), "upsert_max_batchsize")
        made = [edge.Point(p["id"], p["vector"], p["payload"]) for p in points]
        self._shard(name).update(edge.UpdateOperation.upsert_points(made))
        return {"operation_id": 0, "status": "completed"}

    def delete(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST /collections/{name}/points/delete."""
        self.strict_mode.check_filter(body["filter"])
        chosen = _filter(body["filter"])
        self._shard(name).update(edge.UpdateOperation.delete_points_by_filter(chosen))
        return {"operation_id": 0, "status": "completed"}

    def delete_payload(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST /collections/{name}/points/payload/delete."""
        self.strict_mode.check_filter(body["filter"])
        chosen = _filter(body["filter"])
        self._shard(name).update(
            edge.UpdateOperation.delete_payload_by_filter(chosen, body["keys"])
        )
        return {"operation_id": 0, "status": "completed"}

    def set_payload(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST /collections/{name}/points/payload."""
        self._shard(name).update(edge.UpdateOperation.set_payload(body["points"], body["payload"]))
        return {"operation_id": 0, "status": "completed"}

    def retrieve(self, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """POST /collections/{name}/points."""
        self.strict_mode.check(len(body["ids"]), "max_query_limit")
        found = self._shard(name).retrieve(body["ids"], True, bool(body.get("with_vector")))
        return [_record(it) for it in found]

    def scroll(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST /collections/{name}/points/scroll."""
        self.strict_mode.check(body["limit"], "max_query_limit")
        self.strict_mode.check_filter(body.get("filter"))
        request = edge.ScrollRequest(
            offset=body.get("offset"),
            limit=body["limit"],
            filter=_filter(body["filter"]) if body.get("filter") else None,
            with_payload=True,
            with_vector=bool(body.get("with_vector")),
        )
        found, following = self._shard(name).scroll(request)
        offset = None if following is None else str(following)
        return {"points": [_record(it) for it in found], "next_page_offset": offset}

    def count(self, name: str, body: dict[str, Any]) -> dict[str, int]:
        """POST /collections/{name}/points/count."""
        chosen = _filter(body["filter"]) if body.get("filter") else None
        return {"count": self._shard(name).count(edge.CountRequest(exact=True, filter=chosen))}

    def query(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST /collections/{name}/points/query."""
        self.strict_mode.check(body["limit"], "max_query_limit")
        self.strict_mode.check_filter(body.get("filter"))
        query = edge.Query.Nearest(body["query"]["nearest"])
        request = edge.QueryRequest(
            limit=body["limit"],
            query=query,
            filter=_filter(body["filter"]) if body.get("filter") else None,
            with_payload=True,
        )
        found = self._shard(name).query(request)
        return {"points": [_record(it) | {"version": 0, "score": it.score} for it in found]}

    def _shard(self, name: str) -> edge.EdgeShard:
        collection = self._aliases.get(name, name)
        if collection not in self._shards:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._shards[collection]


class QdrantStandIn:
    """The server: its address, the faults to come, and what was asked for."""

    def __init__(self, engine: Engine, port: int = 0) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._faults: list[tuple[str, Fault]] = []
        self.requests: Counter[str] = Counter()
        self.last_query: dict[str, Any] = {}
        self.credentials: set[tuple[str | None, str | None]] = set()  # Authorization, api-key
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in._serve(self)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, fault: Fault, *, times: int = 1, on: str = "") -> None:
        """Let the next requests whose "METHOD /path" has ``on`` in it meet a fault."""
        self._faults.extend([(on, fault)] * times)

    def clear_faults(self) -> None:
        """Let no further request meet one."""
        self._faults.clear()

    @property
    def faults_to_come(self) -> int:
        """How many of them no request has met yet."""
        return len(self._faults)

    def close(self) -> None:
        """Stop serving; the engine stays."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length) or b"null")
        line = f"{handler.command} {unquote(urlsplit(handler.path).path)}"
        with self._lock:
            self.requests[re.sub(r"(/collections)/(?!aliases)[^/]+", r"\1/*", line)] += 1
            self.credentials.add(
                (handler.headers.get("Authorization"), handler.headers.get("api-key"))
            )
            fault = self._next_fault(line)
        time.sleep(fault.delay_s)
        if fault.status is not None:
            reason = {"status": {"error": f"injected {fault.status}"}, "time": 0.0}
            _answer(handler, fault.status, reason, fault.headers)
        elif fault.drip:
            _drip(handler, fault.drip)
        elif fault.coded is not None:
            _send(handler, 200, fault.coded, {"Content-Encoding": fault.coding})
        elif fault.text is not None:
            _send(handler, 200, fault.text.encode(), {})
        elif fault.reset and not fault.done_before:
            _reset(handler.connection)
        else:
            with self._lock:
                status, reply = self._reply(line, body)
            if fault.reset:
                _reset(handler.connection)
            else:
                _answer(handler, status, reply, {}, cut=fault.cut)

    def _query(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.last_query = body
        return self.engine.query(name, body)

    def _next_fault(self, line: str) -> Fault:
        for index, (on, _) in enumerate(self._faults):
            if on in line:
                return self._faults.pop(index)[1]
        return Fault()

    def _reply(self, line: str, body: Any) -> tuple[int, dict[str, Any]]:
        try:
            return 200, {"result": self._route(line, body), "status": "ok", "time": 0.0}
        except Refused as exc:
            return exc.status, {"status": {"error": str(exc)}, "time": 0.0}
        except Exception as exc:  # the engine raises nothing more specific
            return 400, {"status": {"error": str(exc)}, "time": 0.0}

    def _route(self, line: str, body: Any) -> Any:
        engine = self.engine
        if engine.read_only and not _READS.search(line):
            raise Refused(403, "Forbidden: Global manage access is required")
        routes: list[tuple[str, Callable[[str], Any]]] = [
            ("GET /aliases", lambda _: engine.list_aliases()),
            ("POST /collections/aliases", lambda _: engine.change_aliases(body["actions"])),
            ("GET /collections", lambda _: engine.list_collections()),
            ("PUT /collections/([^/]+)", lambda name: engine.create(name, body)),
            ("DELETE /collections/([^/]+)", engine.drop),
            ("GET /collections/([^/]+)", engine.info),
            ("PUT /collections/([^/]+)/index", lambda name: engine.create_index(name, body)),
            ("PUT /collections/([^/]+)/points", lambda name: engine.upsert(name, body["points"])),
            ("POST /collections/([^/]+)/points", lambda name: engine.retrieve(name, body)),
            ("POST /collections/([^/]+)/points/scroll", lambda name: engine.scroll(name, body)),
            ("POST /collections/([^/]+)/points/count", lambda name: engine.count(name, body)),
            ("POST /collections/([^/]+)/points/query", lambda name: self._query(name, body)),
            (
                "POST /collections/([^/]+)/points/payload",
                lambda name: engine.set_payload(name, body),
            ),
            (
                "POST /collections/([^/]+)/points/payload/delete",
                lambda name: engine.delete_payload(name, body),
            ),
            ("POST /collections/([^/]+)/points/delete", lambda name: engine.delete(name, body)),
        ]
        for pattern, route in routes:
            if match := re.fullmatch(pattern, line):
                return route(match[1] if match.groups() else "")
        raise Refused(404, f"the stand-in knows no {line}")


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[QdrantStandIn]:
    """A running stand-in that keeps its collections below a folder."""
    engine = Engine(folder)
    stand_in = QdrantStandIn(engine, port)
    try:
        yield stand_in
    finally:
        stand_in.close()
        engine.close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


def _answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    reply: dict[str, Any],
    headers: dict[str, str],
    *,
    cut: bool = False,
) -> None:
    _send(handler, status, json.dumps(reply).encode(), headers, cut=cut)


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    content: bytes,
    headers: dict[str, str],
    *,
    cut: bool = False,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2] if cut else content)
    handler.close_connection = handler.close_connection or cut


def _drip(handler: BaseHTTPRequestHandler, start: bytes) -> None:
    handler.wfile.write(start)
    while True:  # until nobody reads it
        time.sleep(0.2)
        handler.wfile.write(b" ")


def _reset(connection: socket.socket) -> None:
    # Lingering for no time makes close send RST, as a killed server does.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _record(found: Any) -> dict[str, Any]:
    return {"id": str(found.id), "payload": found.payload, "vector": found.vector}


def _config(made: dict[str, Any]) -> dict[str, Any]:
    return {
        "params": {"shard_number": 1, "replication_factor": 1} | made,
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
        "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 5},
        "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
    }


def _filter(wanted: dict[str, Any]) -> edge.Filter:
    unknown = wanted.keys() - {"must", "must_not", "should"}
    if unknown:
        raise Refused(400, f"the stand-in knows no {unknown} in a filter")
    return edge.Filter(
        must=[_condition(it) for it in wanted.get("must") or []],
        must_not=[_condition(it) for it in wanted.get("must_not") or []],
        should=[_condition(it) for it in wanted.get("should") or []] or None,
    )


def _condition(wanted: dict[str, Any]) -> Any:
    match wanted:
        case {"key": key, "match": {"any": values}}:
            return edge.FieldCondition(key=key, match=edge.MatchAny(any=values))
        case {"key": key, "match": {"value": value}}:
            return edge.FieldCondition(key=key, match=edge.MatchValue(value=value))
        case {"key": key, "range": span}:
            return edge.FieldCondition(
                key=key, range=edge.RangeFloat(gte=span.get("gte"), lt=span.get("lt"))
            )
        case {"must": _} | {"must_not": _} | {"should": _}:
            return _filter(wanted)
        case {"has_id": ids}:
            return edge.HasIdCondition(point_ids=set(ids))
        case {"is_empty": {"key": key}}:
            return edge.IsEmptyCondition(key=key)
    raise Refused(400, f"the stand-in knows no condition {wanted}")
