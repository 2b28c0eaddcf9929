"""What those who run the service see of it: metrics, and a line of json for each event."""

import json
import logging
import time
import uuid
from contextvars import ContextVar
from typing import Dict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

logger = logging.getLogger("service.requests")

# Of the request that is being answered: what its line in the log tells
facts: ContextVar[Dict] = ContextVar("facts")


class Metrics:
    """Prometheus's, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = {"registry": self.registry}
        self.requests = Counter("knet_requests", "Requests answered", ["path", "status"], **own)
        self.seconds = Histogram(
            "knet_request_seconds", "From the first byte to the last", buckets=SECONDS, **own
        )
        self.batch = Histogram(
            "knet_batch_pictures", "Pictures a run", buckets=(1, 2, 4, 8, 16, 32), **own
        )
        self.network = Histogram(
            "knet_network_seconds", "Of a run: network and results", buckets=SECONDS, **own
        )
        self.accepted = Gauge("knet_accepted_requests", "That are being answered", **own)
        self.waiting = Gauge("knet_waiting_pictures", "That wait for the network", **own)

    def of_batch(self, count: int, seconds: float) -> None:
        self.batch.observe(count)
        self.network.observe(seconds)


class Observer:
    """ASGI middleware: gives each request an id, counts it, and writes its line."""

    def __init__(self, app, metrics: Metrics, segment_path: str):
        self._app, self._metrics, self._segment_path = app, metrics, segment_path

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if given.isprintable() and 0 < len(given) <= 64 else uuid.uuid4().hex
        told = {"request_id": request_id, "method": scope["method"], "path": scope["path"]}
        facts.set(told)
        start, status = time.perf_counter(), 0

        async def send_with_id(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode("latin-1")),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start
            known = getattr(scope.get("route"), "path", "other")  # not whatever a client asks for
            self._metrics.requests.labels(known, status).inc()
            if scope["path"] == self._segment_path:
                self._metrics.seconds.observe(seconds)
            is_look = status == 200 and known in ("/healthz", "/readyz", "/metrics")
            told.update(status=status, seconds=round(seconds, 4))
            logger.log(logging.DEBUG if is_look else logging.INFO, "request", extra={"told": told})


class JsonLines(logging.Formatter):
    """A log record as a line of json."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def write_json_lines() -> None:
    """Let all loggers, uvicorn's too, write to stdout."""
    import sys

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
